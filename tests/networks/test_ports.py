"""Published ports: who reaches them, whom the host's firewall keeps out, and what is carried."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import socket
from collections.abc import Iterator

import pytest

from tests.driver import Cove, wait_until
from tests.networks.conftest import INSIDE, Host, inside, machine, network, run
from tests.networks.publishing import (
    answers,
    ask,
    connect,
    free,
    ports,
    say,
    server,
    to_end,
)

DEFAULT_NETWORK = "bridge"

LOOPBACK = "127.0.0.1"
FLAGS = (
    "-p", "0.0.0.0:8000:7000", "-p", "0.0.0.0:8000:7000/udp", "-p", "0.0.0.0:8001-8003:7001-7003",
    "-p", "8010:7000", "-p", "8010:7000/udp", "-p", "[::]:8000:7000", "-p", "[::]:8000:7000/udp",
    "-p", f"{INSIDE}:8020:7000", "-p", "0.0.0.0:8030:6999",
)  # fmt: skip


@pytest.fixture(scope="module")
def gateway(cove: Cove) -> Iterator[str]:
    """A machine ``srv`` with all of that, on network ``web``; another one, ``two``, beside it."""
    with network(cove, "web") as address, server(cove, "srv", "--network", "web", *FLAGS):
        wait_until(lambda: answers(LOOPBACK, 8000), "the server")
        with machine(cove, "two", "web"):
            yield address


def from_machine(cove: Cove, name: str, address: str, port: int, *, wait: int = 60) -> str:
    """What a machine hears there."""
    script = f"echo hello | nc -w {wait} {address} {port}"
    return cove("exec", name, "sh", "-c", script, code=None).out


def test_it_is_reached_from_the_host_and_from_outside(gateway: str, host: Host) -> None:
    for address in (LOOPBACK, INSIDE, gateway, "::1"):
        assert say(address, 8000) == b"hello"
        assert ask(address, 8000) == b"datagram"
    assert say(LOOPBACK, 8010) == b"hello"
    assert ask(LOOPBACK, 8010) == b"datagram"
    with inside(host.outside):
        assert say(INSIDE, 8000) == b"hello"
        assert ask(INSIDE, 8000) == b"datagram"
        assert say(INSIDE, 8020) == b"hello"
        for address in (INSIDE, gateway):  # only on the host's own loopback
            with pytest.raises(OSError, match=r"refused|unreachable"):
                connect(address, 8010)


def test_machines_reach_it_through_the_host(cove: Cove, gateway: str) -> None:
    for address in (gateway, INSIDE):
        wait_until(lambda a=address: from_machine(cove, "two", a, 8000) == "hello\n")  # type: ignore[misc]
    assert from_machine(cove, "two", INSIDE, 8020) == "hello\n"
    with network(cove, "db"), machine(cove, "three", "db"):
        assert from_machine(cove, "three", INSIDE, 8000) == "hello\n"
    with socket.create_server((INSIDE, 0)) as other:  # no other server of the host's
        assert from_machine(cove, "two", INSIDE, other.getsockname()[1], wait=1) == ""
    with network(cove, "inner", "--internal"), machine(cove, "four", "inner"):
        script = f"ip route add default dev eth0; nc -w 1 {INSIDE} 8000 </dev/null"
        assert cove("exec", "--privileged", "four", "sh", "-c", script, code=None).returncode


def test_a_drop_in_the_hosts_input_hook_holds(gateway: str, host: Host) -> None:
    """What ufw and firewalld write."""
    for port, protocol in ((8000, "tcp"), (8000, "udp")):
        rule = f"iifname uplink {protocol} dport {port} counter drop"
        chain = "type filter hook input priority filter; policy accept;"
        text = f"table inet fw {{\nchain input {{\n{chain}\n{rule}\n}}\n}}\n"
        run("nft", "-f", "-", text=text)
        try:
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            with inside(host.outside), socket.socket(socket.AF_INET, kind) as sock:
                sock.setblocking(False)
                sock.connect_ex((INSIDE, port))
                if protocol == "udp":
                    sock.send(b"datagram")
                wait_until(lambda: dropped(host), "the rule to be hit")
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
                if protocol == "tcp":
                    with pytest.raises(OSError, match="not connected"):
                        sock.getpeername()
            with inside(host.outside):  # the others are as they were
                assert say(INSIDE, 8001)
        finally:
            run("nft", "delete", "table", "inet", "fw")
    with inside(host.outside):
        assert say(INSIDE, 8000) == b"hello"


def dropped(host: Host) -> bool:
    with inside(host.namespace):
        listed = json.loads(run("nft", "-j", "list", "table", "inet", "fw"))["nftables"]
    rule = next(entry["rule"] for entry in listed if "rule" in entry)
    return any(part.get("counter", {}).get("packets") for part in rule["expr"])


def test_who_asks_is_the_gateway_to_the_machine(gateway: str, host: Host) -> None:
    """Said in docs/networks.md: the host carries, and the machine sees the host."""
    with inside(host.outside):
        assert say(INSIDE, 8001).decode() == gateway


def test_a_hundred_megabytes_and_an_answer_after_them(gateway: str, host: Host) -> None:
    data = os.urandom(1 << 20) * 100
    with inside(host.outside):
        assert say(INSIDE, 8002, data).decode() == hashlib.sha256(data).hexdigest()
        assert len(say(INSIDE, 8003, b"50")) == 50 << 20


def test_64_connections_at_once(gateway: str) -> None:
    def talk(number: int) -> bool:
        data = bytes([number]) * 300_000
        with connect(LOOPBACK, 8000) as link:
            barrier.result()
            with concurrent.futures.ThreadPoolExecutor(1) as reader:
                heard = reader.submit(to_end, link)
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
                return heard.result() == data

    barrier: concurrent.futures.Future[None] = concurrent.futures.Future()
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        talks = [pool.submit(talk, number) for number in range(64)]
        barrier.set_result(None)
        assert all(done.result() for done in talks)


def test_who_reads_nothing_holds_up_nobody(gateway: str) -> None:
    with connect(LOOPBACK, 8003) as slow:
        slow.sendall(b"64")
        assert say(LOOPBACK, 8000) == b"hello"
        assert len(to_end(slow)) == 64 << 20


def test_datagrams_of_many_and_large_ones(gateway: str) -> None:
    sent = {socket.socket(socket.AF_INET, socket.SOCK_DGRAM): number for number in range(50)}
    try:
        for sock, number in sent.items():
            sock.settimeout(120)
            sock.connect((LOOPBACK, 8010))
            sock.send(b"%d" % number)
            assert sock.recv(100) == b"%d" % number
        for sock, number in sent.items():
            sock.send(b"%d again" % number)
            assert sock.recv(100) == b"%d again" % number
    finally:
        for sock in sent:
            sock.close()
    large = os.urandom(60_000)
    assert ask(LOOPBACK, 8010, large) == large


def test_a_port_that_nobody_serves_is_cut_off(gateway: str) -> None:
    with pytest.raises(ConnectionResetError), connect(LOOPBACK, 8030) as link:
        link.recv(1)


def test_what_is_told(cove: Cove, gateway: str) -> None:
    assert ports(cove, "srv") == [
        "6999/tcp -> 0.0.0.0:8030",
        "7000/tcp -> 0.0.0.0:8000", f"7000/tcp -> {LOOPBACK}:8010", f"7000/tcp -> {INSIDE}:8020",
        "7000/tcp -> [::]:8000",
        "7000/udp -> 0.0.0.0:8000", f"7000/udp -> {LOOPBACK}:8010", "7000/udp -> [::]:8000",
        *(f"{7000 + n}/tcp -> 0.0.0.0:{8000 + n}" for n in (1, 2, 3)),
    ]  # fmt: skip
    assert cove("port", "srv", "7001").out == "0.0.0.0:8001\n"
    assert sorted(cove("port", "srv", "7000/udp").out.split()) == [
        "0.0.0.0:8000", f"{LOOPBACK}:8010", "[::]:8000"
    ]  # fmt: skip
    missing = cove("port", "srv", "81", code=1)
    assert "no public port '81/tcp' published for srv" in missing.err
    listed = cove("ps", "-f", "name=srv", "--format", "{{.Ports}}").out
    assert "0.0.0.0:8000-8003->7000-7003/tcp" in listed
    assert f"{LOOPBACK}:8010->7000/tcp" in listed and "[::]:8000->7000/tcp" in listed
    found = cove.inspect("srv")
    assert {"HostIp": INSIDE, "HostPort": "8020"} in found["NetworkSettings"]["Ports"]["7000/tcp"]
    assert found["HostConfig"]["PortBindings"]["7001/tcp"] == [
        {"HostIp": "0.0.0.0", "HostPort": "8001"}
    ]
    assert cove("ps", "-q", "-f", "publish=8001").out
    assert cove("ps", "-q", "-f", "publish=8000-8002/udp").out
    assert not cove("ps", "-q", "-f", "publish=7001").out
    assert cove("ps", "-q", "-f", "expose=7001").out
    assert not cove("ps", "-q", "-f", "expose=7001/udp").out
    assert not free(LOOPBACK, 8010)
