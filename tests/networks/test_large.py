"""What TCP sends over a machine's link is handed on in larger pieces than packets may be (BIG TCP):
nobody gets anything else by that, wherever it goes.
"""

from __future__ import annotations

import hashlib
import socket
import struct

import pytest

from cove.linux.network import links
from cove.linux.network.netlink import Netlink, Request, attributes
from tests.driver import Cove, wait_until
from tests.networks.conftest import OUTSIDE, Host, inside, machine, network
from tests.shared import container_only

pytestmark = pytest.mark.usefixtures("clean")

COUNT = 32
SUM = hashlib.sha256(bytes(COUNT << 20)).hexdigest()
SERVE = (
    "mkfifo /open; (sleep 100000 > /open &) ; nc -lp 80 < /open | sha256sum > /sum; mv /sum /done"
)
SEND = f"dd if=/dev/zero bs=1M count={COUNT} 2>/dev/null"


def test_much_arrives_as_it_was(cove: Cove, host: Host) -> None:
    """From a container to a machine of each kind, to the outside, and from there."""
    box = ("run", "--rm", "--isolation", "container", "--network", "web", "bb", "sh", "-c")
    with network(cove, "web"), machine(cove, "one", "web") as one:
        cove("exec", "-d", "one", "sh", "-c", SERVE)
        wait_until(lambda: cove("exec", "one", "netstat", "-ltn").out.count(":80 "), "the server")
        cove(*box, f"{SEND} | nc {one} 80")
        wait_until(lambda: cove("exec", "one", "cat", "/done", code=None).out, "all of it")
        assert cove("exec", "one", "cat", "/done").out.split()[0] == SUM
        with inside(host.outside):
            server = socket.create_server((OUTSIDE, 0))
        with server:
            server.settimeout(120)
            asked = cove.spawn(*box, f"{SEND} | nc {OUTSIDE} {server.getsockname()[1]}")
            with server.accept()[0] as link:
                assert digest(link) == SUM
            asked.communicate()
            asked = cove.spawn(
                *box, f"nc {OUTSIDE} {server.getsockname()[1]} < /dev/null | sha256sum"
            )
            with server.accept()[0] as link:
                for _ in range(COUNT):
                    link.sendall(bytes(1 << 20))
            assert asked.communicate()[0].decode().split()[0] == SUM


def digest(link: socket.socket) -> str:
    found = hashlib.sha256()
    while data := link.recv(1 << 20):
        found.update(data)
    return found.hexdigest()


@container_only("the other end of a tap is an emulator")
def test_links_take_it(cove: Cove) -> None:
    with network(cove, "web"), machine(cove, "one", "web"), Netlink() as netlink:
        known = size_of(netlink, "lo")
        names = [link.name for link in links.links(netlink) if link.master]
        sizes = [size_of(netlink, name) for name in names if name[7] == "e"]
        assert sizes == [links.BIG if known else 0]  # 0: a kernel that does not know of it


def size_of(netlink: Netlink, name: str) -> int:
    body = netlink.get(Request(links.GETLINK, 0, links._head() + links._name(name)))
    found = attributes(body[links.LINK.size :])
    size: int = struct.unpack("=I", found.get(links.IFLA_GSO_IPV4_MAX_SIZE, bytes(4)))[0]
    return size
