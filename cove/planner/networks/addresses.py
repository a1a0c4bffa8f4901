"""Which subnet a network gets and which address a machine. Pure: what is taken is an argument."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)

from cove.oci.endpoint import METADATA6

Subnet = IPv4Network | IPv6Network

POOLS = (
    ("10.192.0.0/12", 20),
    ("172.24.0.0/13", 20),
    ("192.168.0.0/16", 24),
)
"""Private ranges, away from where home routers, clouds and Docker begin to count, and the bits of a
subnet: 4093 machines, or 253."""


def choose_subnet(taken: Iterable[Subnet]) -> IPv4Network | None:
    """The first that touches nothing the host has a route to, and no other network."""
    used = [network for network in taken if network.version == 4]
    for pool, bits in POOLS:
        for subnet in IPv4Network(pool).subnets(new_prefix=bits):
            if not any(subnet.overlaps(other) for other in used):
                return subnet
    return None


def choose_subnet6(taken: Iterable[Subnet], network_id: str) -> IPv6Network:
    """A unique local /64 (RFC 4193) of the network's own: its 56 bits come of the network's id,
    which nobody could know before. The chance that one is taken is there, and is looked at.
    """
    used = [network for network in taken if network.version == 6]
    used += [IPv6Network(address) for address in METADATA6]
    for number in range(1 << 16):
        digest = hashlib.sha256(f"{network_id} {number}".encode()).digest()
        subnet = IPv6Network((b"\xfd" + digest[:7] + bytes(8), 64))
        if not any(subnet.overlaps(other) for other in used):
            break
    return subnet


def choose_address(
    subnet: Subnet, within: Subnet, is_taken: Callable[[str], bool], after: str = ""
) -> str:
    """The next free one behind ``after``, so that an address is not given to another at once; empty
    when there is none.
    """
    first, last = int(within.network_address), int(within.broadcast_address)
    ends = (int(subnet.network_address), int(subnet.broadcast_address))
    make = IPv4Address if subnet.version == 4 else IPv6Address
    count = last - first + 1
    start = int(ip_address(after)) + 1 - first if after else 0
    for step in range(count):
        number = first + (start + step) % count
        if number not in ends and not is_taken(text := str(make(number))):
            return text
    return ""


def choose_gateway(subnet: Subnet, reserved: Collection[str]) -> str:
    """The first address that is not set aside."""
    first, last = int(subnet.network_address) + 1, int(subnet.broadcast_address)
    make = IPv4Address if subnet.version == 4 else IPv6Address
    return next(str(make(n)) for n in range(first, last) if str(make(n)) not in reserved)


def choose_resolver(subnet: IPv4Network, is_taken: Callable[[str], bool]) -> str:
    """Of the name server: the last that is free, away from where machines' addresses begin."""
    last, first = int(subnet.broadcast_address) - 1, int(subnet.network_address) + 1
    for number in range(last, first - 1, -1):
        if not is_taken(text := str(IPv4Address(number))):
            return text
    return ""


def overlap(subnet: Subnet, other: str) -> bool:
    """Whether two networks, of one family, have addresses in common."""
    found = ip_network(other)
    return subnet.version == found.version and subnet.overlaps(found)


def mac_of(address: str) -> str:
    """Of a machine, from its address: alone on its network, and the same for the same address."""
    return "02:c0:" + ":".join(f"{byte:02x}" for byte in IPv4Address(address).packed)


def bridge_mac(network_id: str) -> str:
    """Of a bridge: without one of its own it takes a port's, and changes with the ports."""
    digest = hashlib.sha256(network_id.encode()).hexdigest()
    return "02:cb:" + ":".join(digest[i : i + 2] for i in range(0, 8, 2))


def link_local(mac: str) -> IPv6Interface:
    """The address that every interface with IPv6 has on its link alone, as kernels make it of the
    MAC address (RFC 4291, appendix A).
    """
    own = bytes.fromhex(mac.replace(":", ""))
    middle = bytes((own[0] ^ 2,)) + own[1:3] + b"\xff\xfe" + own[3:]
    return IPv6Interface((b"\xfe\x80" + bytes(6) + middle, 64))
