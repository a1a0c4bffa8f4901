"""Where a network's name server is reached: an address of the network, in a network namespace that
holds nothing else, behind a port of the bridge like any machine's.

So questions never enter the host: its firewall has nothing to let in, its own port 53 may be
anybody's, and nothing of the host is reached instead of the server. The namespace lives as long as
the sockets in it do.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface

from cove.errors import HostError
from cove.linux.network import links
from cove.linux.network.netlink import CLONE_NEWNET, Netlink
from cove.linux.syscalls import call

PORT = 53
BUFFER = 4 << 20
"""Of datagrams that wait, while a server starts."""
BACKLOG = 128
INSIDE = "eth0"
NO_IPV6 = f"/proc/sys/net/ipv6/conf/{INSIDE}/disable_ipv6"
SO_RCVBUFFORCE = 33
UDP_GRO = 104


@dataclass(slots=True)
class Door:
    datagrams: socket.socket
    connections: socket.socket

    def close(self) -> None:
        self.datagrams.close()
        self.connections.close()

    @property
    def fds(self) -> tuple[int, int]:
        return self.datagrams.fileno(), self.connections.fileno()


def open_door(link: str, bridge: str, own: IPv4Interface, mac: str) -> Door:
    """Make it, in place of what there was. Raises OSError, and HostError without the bridge."""
    made: list[Door] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            made.append(_make(route, link, number, own, mac))
        except BaseException as error:
            failed.append(error)

    with Netlink() as route:
        found = links.find_link(route, bridge)
        if found is None:
            raise HostError(f"cannot resolve names: the bridge {bridge} is gone")
        number = found.number
        links.delete_link(route, link)
        # A thread of its own, which ends in the namespace that it makes.
        thread = threading.Thread(target=work, name="door")
        thread.start()
        thread.join()
        if failed:
            with suppress(OSError):
                links.delete_link(route, link)
            raise failed[0]
    return made[0]


def _make(route: Netlink, link: str, bridge: int, own: IPv4Interface, mac: str) -> Door:
    call("unshare", CLONE_NEWNET)
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        links.add_veth(route, link, bridge=bridge, peer=INSIDE, mac=mac, namespace=namespace)
    finally:
        os.close(namespace)
    with suppress(FileNotFoundError), open(NO_IPV6, "w", encoding="ascii") as file:
        file.write("1")  # /proc/sys/net is that of the thread's own namespace
    with Netlink() as inside:
        end = links.find_link(inside, INSIDE)
        if end is None:
            raise HostError(f"cannot resolve names: {INSIDE} was removed meanwhile")
        inside.ask(links.address(end.number, own), links.set_up(end.number))
    port = links.find_link(route, link)
    if port is None:
        raise HostError(f"cannot resolve names: {link} was removed meanwhile")
    door = Door(*(_listen(kind, str(own.ip)) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)))
    route.ask(links.set_up(port.number))
    return door


def _listen(kind: socket.SocketKind, address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
            # A packet that its sender asks to have cut up (UDP_SEGMENT) counts as one where
            # questions are counted: it stays one, which is at most one question, badly made.
            sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, PORT))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def door_is_up(link: str) -> bool:
    with Netlink() as route:
        found = links.find_link(route, link)
    return found is not None and found.up and found.master > 0
