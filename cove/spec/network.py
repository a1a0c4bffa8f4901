"""What the user asked a network to be, and how its words are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from cove.errors import Unsupported, UsageError
from cove.spec.values import bad

ALONE = ("none", "host")
"""Modes of a machine that are no networks."""

DEFAULT_NETWORK = "bridge"
"""Made when somebody first joins it."""

PREDEFINED = (DEFAULT_NETWORK, *ALONE)
"""As Docker has them: nobody makes or removes one."""

ASKED_FOR = "default"
"""What a spec says that names no network: the daemon decides. No record says it."""

CARDS = 3
"""Of every virtual machine: microvm has room for eight devices, of which three are disks and
channel.
"""

OF_MACHINE = "container:"
"""``container:NAME``: the network of another machine."""

RESERVED = (*ALONE, "default", "container")


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine's wish to be on a network."""

    network: str
    """Name or id, as typed."""
    ip: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    """What else the machine is called there."""
    ip6: str = ""
    forwards: bool = False
    """It may send what is not from itself: it is a router."""
    links: tuple[str, ...] = ()
    """What others are called by this machine alone: ``NAME:ALIAS``."""
    driver_options: dict[str, str] = {}
    """What somebody said to a driver that is not cove's: kept, shown, and without a meaning."""


class NetworkSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    driver: str = "bridge"
    subnet: str = ""
    """``10.1.2.0/24``; empty: one is chosen that the host has no route to."""
    gateway: str = ""
    """The host's address in it; empty: the first."""
    range: str = ""
    """Machines get addresses of this part of the subnet; empty: of all of it."""
    ipv6: bool = False
    subnet6: str = ""
    """``fd00:1::/64``; empty, with ``ipv6``: one is chosen."""
    gateway6: str = ""
    range6: str = ""
    reserved: dict[str, str] = {}
    """Addresses that no machine is given unless it asks, by what has them."""
    internal: bool = False
    """No way out of it, not even to the host."""
    labels: dict[str, str] = {}
    ipam_options: dict[str, str] | None = {}
    """Always empty; None: the client did not even say so, and reads back that it did not."""


def machine_of(network: str) -> str:
    """Whose network it is, if it is another machine's; else empty."""
    return network[len(OF_MACHINE) :] if network.startswith(OF_MACHINE) else ""


def parse_network_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_. -]{0,126}[A-Za-z0-9_.-])?", text):
        raise bad("network name", text, "not letters, digits, spaces, _ . - that begin with one of "
                  "the first two", hint="write web or web-1")  # fmt: skip
    if text in RESERVED:
        raise bad("network name", text, "cove has a meaning of its own for it")
    return text


def parse_driver(text: str) -> str:
    if text != "bridge":
        raise Unsupported(f"cannot use the driver {text}: cove has only bridge")
    return text


def parse_subnet(text: str) -> str:
    """A network, written as itself: no bits behind the prefix."""
    import ipaddress  # 5 ms to import, for a rare option

    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise bad("subnet", text, "not ADDRESS/BITS", hint="write 10.1.2.0/24") from None
    shown, _, bits = text.partition("/")
    if found.network_address != ipaddress.ip_address(shown):
        raise bad("subnet", text, f"the network is {found}", hint=f"write {found}")
    least, most = (8, 29) if found.version == 4 else (16, 125)
    if not bits or not least <= found.prefixlen <= most:
        raise bad("subnet", text, f"its prefix is not between {least} and {most}")
    if found.is_multicast or found.is_loopback or found.is_link_local or found.is_unspecified:
        raise bad("subnet", text, "these addresses are for no machine")
    return str(found)


_OPTIONS = ("name", "alias", "ip", "ip6", "mac-address", "driver-opt")
_MANY = ("alias", "driver-opt")
LINK_LOCAL = "a machine's link-local address follows from its MAC address"
_NOT_HERE = {
    "link-local-ip": LINK_LOCAL,
    "gw-priority": "the first network that leads out is the way out",
}


