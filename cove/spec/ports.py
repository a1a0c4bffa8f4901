"""Published ports as they are asked for, and how Docker writes them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from cove.errors import Unsupported, UsageError
from cove.spec.values import bad

MOST = 65535
FORM = "[IP:][HOST:]PORT[/PROTOCOL]"
EXAMPLE = "write 8080:80, 127.0.0.1:8080:80 or 53:53/udp"
DEFAULT_ADDRESSES = ("127.0.0.1",)


class Publish(msgspec.Struct, frozen=True, omit_defaults=True):
    """One port of a machine that is to be reached through the host."""

    port: int
    protocol: str = "tcp"
    ip: str = ""
    """The host's address; empty: the default ones."""
    first: int = 0
    """The host's port, 0: any that is free; with ``last`` a free one of these."""
    last: int = 0

    def __str__(self) -> str:
        """As it may be typed."""
        address = f"[{self.ip}]" if ":" in self.ip else self.ip
        host = str(self.first) if self.first else ""
        if self.last > self.first:
            host += f"-{self.last}"
        words = f"{address}:{host}:" if address else f"{host}:" if host else ""
        return f"{words}{self.port}{'' if self.protocol == 'tcp' else '/' + self.protocol}"


def publishes(text: str) -> tuple[Publish, ...]:
    """What ``-p`` says; a range is one for each of its ports."""
    words, protocol = _protocol(_short(text), text)
    address, host, inside = _split(words, text)
    ports = _range(inside, "port", text)
    if not ports[0]:
        raise bad("published port", text, "a machine has no port 0", hint=EXAMPLE)
    hosts = _range(host, "port", text) if host else (0, 0)
    count = ports[1] - ports[0] + 1
    if hosts == (0, 0):
        return tuple(Publish(port, protocol, address) for port in range(ports[0], ports[1] + 1))
    if count == 1:
        return (Publish(ports[0], protocol, address, *hosts),)
    if hosts[1] - hosts[0] + 1 != count:
        raise bad("published port", text, "the two ranges are of different lengths", hint=EXAMPLE)
    return tuple(
        Publish(ports[0] + i, protocol, address, hosts[0] + i, hosts[0] + i) for i in range(count)
    )


def exposes(text: str) -> tuple[str, ...]:
    """``80``, ``53/udp``, ``8000-8010``: as ``80/tcp`` words."""
    words, protocol = _protocol(text, text)
    first, last = _range(words, "port", text)
    return tuple(f"{port}/{protocol}" for port in range(first, last + 1))


def exposed(words: Iterable[str]) -> tuple[str, ...]:
    """Those of an image and of the flags, in the order of their numbers; what is no port of an
    image's is left out.
    """
    found: set[str] = set()
    for word in words:
        try:
            found.update(exposes(word))
        except (UsageError, Unsupported):
            continue
    return tuple(sorted(found, key=order))


def order(word: str) -> tuple[int, str]:
    number, _, protocol = word.partition("/")
    return int(number), protocol


def parse_address(text: str) -> str:
    """An address of the host's, without brackets."""
    import ipaddress

    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise bad("address", text, "not an IP address", hint=EXAMPLE) from None


def parse_addresses(text: str) -> tuple[str, ...]:
    """The setting: where ports are published that name no address."""
    found = tuple(parse_address(word.strip()) for word in text.split(",") if word.strip())
    return found or DEFAULT_ADDRESSES


def wanted(
    asked: Sequence[Publish], exposed_ports: Sequence[str], *, everything: bool
) -> tuple[Publish, ...]:
    """Each once; with ``everything`` also what is exposed and not asked for by number."""
    found = dict.fromkeys(asked)
    if everything:
        named = {f"{p.port}/{p.protocol}" for p in asked}
        for word in exposed_ports:
            number, protocol = order(word)
            if word not in named:
                found[Publish(number, protocol)] = None
    return tuple(found)


def _short(text: str) -> str:
    """``published=8080,target=80,protocol=tcp`` in the other form."""
    if "=" not in text:
        return text
    words = dict.fromkeys(("published", "target", "protocol", "mode"), "")
    for word in text.split(","):
        key, _, value = word.partition("=")
        if key not in words or not value:
            raise bad("published port", text, f'no word is called "{key}"', hint=EXAMPLE)
        words[key] = value
    if not words["target"]:
        raise bad("published port", text, "it has no target", hint=EXAMPLE)
    if words["mode"] not in ("", "host", "ingress"):
        raise bad("published port", text, "its mode is host")
    return f"{words['published']}:{words['target']}/{words['protocol'] or 'tcp'}".removeprefix(":")


def _protocol(words: str, text: str) -> tuple[str, str]:
    rest, slash, protocol = words.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol == "sctp":
        raise Unsupported(f"cannot use the port {text}: cove publishes tcp and udp")
    if protocol not in ("tcp", "udp"):
        raise bad("published port", text, "the protocol is tcp or udp", hint=EXAMPLE)
    return rest, protocol


def _split(words: str, text: str) -> tuple[str, str, str]:
    """Address, host's port, machine's port."""
    rest, _, inside = words.rpartition(":")
    if not inside:
        raise bad("published port", text, f"not {FORM}", hint=EXAMPLE)
    address, colon, host = rest.rpartition(":")
    if rest.endswith("]"):  # [::1]:80, which Docker refuses too
        raise bad("published port", text, f"not {FORM}", hint=EXAMPLE)
    if not colon:
        return "", host, inside
    try:
        return parse_address(address), host, inside
    except UsageError:
        why = f'"{address}" is no address of the host\'s'
        raise bad("published port", text, why, hint=EXAMPLE) from None


def _range(words: str, what: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", words)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not match or last > MOST or first > last:
        raise bad("published port", text, f'"{words}" is no {what}, and no range of them',
                  hint=EXAMPLE)  # fmt: skip
    return first, last


# ---- how they are shown ----


def shown_address(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def listed(published: Iterable[tuple[str, int, int, str]], exposed_ports: Iterable[str]) -> str:
    """The column of ``ps``, of (address, host's port, port, protocol): neighbours are one range."""
    groups: list[list[tuple[str, int, int, str]]] = []
    for entry in sorted(published, key=lambda p: (p[3], p[0], p[2], p[1])):
        ip, host, port, protocol = entry
        last = groups[-1][-1] if groups else None
        if last is not None and last == (ip, host - 1, port - 1, protocol):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    groups.sort(key=lambda group: (group[0][2], group[0][3], group[0][0]))
    words = [_group(group) for group in groups]
    taken = {f"{port}/{protocol}" for group in groups for _, _, port, protocol in group}
    alone = [word for word in exposed_ports if word not in taken]
    return ", ".join((*words, *_alone(alone)))


def _alone(words: Sequence[str]) -> list[str]:
    runs: list[tuple[str, int, int]] = []
    for number, protocol in sorted(map(order, words), key=lambda p: (p[1], p[0])):
        if runs and runs[-1][0] == protocol and runs[-1][2] == number - 1:
            runs[-1] = (protocol, runs[-1][1], number)
        else:
            runs.append((protocol, number, number))
    return [f"{_span(first, last)}/{protocol}" for protocol, first, last in runs]


def _group(group: Sequence[tuple[str, int, int, str]]) -> str:
    (ip, host, port, protocol), (_, host_last, port_last, _) = group[0], group[-1]
    return f"{shown_address(ip)}:{_span(host, host_last)}->{_span(port, port_last)}/{protocol}"


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"
