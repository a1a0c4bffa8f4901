"""Bridges, veth pairs, addresses and routes over netlink. No policy: names and addresses are
arguments, errors the kernel's.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)
from typing import NamedTuple

from cove.linux.network.netlink import (
    CREATE,
    EXCLUSIVE,
    Netlink,
    Request,
    attribute,
    attributes,
    nested,
)

LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBi")
ROUTE = struct.Struct("=BBBBBBBBI")
NUMBER = struct.Struct("=I")

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, GETADDR = 20, 22
NEWROUTE, GETROUTE = 24, 26
IFF_UP = 1

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 10, 18, 28
IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE = 63, 64
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER, IFLA_BR_MCAST_SNOOPING = 1, 2, 1, 23
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1


Subnet = IPv4Network | IPv6Network

BIG = 192 * 1024
"""What TCP gives a veth at once over IPv4, in place of 64 KiB ("BIG TCP", Linux 6.3; older kernels
pass over what they do not know). It is cut into packets where it leaves by a link that takes less.
"""


class Link(NamedTuple):
    number: int
    name: str
    master: int
    """Index of the bridge that it is a port of; 0: none."""
    up: bool
    kind: str = ""
    """``bridge``, ``veth``; empty: one of the hardware."""


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, name.encode() + b"\0")


def _mac(mac: str) -> bytes:
    return attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))


def _head(*, index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return LINK.pack(0, 0, index, flags, change)


def _link_of(body: bytes) -> Link:
    _, _, index, flags, _ = LINK.unpack_from(body)
    found = attributes(body[LINK.size :])
    name = found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    master = NUMBER.unpack(found[IFLA_MASTER])[0] if IFLA_MASTER in found else 0
    kind = attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"").rstrip(b"\0")
    return Link(index, name, master, bool(flags & IFF_UP), kind.decode("ascii", "replace"))


def find_link(netlink: Netlink, name: str) -> Link | None:
    try:
        return _link_of(netlink.get(Request(GETLINK, 0, _head() + _name(name))))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def links(netlink: Netlink) -> list[Link]:
    return [_link_of(body) for body in netlink.dump(GETLINK, _head())]


def add_bridge(netlink: Netlink, name: str, mac: str) -> None:
    """One that does not listen to who asks for groups: whoever does would become a router's port,
    which gets everybody's.
    """
    deaf = attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
    info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bridge"), nested(IFLA_INFO_DATA, deaf))
    netlink.ask(Request(NEWLINK, CREATE | EXCLUSIVE, _head() + _name(name) + _mac(mac) + info))


def add_veth(
    netlink: Netlink, name: str, *, bridge: int, peer: str, mac: str, namespace: int
) -> None:
    """A pair: a port of the bridge, down, and its other end in another network namespace."""
    other = _head() + _name(peer) + _mac(mac) + _large()
    other += attribute(IFLA_NET_NS_FD, NUMBER.pack(namespace))
    info = nested(
        IFLA_LINKINFO,
        attribute(IFLA_INFO_KIND, b"veth"),
        nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, other)),
    )
    master = attribute(IFLA_MASTER, NUMBER.pack(bridge))
    netlink.ask(
        Request(NEWLINK, CREATE | EXCLUSIVE, _head() + _name(name) + master + _large() + info)
    )


def _large() -> bytes:
    return b"".join(
        attribute(name, NUMBER.pack(BIG))
        for name in (IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE)
    )


def set_up(index: int) -> Request:
    return Request(NEWLINK, 0, _head(index=index, flags=IFF_UP, change=IFF_UP))


def set_down(index: int) -> Request:
    return Request(NEWLINK, 0, _head(index=index, change=IFF_UP))


def set_master(netlink: Netlink, index: int, bridge: int) -> None:
    netlink.ask(
        Request(NEWLINK, 0, _head(index=index) + attribute(IFLA_MASTER, NUMBER.pack(bridge)))
    )


def seat(netlink: Netlink, index: int, name: str, bridge: int, *, up: bool) -> None:
    """One that is down: its name, the bridge that it is a port of (0: none), and whether it works,
    in this order and one request.
    """
    head = _head(index=index, flags=IFF_UP if up else 0, change=IFF_UP)
    master = attribute(IFLA_MASTER, NUMBER.pack(bridge))
    netlink.ask(Request(NEWLINK, 0, head + _name(name) + master))


def delete_link(netlink: Netlink, name: str) -> None:
    """One that is gone already is no error: a pair ends with either of its namespaces."""
    try:
        netlink.ask(Request(DELLINK, 0, _head() + _name(name)))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def address(index: int, interface: IPv4Interface | IPv6Interface) -> Request:
    """An IPv6 one is there at once: nobody is asked whether it is taken (no DAD)."""
    own, bits = interface.packed, interface.network.prefixlen
    words = attribute(IFA_LOCAL, own) + attribute(IFA_ADDRESS, own)
    if isinstance(interface, IPv6Interface):
        head = ADDRESS.pack(socket.AF_INET6, bits, IFA_F_NODAD, 0, index)
    else:
        head = ADDRESS.pack(socket.AF_INET, bits, 0, 0, index)
        words += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    return Request(NEWADDR, CREATE | EXCLUSIVE, head + words)


def default_route(index: int, gateway: IPv4Address | IPv6Address) -> Request:
    return Request(NEWROUTE, CREATE | EXCLUSIVE, _route(index, gateway))


def _route(index: int, gateway: IPv4Address | IPv6Address) -> bytes:
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    head = ROUTE.pack(
        family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0
    )
    return head + attribute(RTA_GATEWAY, gateway.packed) + attribute(RTA_OIF, NUMBER.pack(index))


def reached(netlink: Netlink) -> list[Subnet]:
    """Every network that the host has a route to, the default route excepted, in any table but the
    kernel's own; and those its addresses are of, also where the link is down.
    """
    return [*_reached(netlink, socket.AF_INET, 4), *_reached(netlink, socket.AF_INET6, 16)]


def _reached(netlink: Netlink, family: int, length: int) -> Iterator[Subnet]:
    for body in netlink.dump(GETROUTE, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, bits, _, _, _, _, _, kind, _ = ROUTE.unpack_from(body)
        target = attributes(body[ROUTE.size :]).get(RTA_DST, b"")
        if bits and len(target) == length and kind == RTN_UNICAST:
            yield ip_network((target, bits))
    for body in netlink.dump(GETADDR, ADDRESS.pack(family, 0, 0, 0, 0)):
        _, bits, _, _, _ = ADDRESS.unpack_from(body)
        found = attributes(body[ADDRESS.size :])
        own = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
        if len(own) == length:
            yield ip_interface((own, bits)).network
