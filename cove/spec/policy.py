"""Where a machine may begin conversations, as it is asked for by ``--network-policy``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from cove.errors import UsageError
from cove.spec.values import bad

MOST = 256
"""Addresses of one machine."""
PROTOCOLS = ("tcp", "udp", "icmp")
FORM = "deny-all, allow=dns or allow=ADDRESS[/BITS][:PORT[-PORT]][/PROTOCOL]"
EXAMPLE = "write allow=10.0.0.0/8:443/tcp or allow=[fd00::/8]:443/tcp"


class Allow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Addresses, and what of them."""

    network: str
    """``10.0.0.0/8``."""
    first: int = 0
    """Port; 0: any, and what has no ports."""
    last: int = 0
    protocol: str = ""
    """Empty: any; with a port tcp and udp."""

    def __str__(self) -> str:
        """As it may be typed."""
        ports = f":{self.first}" if self.first else ""
        if self.last > self.first:
            ports += f"-{self.last}"
        where = f"[{self.network}]" if ":" in self.network else self.network
        return f"allow={where}{ports}{'/' + self.protocol if self.protocol else ''}"


class Policy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is not allowed is refused."""

    allow: tuple[Allow, ...] = ()
    dns: bool = False
    """The name server of its networks, and what that asks others for it."""

    def words(self) -> tuple[str, ...]:
        found = (*map(str, self.allow), *(("allow=dns",) if self.dns else ()))
        return found or ("deny-all",)


def parse_policy(text: str) -> Policy:
    if text == "deny-all":
        return Policy()
    kind, _, what = text.partition("=")
    if kind != "allow" or not what:
        raise bad("network policy", text, f"not {FORM}", hint=EXAMPLE)
    if what == "dns":
        return Policy(dns=True)
    return Policy((_allow(what, text),))


def _allow(what: str, text: str) -> Allow:
    import ipaddress

    rest, slash, protocol = what.rpartition("/")
    if not slash or re.fullmatch(r"[0-9]+\]?(:.*)?", protocol):
        rest, protocol = what, ""
    elif protocol not in PROTOCOLS:
        raise bad("network policy", text, f'no protocol of {", ".join(PROTOCOLS)} is called '
                  f'"{protocol}"', hint=EXAMPLE)  # fmt: skip
    address, ports = _split(rest, text)
    try:
        network = ipaddress.ip_network(address)
    except ValueError as error:
        reason = "it is no address: names may lead elsewhere tomorrow"
        if "host bits" in str(error):
            reason = f"the network is {ipaddress.ip_network(address, strict=False)}"
        raise bad("network policy", text, reason, hint=EXAMPLE) from None
    first, last = _range(ports, text) if ports else (0, 0)
    if first and protocol == "icmp":
        raise bad("network policy", text, "icmp has no ports", hint=EXAMPLE)
    return Allow(str(network), first, last, protocol)


def _split(words: str, text: str) -> tuple[str, str]:
    """Address and ports; an IPv6 address with ports is in brackets."""
    if words.startswith("["):
        address, bracket, ports = words[1:].partition("]")
        if not bracket or (ports and not ports.startswith(":")):
            raise bad("network policy", text, f"not {FORM}", hint=EXAMPLE)
        return address, ports[1:]
    if words.count(":") > 1:
        return words, ""
    address, colon, ports = words.partition(":")
    if colon and not ports:
        raise bad("network policy", text, f"not {FORM}", hint=EXAMPLE)
    return address, ports


def _range(words: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", words)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65535:
        raise bad("network policy", text, f'"{words}" is no port, and no range of them',
                  hint=EXAMPLE)  # fmt: skip
    return first, last


def together(policies: Iterable[Policy]) -> Policy | None:
    """What several flags say; None: there are none."""
    found = tuple(policies)
    if not found:
        return None
    allow = tuple(dict.fromkeys(each for policy in found for each in policy.allow))
    return Policy(allow, any(policy.dns for policy in found))


def check_policy(policy: Policy) -> None:
    """Of a spec that may come from a program."""
    if len(policy.allow) > MOST:
        raise UsageError(f"cannot allow a machine more than {MOST} networks")
    for each in policy.allow:
        if each.protocol and each.protocol not in PROTOCOLS:
            raise UsageError("cannot use such a network policy", origin="--network-policy")
        if parse_policy(str(each)) != Policy((each,)):
            raise UsageError("cannot use such a network policy", origin=f"--network-policy {each}")