def parse_connection(text: str) -> Connection:
    """A network's name, or Docker's long form: ``name=web,alias=db,ip=10.1.2.3``. Whether there is
    such a network is known elsewhere.
    """
    if not re.match(r"\w[\w-]*=", text):
        return Connection(_parse_mode(text))
    found: dict[str, list[str]] = {}
    for word in text.split(","):
        key, _, value = word.partition("=")
        key = key.strip().lower()
        if key in _NOT_HERE:
            raise Unsupported(f"cannot use {word} of a network: {_NOT_HERE[key]}")
        if key not in _OPTIONS or not value:
            raise bad(
                "network", text, f'"{word}" is none of {", ".join(f"{name}=" for name in _OPTIONS)}'
            )
        if key not in _MANY and key in found:
            raise bad("network", text, f"{key}= is there twice")
        found.setdefault(key, []).append(value)
    if "name" not in found:
        raise bad("network", text, "it has no name", hint="write name=web,alias=db")
    return Connection(
        _parse_mode(found["name"][0]),
        ip=parse_ipv4(found["ip"][0]) if "ip" in found else "",
        ip6=parse_ipv6(found["ip6"][0]) if "ip6" in found else "",
        mac=parse_mac(found["mac-address"][0]) if "mac-address" in found else "",
        aliases=tuple(dict.fromkeys(parse_alias(word) for word in found.get("alias", ()))),
        forwards=[False, *map(parse_driver_option, found.get("driver-opt", ()))][-1],
    )


FORWARDING = "forwarding"


def parse_driver_option(text: str) -> bool:
    """Of a machine's place on a network: whether it forwards, which is all there is to be said."""
    name, _, value = text.partition("=")
    if name != FORWARDING:
        raise Unsupported(
            f"cannot use the driver option {name} of a network: cove has only {FORWARDING}=true",
            origin=f"driver-opt={text}",
        )
    if value not in ("true", "false"):
        raise bad("driver option", text, "neither true nor false", hint=f"write {FORWARDING}=true")
    return value == "true"


OURS = "com.docker.network."
"""Where the names of options begin that mean something to Docker's own drivers."""


def kept_option(name: str, value: str) -> None:
    """An option that may be kept without a meaning: one of somebody else's driver."""
    if name == FORWARDING or name.startswith(OURS):
        raise Unsupported(
            f"cannot use the driver option {name} of a network: cove has only {FORWARDING}=true",
            origin=f"driver-opt={name}={value}",
        )


def parse_reserved(text: str) -> tuple[str, str]:
    """``NAME=ADDRESS``, as ``--aux-address`` has it."""
    name, _, address = text.partition("=")
    if not name or not address:
        raise bad("reserved address", text, "not NAME=ADDRESS", hint="write printer=10.1.2.9")
    return name, parse_gateway(address)


def _parse_mode(text: str) -> str:
    if not text:
        raise bad("network", text, "it has no name", hint="write none, host, or a network's name")
    return text


def parse_default(text: str) -> str:
    """The setting: on which network a machine is that names none."""
    word = text.strip()
    if word == "host":
        raise bad("default network", word, "machines on the host's own network say so themselves",
                  hint="none, bridge, or a network's name")  # fmt: skip
    return word if word == "none" else parse_network_name(word or DEFAULT_NETWORK)


def parse_alias(text: str) -> str:
    """As a name server could be asked for it."""
    label = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    if len(text) > 253 or not re.fullmatch(rf"{label}(\.{label})*", text):
        raise bad("alias", text, "not letters, digits, _ and -, with dots between at most 63",
                  hint="write db or db.internal")  # fmt: skip
    return text


def parse_range(text: str) -> str:
    """Part of a subnet: like one, but down to a single address."""
    import ipaddress

    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise bad("range", text, "not ADDRESS/BITS", hint="write 10.1.2.128/25") from None


