"""Others who have networks on the same host, before cove and after it: bridges made by hand stand
for those of Docker and libvirt. cove switches forwarding on; nobody else loses or gains by that.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.conftest import closed_cove
from tests.networks.conftest import (
    INSIDE,
    OUTSIDE,
    Host,
    _held,
    inside,
    links,
    new_namespace,
    rules,
    run,
)
from tests.networks.test_networks import _answered, echo

pytestmark = pytest.mark.usefixtures("clean")

FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@contextmanager
def others_bridge(name: str, subnet: str, host: Host) -> Iterator[tuple[int, int]]:
    """A bridge with two network namespaces on it, to which the outside knows the way."""
    with new_namespace() as one, new_namespace() as two:
        run("ip", "link", "add", name, "type", "bridge")
        try:
            run("ip", "addr", "add", f"{subnet}.1/24", "dev", name)
            run("ip", "link", "set", name, "up")
            for number, namespace in enumerate((one, two)):
                port = f"{name}p{number}"
                run("ip", "link", "add", port, "type", "veth", "peer", "name", f"{name}x{number}")
                run("ip", "link", "set", port, "master", name, "up")
                with _held(namespace) as holder:
                    run("ip", "link", "set", f"{name}x{number}", "netns", str(holder))
                with inside(namespace):
                    run("ip", "addr", "add", f"{subnet}.{number + 2}/24", "dev", f"{name}x{number}")
                    run("ip", "link", "set", f"{name}x{number}", "up")
                    run("ip", "route", "add", "default", "via", f"{subnet}.1")
            with inside(host.outside):
                run("ip", "route", "add", f"{subnet}.0/24", "via", INSIDE)
            yield one, two
        finally:
            with suppress(AssertionError), inside(host.outside):
                run("ip", "route", "del", f"{subnet}.0/24", "via", INSIDE)
            run("ip", "link", "del", name)
    # The kernel takes pairs away a moment after their namespaces.
    wait_until(lambda: not any(link.startswith(name) for link in links()), "the pairs to go")


def talks(namespace: int, server_in: int, address: str) -> bool:
    """Whether a conversation from one namespace with a server in another comes about."""
    with inside(server_in), socket.create_server((address, 0)) as server:
        with inside(namespace):
            client = socket.create_connection(server.getsockname(), timeout=120)
        with client, server.accept()[0] as served:
            client.sendall(b"hello")
            return served.recv(100) == b"hello"


def asks_in_vain(namespace: int, target: int, address: str) -> bool:
    """Echo requests to another namespace do not arrive, those to the host behind it do. The host
    has heard of who is asked for: none waits for his MAC address while its own answer is there.
    """
    asks(target, INSIDE)
    before = echoes(target)
    for _ in range(2):
        asks(namespace, address, INSIDE)
    return echoes(target) == before


def asks(namespace: int, *addresses: str) -> None:
    """Echo requests, until the last of them is answered."""
    with inside(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 1)
    with sock:
        for address in addresses:
            sock.sendto(echo(), (address, 0))
        wait_until(lambda: _answered(sock, addresses[-1]), "the host's answer")


def echoes(namespace: int) -> str:
    with inside(namespace):
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    titles, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return dict(zip(titles, values, strict=True))["InEchos"]


@contextmanager
def on_a_network(cove: Cove, net: str, *names: str) -> Iterator[None]:
    """Machines and their network; both may be gone before the end."""
    try:
        cove("network", "create", net)
        for name in names:
            cove("run", "-d", "--name", name, "--network", net, "bb", "sleep", "1000")
        yield
    finally:
        leave(cove, net, *names)


def leave(cove: Cove, net: str, *names: str) -> None:
    cove("rm", "-f", *names, code=None)
    cove("network", "rm", net, code=None)


def test_a_bridge_of_others(cove: Cove, host: Host) -> None:
    try:
        with others_bridge("before0", "10.201.0", host) as before, on_a_network(cove, "web", "one"):
            assert FORWARDING.read_text() == "1\n"
            # There without forwarding: from port to port, and no way to anybody else.
            assert talks(*before, "10.201.0.3")
            assert asks_in_vain(before[0], host.outside, OUTSIDE)
            assert asks_in_vain(host.outside, before[0], "10.201.0.2")
            with others_bridge("after0", "10.202.0", host) as after:
                assert talks(*after, "10.202.0.3")
                assert talks(after[0], host.outside, OUTSIDE)
                assert talks(host.outside, after[0], "10.202.0.2")
                leave(cove, "web", "one")
                assert talks(after[0], host.outside, OUTSIDE)  # not switched off under them
                assert asks_in_vain(before[0], host.outside, OUTSIDE)
                assert asks_in_vain(host.outside, before[0], "10.201.0.2")
            # Nobody else has networks any more: whoever looks next switches it off.
            assert FORWARDING.read_text() == "1\n"
            cove("network", "prune", "-f")
            assert FORWARDING.read_text() == "0\n" and rules() == ""
    finally:
        FORWARDING.write_text("0")


@pytest.mark.parametrize("name", ["br+lan~", 'a"*'])
def test_bridges_that_were_there_are_closed_whatever_they_are_called(
    cove: Cove, host: Host, name: str
) -> None:
    """Where no rule can name one, none that comes is open either."""
    with others_bridge(name, "10.201.0", host) as before, on_a_network(cove, "web", "one"):
        assert asks_in_vain(before[0], host.outside, OUTSIDE)
        assert asks_in_vain(host.outside, before[0], "10.201.0.2")
    assert FORWARDING.read_text() == "0\n"


def test_what_is_left_on_is_known_after_a_crash(fresh_cove: Cove, host: Host) -> None:
    cove = fresh_cove
    try:
        with others_bridge("before0", "10.201.0", host) as before:
            with (
                on_a_network(cove, "web", "one"),
                others_bridge("after0", "10.202.0", host) as after,
            ):
                leave(cove, "web", "one")
                cove.kill_daemon()
                run("nft", "flush", "ruleset")
                cove("ps")
                assert asks_in_vain(host.outside, before[0], "10.201.0.2")
                assert talks(after[0], host.outside, OUTSIDE)
                with on_a_network(cove, "net", "two"):  # and with another network
                    assert asks_in_vain(host.outside, before[0], "10.201.0.2")
                    assert talks(after[0], host.outside, OUTSIDE)
                leave(cove, "net", "two")
                assert FORWARDING.read_text() == "1\n"
                assert asks_in_vain(host.outside, before[0], "10.201.0.2")
                cove.kill_daemon()
            cove("ps")
            assert FORWARDING.read_text() == "0\n" and rules() == ""
    finally:
        FORWARDING.write_text("0")


def test_another_state_directory(cove: Cove, host: Host, bb_tar: Path, isolation: str) -> None:
    before = links()
    try:
        with (
            on_a_network(cove, "web", "one"),
            closed_cove(bb_tar, isolation) as other,
            on_a_network(other, "lan", "two", "three"),
        ):
            reaches(other, host)
            assert "three.lan" in other("exec", "two", "nslookup", "three.lan").out
            other("exec", "two", "ping", "-c", "1", "three")
            leave(cove, "web", "one")
            reaches(other, host)
        wait_until(lambda: links() == before, "the links of the other to go")
        assert FORWARDING.read_text() == "1\n"
        cove("network", "prune", "-f")
        assert FORWARDING.read_text() == "0\n"
    finally:
        FORWARDING.write_text("0")


def reaches(cove: Cove, host: Host) -> None:
    """Somebody outside, from machine ``two``."""
    with inside(host.outside), socket.create_server((OUTSIDE, 0)) as server:
        server.settimeout(120)
        port = server.getsockname()[1]
        asking = cove.spawn("exec", "two", "sh", "-c", f"echo hello | nc {OUTSIDE} {port}")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b"hello\n"
        asking.communicate()
