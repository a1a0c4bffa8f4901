"""Links: what another machine is called by one machine alone, and what that one is told of it in
variables. Pure. Docker's ``--link``, which it keeps for its default network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cove.errors import CoveError, UsageError
from cove.spec.network import ALONE, OF_MACHINE, parse_alias
from cove.spec.values import bad

UNTOLD = ("HOME", "PATH")
"""Variables of another machine that say nothing to this one."""
Port = tuple[str, int]
"""Protocol and number."""


def parse_link(text: str) -> str:
    """``NAME[:ALIAS]``, with both."""
    name, colon, alias = text.partition(":")
    name = name.removeprefix("/")
    alias = alias.rpartition("/")[2] if colon else name
    if not name or not alias:
        raise bad("link", text, "not NAME:ALIAS", hint="write db, or db-1:db")
    return f"{name}:{parse_alias(alias)}"


def split_link(link: str) -> tuple[str, str]:
    name, _, alias = link.partition(":")
    return name, alias


def problems(links: tuple[str, ...], network: str) -> Iterator[CoveError]:
    for link in links:
        try:
            parse_link(link)
        except CoveError as error:
            yield error
    if links and (network in ALONE or network.startswith(OF_MACHINE)):
        yield UsageError(
            f"cannot link to another machine with --network {network}: nobody is reached there "
            "by a name of cove's",
            origin=f"--link {links[0]}",
        )


def variables(
    alias: str, parent: str, address: str, exposed: Iterable[str], env: Iterable[str]
) -> Iterator[str]:
    """As Docker makes them: of the ports that the other one exposes, its name, its variables."""
    prefix = alias.upper().replace("-", "_")
    ports = sorted(map(_port, exposed), key=lambda port: (port[0] != "tcp", *port))
    if ports:
        yield f"{prefix}_PORT={_url(address, ports[0])}"
    for first, last in _spans(ports):
        start, end = _named(prefix, first), _named(prefix, last)
        yield f"{start}_START={_url(address, first)}"
        yield f"{start}_ADDR={address}"
        yield f"{start}_PROTO={first[0]}"
        yield f"{start}_PORT_START={first[1]}"
        yield f"{end}_END={_url(address, last)}"
        yield f"{start}_PORT_END={last[1]}"
    for port in ports:
        name = _named(prefix, port)
        yield f"{name}={_url(address, port)}"
        yield f"{name}_ADDR={address}"
        yield f"{name}_PORT={port[1]}"
        yield f"{name}_PROTO={port[0]}"
    yield f"{prefix}_NAME=/{parent}/{alias}"
    for word in env:
        name, equals, value = word.partition("=")
        if equals and name not in UNTOLD:
            yield f"{prefix}_ENV_{name}={value}"


def _port(word: str) -> Port:
    number, _, protocol = word.partition("/")
    return protocol or "tcp", int(number)


def _url(address: str, port: Port) -> str:
    return f"{port[0]}://{address}:{port[1]}"


def _named(prefix: str, port: Port) -> str:
    return f"{prefix}_PORT_{port[1]}_{port[0].upper()}"


def _spans(ports: Sequence[Port]) -> Iterator[tuple[Port, Port]]:
    """First and last of each run of neighbours."""
    start = 0
    for at in range(1, len(ports) + 1):
        before = ports[at - 1]
        if at == len(ports) or ports[at] != (before[0], before[1] + 1):
            if at - start > 1:
                yield ports[start], before
            start = at
