"""Networks for containers: made, joined while they run, left, and gone without a trace."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.networks.conftest import (
    OUTSIDE,
    Host,
    address,
    inside,
    links,
    machine,
    network,
    rules,
    run,
)

pytestmark = pytest.mark.usefixtures("clean")


def ping(cove: Cove, name: str, target: str, *, wait: int = 60) -> bool:
    """Whether an answer comes."""
    return cove("exec", name, "ping", "-c1", f"-W{wait}", target, code=None).returncode == 0


def unheard(cove: Cove, name: str, target: str) -> bool:
    """No answer comes: the kernel knows at once or never."""
    return not ping(cove, name, target, wait=2)


def test_two_machines_of_one_network(cove: Cove) -> None:
    lan = network(cove, "web"), machine(cove, "one", "web"), machine(cove, "two", "web")
    with lan[0] as gateway, lan[1] as one, lan[2] as two:
        assert one != two
        assert ping(cove, "two", one) and ping(cove, "one", two)
        assert ping(cove, "one", gateway)
        found = cove("exec", "two", "ip", "route").out
        assert f"default via {gateway} dev eth0" in found
        assert f"{two}\t" in cove("exec", "two", "cat", "/etc/hosts").out
        listed = json.loads(cove("network", "inspect", "web").out)[0]["Containers"]
        assert {member["Name"] for member in listed.values()} == {"one", "two"}


def test_a_foreground_machine_has_its_network_before_its_program_runs(cove: Cove) -> None:
    with network(cove, "web") as gateway:
        for _ in range(6):  # more than there are slots: warm and cold starts
            done = cove("run", "--rm", "--network", "web", "bb", "ip", "route")
            assert f"default via {gateway} dev eth0" in done.out
        flags = ("--sysctl", "net.ipv4.ip_local_port_range=2000 3000")
        done = cove("run", "--rm", "--network", "web", *flags, "bb", "ip", "-o", "addr")
        assert "eth0" in done.out
        done = cove("run", "--rm", "--privileged", "--network", "web", "bb", "ip", "route")
        assert "eth0" in done.out


def test_everything_of_a_network_is_as_asked(cove: Cove) -> None:
    flags = ("--subnet", "10.77.0.0/24", "--gateway", "10.77.0.254", "--ip-range", "10.77.0.64/30")
    with network(cove, "mine", *flags, "--label", "tier=db") as gateway:
        assert gateway == "10.77.0.254"
        found = json.loads(cove("network", "inspect", "mine").out)[0]
        assert found["IPAM"]["Config"] == [
            {"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.254", "IPRange": "10.77.0.64/30"}
        ]
        assert found["Labels"] == {"tier": "db"} and found["Driver"] == "bridge"
        for number in (64, 65, 66, 67, 64):
            words = ("run", "--rm", "--network", "mine", "bb", "hostname", "-i")
            assert cove(*words).out.split() == [f"10.77.0.{number}"]
        asked = ("--ip", "10.77.0.9", "--mac-address", "02:42:0a:4d:00:09")
        shown = cove("run", "--rm", "--network", "mine", *asked, "bb", "ip", "addr").out
        assert "10.77.0.9/24" in shown and "02:42:0a:4d:00:09" in shown


def test_the_default_network_is_made_when_it_is_first_joined(cove: Cove) -> None:
    assert "bridge" not in cove("network", "ls", "--format", "{{.Name}}").out.split()
    assert "eth0" in cove("run", "--rm", "--network", "bridge", "bb", "ip", "route").out
    assert "bridge" in cove("network", "ls", "--format", "{{.Name}}").out.split()
    cove("network", "rm", "bridge")


def test_listing(cove: Cove) -> None:
    with network(cove, "web", "--label", "a=1"), network(cove, "db", "--internal"):
        assert cove("network", "ls", "--format", "{{.Name}} {{.Driver}}").out.splitlines() == [
            "db bridge", "host host", "none null", "web bridge"
        ]  # fmt: skip
        assert cove("network", "ls", "-f", "label=a=1", "--format", "{{.Name}}").out == "web\n"
        assert cove("network", "ls", "-f", "name=d", "-f", "driver=bridge", "--format",
                    "{{.Name}}").out == "db\n"  # fmt: skip
        ids = cove("network", "ls", "-q", "--no-trunc").out.split()
        assert len(ids) == 4 and all(len(word) == 64 for word in ids)
        assert json.loads(cove("network", "ls", "-f", "name=db", "--format", "json").out)[
            "Internal"
        ]
        with machine(cove, "one", "web"):
            assert cove("ps", "--format", "{{.Networks}}").out == "web\n"
            assert cove("ps", "-q", "-f", "network=web").out
            assert not cove("ps", "-q", "-f", "network=db").out


def test_a_machine_reaches_outside_and_nobody_outside_reaches_it(cove: Cove, host: Host) -> None:
    with network(cove, "web") as gateway, machine(cove, "one", "web") as one:
        with inside(host.outside), socket.create_server((OUTSIDE, 0)) as server:
            port = server.getsockname()[1]
            run_in = cove.spawn("exec", "one", "sh", "-c", f"echo hello | nc {OUTSIDE} {port}")
            connection, peer = server.accept()
            with connection:
                assert connection.recv(100) == b"hello\n"
            run_in.communicate()
            assert peer[0] == "198.51.100.1"  # the host's own
        with inside(host.outside):
            run("ip", "route", "add", str(ipaddress.ip_network(f"{gateway}/20", strict=False)),
                "via", "198.51.100.1")  # fmt: skip
            reached = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 1)
        before = dropped(cove, "one")
        with reached:
            reached.sendto(echo(), (one, 0))
            reached.sendto(echo(), ("198.51.100.1", 0))  # the host answers behind it
            wait_until(lambda: _answered(reached, "198.51.100.1"), "the host's answer")
            assert dropped(cove, "one") == before


def outer_server(host: Host) -> socket.socket:
    with inside(host.outside):
        server = socket.create_server((OUTSIDE, 0))
    server.settimeout(120)
    return server


def test_a_way_out_that_takes_less(cove: Cove, host: Host) -> None:
    """Of a tunnel, or many clouds: who answers is told by the first packet, for what would tell him
    later is often dropped; then everything hangs but small answers.
    """
    run("ip", "link", "set", "uplink", "mtu", "1300")
    try:
        with network(cove, "web"), machine(cove, "one", "web"), outer_server(host) as server:
            port = server.getsockname()[1]
            cove("exec", "-d", "one", "sh", "-c", f"nc {OUTSIDE} {port} </dev/null")
            with server.accept()[0] as connection:
                most = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        assert 1000 < most <= 1300 - 40
    finally:
        run("ip", "link", "set", "uplink", "mtu", "1500")


def echo() -> bytes:
    """An ICMP echo request."""
    return b"\x08\x00\xf7\xfd\x00\x01\x00\x01"


def _answered(sock: socket.socket, sender: str) -> bool:
    try:
        data, peer = sock.recvfrom(2000)
    except BlockingIOError:
        return False
    return bool(peer[0] == sender and data[20] == 0)


def dropped(cove: Cove, name: str) -> str:
    """Echo requests that a machine has received."""
    found = cove("exec", name, "grep", "^Icmp:", "/proc/net/snmp").out.splitlines()
    return dict(zip(found[0].split(), found[1].split(), strict=True))["InEchos"]


def test_an_internal_network_leads_nowhere(cove: Cove, host: Host) -> None:
    with network(cove, "inner", "--internal") as gateway, machine(cove, "one", "inner") as one:
        with machine(cove, "two", "inner"):
            assert ping(cove, "two", one)
        assert "default" not in cove("exec", "one", "ip", "route").out
        cove("run", "--rm", "--cap-add", "NET_ADMIN", "--network", "inner", "bb", "sh", "-c",
             f"ip route add default via {gateway} && ! ping -c1 -W1 {OUTSIDE} && "
             f"! ping -c1 -W1 {gateway}")  # fmt: skip


def test_connect_and_disconnect_while_it_runs(cove: Cove) -> None:
    machines = machine(cove, "one", "web"), machine(cove, "two", "db")
    with (
        network(cove, "web") as gateway,
        network(cove, "db", "--internal"),
        machines[0],
        machines[1] as two,
    ):
        assert unheard(cove, "one", two)
        cove("network", "connect", "db", "one")
        assert ping(cove, "one", two)
        assert "eth1" in cove("exec", "one", "ip", "route").out
        assert cove("ps", "-f", "name=one", "--format", "{{.Networks}}").out == "web,db\n"
        again = cove("network", "connect", "db", "one", code=1)
        assert "cove: cannot connect one to db: it is on it already" in again.err
        cove("network", "disconnect", "web", "one")
        assert "default" not in cove("exec", "one", "ip", "route").out
        cove("network", "connect", "--ip", gateway[:-1] + "99", "web", "one")
        assert address(cove, "one", "web") == gateway[:-1] + "99"
        assert f"default via {gateway}" in cove("exec", "one", "ip", "route").out
        cove("restart", "-t", "0", "one")
        assert address(cove, "one", "web") == gateway[:-1] + "99"
        assert ping(cove, "one", two) and ping(cove, "one", gateway)


def test_several_networks_from_the_start_and_what_a_machine_is_called_there(cove: Cove) -> None:
    more = "name=db,alias=sql,ip=10.78.0.9,alias=store,mac-address=02:42:0a:4e:00:09"
    with (
        network(cove, "web") as gateway,
        network(cove, "db", "--internal", "--subnet", "10.78.0.0/24"),
        machine(cove, "two", "db") as two,
        machine(cove, "one", "web", "--network", more, "--network-alias", "front"),
    ):
        shown = cove("exec", "one", "ip", "addr").out
        assert "10.78.0.9/24" in shown and "02:42:0a:4e:00:09" in shown
        assert (
            ping(cove, "one", two) and ping(cove, "one", gateway) and ping(cove, "two", "10.78.0.9")
        )
        assert called(cove, "one") == {"web": ["front"], "db": ["sql", "store"]}
        cove("network", "disconnect", "web", "one")
        cove("network", "connect", "--alias", "back", "web", "one")
        assert called(cove, "one") == {"web": ["back"], "db": ["sql", "store"]}
        found = json.loads(cove("network", "inspect", "db").out)[0]["Containers"].values()
        assert {m["Name"]: m["Aliases"] for m in found} == {"one": ["sql", "store"], "two": []}
        cove("stop", "-t", "0", "one")
        assert called(cove, "one") == {"web": ["back"], "db": ["sql", "store"]}
        words = ("run", "--rm", "--network", "web", "--network")
        found_id = cove("network", "inspect", "-f", "{{.Id}}", "web").out.strip()
        assert "cannot connect to web twice" in cove(*words, found_id, "bb", "true", code=125).err
        assert "no such network" in cove(*words, "nowhere", "bb", "true", code=125).err
        both = ("--network-alias", "x", "--network", "name=web,alias=y")
        assert "--network says the same of web" in cove("run", *both, "bb", code=125).err


def called(cove: Cove, name: str) -> dict[str, list[str] | None]:
    networks = cove.inspect(name)["NetworkSettings"]["Networks"]
    return {network: place["Aliases"] for network, place in networks.items()}


def test_the_way_out_moves_to_another_network(cove: Cove) -> None:
    with network(cove, "web"), network(cove, "lan") as other, machine(cove, "one", "web"):
        cove("network", "connect", "lan", "one")
        cove("network", "disconnect", "web", "one")
        assert f"default via {other} dev eth1" in cove("exec", "one", "ip", "route").out


def test_a_machine_that_does_not_run_is_connected_at_its_next_start(cove: Cove) -> None:
    with network(cove, "web"), network(cove, "db"):
        cove("create", "--name", "one", "bb", "ip", "route")
        cove("network", "connect", "web", "one")
        cove("network", "connect", "db", "one")
        shown = cove("start", "-a", "one").out
        assert "eth0" in shown and "eth1" in shown
        cove("network", "disconnect", "web", "one")
        cove("network", "disconnect", "db", "one")
        assert cove("start", "-a", "one").out == ""
        cove("rm", "one")


def test_nothing_is_left(cove: Cove) -> None:
    before = links()
    assert rules() == ""
    with network(cove, "web"):
        cove("run", "--rm", "--network", "web", "bb", "true")
        cove("run", "--rm", "--network", "web", "bb", "false", code=1)
        cove("run", "--rm", "--network", "web", "bb", "/no/such", code=127)
        wait_until(lambda: len(links()) == len(before) + 2, "bridge and name server")
    assert links() == before and rules() == ""
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"


def test_prune(cove: Cove) -> None:
    cove("network", "create", "used")
    cove("network", "create", "spare")
    cove("create", "--name", "one", "--network", "used", "bb", "true")
    assert cove("network", "prune", "-f").out == "Deleted Networks:\nspare\n\n"
    cove("rm", "one")
    for _ in range(10):  # who has just ended, and goes by himself, is on none
        cove("network", "create", "spare")
        cove("run", "--rm", "--network", "spare", "bb", "true")
        assert "spare" in cove("network", "prune", "-f", "--filter", "label!=keep").out
    cove("network", "create", "used")
    cove("network", "create", "--label", "keep", "kept")
    done = cove("system", "prune", "-f", "--filter", "label!=keep")
    assert "Deleted Networks:\nused\n\n" in done.out and "kept" not in done.out
    cove("network", "rm", "kept")


def test_events(cove: Cove) -> None:
    cove("network", "create", "seen")
    cove("run", "--rm", "--network", "seen", "bb", "true")
    cove("network", "rm", "seen")
    form = (
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "type=network",
        "--filter",
        "network=seen",
    )
    shown = cove("events", *form, "--format", "{{.Action}}").out.split()
    assert shown[0] == "create" and shown[-1] == "destroy"