def parse_ipv4(text: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise bad("address", text, "not an IPv4 address", hint="write 10.1.2.3") from None


def parse_ipv6(text: str) -> str:
    import ipaddress

    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        raise bad("address", text, "not an IPv6 address", hint="write fd00:1::3") from None
    if found.scope_id:
        raise bad("address", text, "it has a zone", hint="write fd00:1::3")
    return str(found)


def parse_gateway(text: str) -> str:
    return parse_ipv6(text) if ":" in text else parse_ipv4(text)


def parse_mac(text: str) -> str:
    """Of one machine: a group's address is nobody's."""
    word = text.lower().replace("-", ":")
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", word):
        raise bad("MAC address", text, "not six pairs of digits", hint="write 02:42:ac:11:00:02")
    if int(word[:2], 16) & 1 or word == "00:00:00:00:00:00":
        raise bad("MAC address", text, "it is a group's, and no machine's")
    return word


def of_families(flag: str, values: Iterable[str]) -> tuple[str, str]:
    """What was said of IPv4 and of IPv6, each once."""
    found = ["", ""]
    for value in values:
        six = ":" in value
        if found[six]:
            raise UsageError(
                f"cannot use --{flag} {found[six]} and --{flag} {value}: a network has one of each "
                "family",
                origin=f"--{flag} {value}",
            )
        found[six] = value
    return found[0], found[1]


def check_network(spec: NetworkSpec) -> None:
    """What needs more than one of its words."""
    parse_network_name(spec.name)
    parse_driver(spec.driver)
    if not spec.ipv6 and (said := spec.subnet6 or spec.gateway6 or spec.range6):
        raise UsageError(
            f"cannot make network {spec.name}: {said} is of IPv6, which it has not",
            origin=said,
            hint="add --ipv6",
        )
    _check_family(spec.name, spec.subnet, spec.gateway, spec.range, version=4)
    _check_family(spec.name, spec.subnet6, spec.gateway6, spec.range6, version=6)
    _check_reserved(spec)


def _check_reserved(spec: NetworkSpec) -> None:
    import ipaddress

    subnets = [ipaddress.ip_network(text) for text in (spec.subnet, spec.subnet6) if text]
    for name, text in spec.reserved.items():
        address = ipaddress.ip_address(parse_gateway(text))
        if not any(address in subnet for subnet in subnets):
            raise UsageError(
                f"cannot make network {spec.name}: {text} is no address of a --subnet of it",
                origin=f"--aux-address {name}={text}",
            )
        if str(address) in (spec.gateway, spec.gateway6):
            raise UsageError(
                f"cannot make network {spec.name}: {text} is its gateway",
                origin=f"--aux-address {name}={text}",
            )


def _check_family(name: str, network: str, own: str, part: str, *, version: int) -> None:
    import ipaddress

    if not network:
        for flag, value in (("gateway", own), ("ip-range", part)):
            if value:
                raise UsageError(
                    f"cannot make network {name}: --{flag} needs a --subnet",
                    origin=f"--{flag} {value}",
                )
        return
    subnet = ipaddress.ip_network(parse_subnet(network))
    if subnet.version != version:
        raise bad("subnet", network, f"not of IPv{version}")
    gateway = ipaddress.ip_address(parse_gateway(own)) if own else None
    ends = (subnet.network_address, subnet.broadcast_address)
    if gateway is not None and (gateway not in subnet or gateway in ends):
        raise UsageError(
            f"cannot make network {name}: {own} is no address of {subnet}",
            origin=f"--gateway {own}",
        )
    within = ipaddress.ip_network(parse_range(part)) if part else subnet
    first, last = within.network_address, within.broadcast_address
    if within.version != version or first not in subnet or last not in subnet:
        raise UsageError(
            f"cannot make network {name}: {part} is no part of {subnet}",
            origin=f"--ip-range {part}",
        )
