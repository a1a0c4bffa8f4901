"""What of networks is a value in /proc/sys/net: of interfaces, and whether the host forwards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from cove.errors import HostError

FORWARDING = "/proc/sys/net/ipv4/ip_forward"
FORWARDING6 = "/proc/sys/net/ipv6/conf/all/forwarding"
INTERFACES = "/proc/sys/net/{family}/conf/{link}/{name}"
ALL6 = "/proc/sys/net/ipv6/conf"

Switch = tuple[str, str, str]

OF_BRIDGES: tuple[Switch, ...] = (("ipv4", "arp_ignore", "1"), ("ipv4", "rp_filter", "1"))
"""The host answers there for its address there alone, and believes no sender that it would not
answer there."""

OF_BRIDGES_WITHOUT_IPV6: tuple[Switch, ...] = (("ipv6", "disable_ipv6", "1"),)
"""No IPv6 address that machines could reach."""

WITH_IPV6: tuple[Switch, ...] = (
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "accept_dad", "0"),
    ("ipv6", "autoconf", "0"),
)
"""Addresses are there at once, and nobody on the link is believed to be a router."""


def set_all(link: str, switches: Iterable[Switch]) -> None:
    """Of an interface of this thread's network namespace."""
    for family, name, value in switches:
        write(INTERFACES.format(family=family, link=link, name=name), value)


def write(path: str, value: str) -> None:
    with suppress(FileNotFoundError), open(path, "w", encoding="ascii") as file:
        file.write(value)


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


# ---- forwarding ----


def has_ipv6() -> bool:
    """Whether this host, and its network namespace, can have addresses of that family."""
    return _read(f"{ALL6}/all/disable_ipv6") == "0"


def forwards() -> bool:
    """Whether the host forwards packets of others."""
    return _read(FORWARDING) == "1"


def forwards6() -> bool:
    return _read(FORWARDING6) == "1"


def set_forwarding(on: bool) -> None:
    _forward(FORWARDING, on)


def _forward(path: str, on: bool) -> None:
    try:
        write(path, "1" if on else "0")
    except OSError as error:
        raise HostError(
            f"cannot use networks: cannot switch forwarding {'on' if on else 'off'}: "
            f"{(error.strerror or '').lower()}",
            host=path,
        ) from error


def hearers(ours: str) -> tuple[str, ...]:
    """Interfaces that take routes from router advertisements as long as the host does not forward
    IPv6: a host that begins to would lose its own way out (accept_ra, ip-sysctl.rst). Links whose
    names begin with ``ours`` have none.
    """
    names = os.listdir(ALL6) if os.path.isdir(ALL6) else []
    return tuple(
        name
        for name in sorted(names)
        if name not in ("all", "default", "lo")
        and not name.startswith(ours)
        and _read(f"{ALL6}/{name}/accept_ra") == "1"
    )


def set_forwarding6(on: bool, listening: Sequence[str]) -> None:
    """With it ``listening`` interfaces go on to hear routers, or are as they were before."""
    if on:
        _hear(listening, "1", "2")
        _forward(FORWARDING6, True)
    else:
        _forward(FORWARDING6, False)
        _hear(listening, "2", "1")


def _hear(names: Sequence[str], before: str, now: str) -> None:
    for name in names:
        path = f"{ALL6}/{name}/accept_ra"
        if _read(path) == before:
            write(path, now)
