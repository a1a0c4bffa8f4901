"""Which subnet a network gets and which address a machine. Pure: what is taken is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network

POOLS = (
    ("10.192.0.0/12", 20),
    ("172.24.0.0/13", 20),
    ("192.168.0.0/16", 24),
)
"""Private ranges, away from where home routers, clouds and Docker begin to count, and the bits of a
subnet: 4093 machines, or 253."""


def choose_subnet(taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first that touches nothing the host has a route to, and no other network."""
    used = tuple(taken)
    for pool, bits in POOLS:
        for subnet in IPv4Network(pool).subnets(new_prefix=bits):
            if not any(subnet.overlaps(other) for other in used):
                return subnet
    return None


def choose_address(
    subnet: IPv4Network, within: IPv4Network, is_taken: Callable[[str], bool], after: str = ""
) -> str:
    """The next free one behind ``after``, so that an address is not given to another at once; empty
    when there is none.
    """
    first, last = int(within.network_address), int(within.broadcast_address)
    ends = (int(subnet.network_address), int(subnet.broadcast_address))
    count = last - first + 1
    start = int(IPv4Address(after)) + 1 - first if after else 0
    for step in range(count):
        number = first + (start + step) % count
        if number not in ends and not is_taken(text := str(IPv4Address(number))):
            return text
    return ""


def choose_resolver(subnet: IPv4Network, is_taken: Callable[[str], bool]) -> str:
    """Of the name server: the last that is free, away from where machines' addresses begin."""
    last, first = int(subnet.broadcast_address) - 1, int(subnet.network_address) + 1
    for number in range(last, first - 1, -1):
        if not is_taken(text := str(IPv4Address(number))):
            return text
    return ""


def mac_of(address: str) -> str:
    """Of a machine, from its address: alone on its network, and the same for the same address."""
    return "02:c0:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def bridge_mac(network_id: str) -> str:
    """Of a bridge: without one of its own it takes a port's, and changes with the ports."""
    digest = hashlib.sha256(network_id.encode()).hexdigest()
    return "02:cb:" + ":".join(digest[i : i + 2] for i in range(0, 8, 2))
