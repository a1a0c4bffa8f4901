"""Published ports through the life of a machine: taken, in the way, changed, given back, and lost
with whoever was killed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, kill_process, wait_until
from tests.kernel.test_changes_crash import NAME, walk
from tests.kernel.test_walks import STRIDE
from tests.networks.conftest import (
    INSIDE,
    Host,
    inside,
    machine,
    network,
    rules,
    with_python,
)
from tests.networks.publishing import (
    ECHO,
    answers,
    connect,
    free,
    ports,
    relay_of,
    running,
    say,
    server,
    to_end,
)
from tests.shared import no_scenario

DEFAULT_NETWORK = "bridge"

LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module", autouse=True)
def web(cove: Cove) -> Iterator[str]:
    """The default network, which a machine with ports is on."""
    with machine(cove, "first", "bridge"):
        yield cove.inspect("first")["NetworkSettings"]["Gateway"]
    cove("network", "rm", "bridge")


@pytest.fixture(autouse=True)
def nothing_left(cove: Cove, clean: None) -> Iterator[None]:
    yield


def host_port(line: str) -> int:
    return int(line.rpartition(":")[2])


def test_a_port_in_use_says_by_whom(cove: Cove) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        done = cove("run", "-d", "--name", "one", "-p", f"{port}:80", "bb", *ECHO, code=125)
        assert done.err.startswith(
            f"cove: cannot publish {LOOPBACK}:{port} of one: the port is in use\n"
            f"  from: -p {port}:80\n"
        )
        assert f"(process {os.getpid()}) has {LOOPBACK}:{port}\n" in done.err
        assert not cove("ps", "-aq", "-f", "name=one").out
        wide = cove("run", "-p", f"0.0.0.0:{port}:80", "--name", "one", "bb", "true", code=125)
        assert f"cannot publish 0.0.0.0:{port} of one: the port is in use" in wide.err
        with running(cove, "one", "-p", f"{port}-{port + 20}:80"):
            assert port < host_port(ports(cove, "one")[0]) <= port + 20
        only = cove("run", "-p", f"{port}-{port}:80", "bb", "true", code=125)
        assert "the port is in use" in only.err
    with running(cove, "one", "-p", f"{port}:80"):
        done = cove("run", "--rm", "-p", f"{INSIDE}:{port}:80", "bb", "true")
        done = cove("run", "--rm", "-p", f"0.0.0.0:{port}:80", "bb", "true", code=125)
        assert f"  host: machine one publishes {LOOPBACK}:{port}\n" in done.err
        cove("create", "--name", "two", "-p", f"{port}:80", "bb", *ECHO)
        assert "machine one publishes" in cove("start", "two", code=1).err
        assert cove.inspect("two")["State"]["Status"] == "created"
    cove("start", "two")
    wait_until(lambda: answers(LOOPBACK, port), "the other machine")
    cove("rm", "-f", "two")
    nowhere = cove("run", "--rm", "-p", "203.0.113.9:80:80", "bb", "true", code=125)
    assert "the host has no such address" in nowhere.err


def test_ports_that_the_host_chooses(cove: Cove) -> None:
    flags = ("-P", "--expose", "80", "--expose", "90-91/udp", "-p", f"{LOOPBACK}::80")
    with running(cove, "one", *flags):
        listed = ports(cove, "one")
        assert [line.split()[0] for line in listed] == ["80/tcp", "90/udp", "91/udp"]
        port = host_port(listed[0])
        wait_until(lambda: answers(LOOPBACK, port), "the server")
        cove("stop", "-t", "0", "one")
        wait_until(lambda: free(LOOPBACK, port), "its port")
        assert not ports(cove, "one")
        assert cove("ps", "-a", "-f", "name=one", "--format", "{{.Ports}}").out == "\n"
        cove("start", "one")
        again = host_port(ports(cove, "one")[0])
        wait_until(lambda: answers(LOOPBACK, again), "the server")
        assert "90/udp" in cove.inspect("one")["Config"]["ExposedPorts"]
    with running(cove, "one", "-p", "0.0.0.0:0:80"):
        cove("restart", "-t", "0", "one")
        number = host_port(ports(cove, "one")[0])
        wait_until(lambda: answers(INSIDE, number), "the server")


def test_a_fork_takes_other_ports(cove: Cove) -> None:
    with running(cove, "one", "-p", "8100:80"):
        cove("fork", "one", "-n", "2")
        try:
            found = [host_port(ports(cove, f"one-{n}")[0]) for n in (1, 2)]
            assert len({8100, *found}) == 3
            for port in (8100, *found):
                wait_until(lambda p=port: answers(LOOPBACK, p), "a fork")  # type: ignore[misc]
        finally:
            cove("rm", "-f", "one-1", "one-2")


def test_ports_of_a_machine_that_runs(cove: Cove, web: str, host: Host) -> None:
    with running(cove, "one", "--network", "bridge"):
        assert cove("port", "add", "one", "8110:80", "0.0.0.0:8111:80").out.splitlines() == [
            "80/tcp -> 0.0.0.0:8111", f"80/tcp -> {LOOPBACK}:8110"
        ]  # fmt: skip
        wait_until(lambda: answers(LOOPBACK, 8110), "the server")
        again = cove("port", "add", "one", "8110:80", code=1)
        assert "cannot publish 8110:80 of one: it is published already" in again.err
        with socket.create_server((LOOPBACK, 0)) as taken:
            words = ("8112:80", f"{taken.getsockname()[1]}:80")
            assert "the port is in use" in cove("port", "add", "one", *words, code=125).err
            assert free(LOOPBACK, 8112) and len(ports(cove, "one")) == 2
        with inside(host.outside):
            assert say(INSIDE, 8111) == b"hello"
        heard = cove("exec", "first", "sh", "-c", f"echo hello | nc -w 60 {web} 8111").out
        assert heard == "hello\n"
        with connect(LOOPBACK, 8110) as kept, connect(LOOPBACK, 8111) as link:
            for each in (kept, link):
                each.sendall(b"a")
                assert each.recv(1) == b"a"
            cove("port", "rm", "one", "8111:80")
            with pytest.raises(ConnectionResetError):
                link.recv(1)
            assert free("0.0.0.0", 8111)
            kept.sendall(b"b")
            assert kept.recv(1) == b"b"
        assert "it is not published" in cove("port", "rm", "one", "8111:80", code=1).err
        cove("restart", "-t", "0", "one")
        assert ports(cove, "one") == [f"80/tcp -> {LOOPBACK}:8110"]
        done = cove("update", "--publish-rm", "8110:80", "--publish-add", "8114:80", "one")
        assert (done.out, done.err) == ("one\n", "")
        assert ports(cove, "one") == [f"80/tcp -> {LOOPBACK}:8114"] and free(LOOPBACK, 8110)
        wrong = cove("update", "--publish-add", "8115:80/sctp", "one", code=125)
        assert "sctp" in wrong.err
        cove("stop", "-t", "0", "one")
        later = "cove: the ports of one change at its next start\n"
        assert cove("port", "add", "one", "8113:81/udp").err == later
        assert cove("update", "--publish-rm", "80", "one").err == later
        cove("start", "one")
        assert ports(cove, "one") == [f"81/udp -> {LOOPBACK}:8113"]


def test_it_follows_the_machine_to_another_network(cove: Cove) -> None:
    with network(cove, "lan"), running(cove, "one", "-p", "8120:80"):
        wait_until(lambda: answers(LOOPBACK, 8120), "the server")
        cove("network", "connect", "lan", "one")
        cove("network", "disconnect", "bridge", "one")
        wait_until(lambda: answers(LOOPBACK, 8120), "the server, by its other network")
        cove("network", "disconnect", "lan", "one")
        with pytest.raises(OSError, match="reset"):
            say(LOOPBACK, 8120)


def test_a_sender_of_datagrams_is_led_where_the_machine_is_now(cove: Cove) -> None:
    """And not to whoever has the address that it had."""
    flags = ("--network", "name=before,ip=10.177.0.9", "-p", "8121:7000/udp")
    with (
        network(cove, "before", "--subnet", "10.177.0.0/24"),
        network(cove, "now"),
        server(cove, "one", *flags),
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.connect((LOOPBACK, 8121))
        client.settimeout(0.5)
        wait_until(lambda: hears(client, b"before"), "an answer")
        cove("network", "connect", "now", "one")
        cove("network", "disconnect", "before", "one")
        with server(cove, "two", "--network", "name=before,ip=10.177.0.9"):
            wait_until(lambda: hears(client, b"now"), "an answer by the other network")
            counted = cove("exec", "two", "cat", "/proc/net/snmp").out
            words = [line.split() for line in counted.splitlines() if line[:4] == "Udp:"]
            got = dict(zip(*words, strict=True))
            assert (got["InDatagrams"], got["NoPorts"]) == ("0", "0")


def hears(client: socket.socket, data: bytes) -> bool:
    """Whether a datagram comes back: it may be lost, or be the answer to an earlier one."""
    try:
        client.send(data)
        return client.recv(100) == data
    except OSError:
        return False


def test_where_ports_cannot_be(cove: Cove) -> None:
    done = cove("run", "--rm", "-p", "80:80", "--network", "none", "bb", "true", code=125)
    assert "cannot publish ports with --network none: nobody reaches such a machine" in done.err
    with network(cove, "inner", "--internal"):
        done = cove("run", "--rm", "-p", "80:80", "--network", "inner", "bb", "true", code=125)
        assert "it is on no network that leads out" in done.err
    done = cove("run", "--rm", "-p", "80:80", "--network", "host", "bb", "true", code=None)
    assert "published ports are discarded" in done.err
    assert done.returncode == (0 if cove.isolation == "container" else 125)
    done = cove("run", "-p", "80/sctp", "bb", "true", code=125)
    assert "cove publishes tcp and udp" in done.err
    done = cove("run", "-p", "80:90:100:80", "bb", "true", code=125)
    assert '"80:90" is no address of the host' in done.err


LAST = """
import socket
link, _ = socket.create_server(("", 80)).accept()
link.sendall(bytes(300_000))
"""


def begun(port: int, found: list[socket.socket]) -> bool:
    """Whether a connection has its first byte."""
    try:
        found.append(connect(LOOPBACK, port))
        return found[-1].recv(1) == b"\0"
    except ConnectionResetError:  # the server does not listen yet
        return False


def test_last_words_are_heard(cove: Cove) -> None:
    """Of a machine that ends as it answers; a client that takes its time has all of it."""
    found: list[socket.socket] = []
    try:
        words = (with_python(cove), "/usr/bin/python3", "-c", LAST)
        cove("run", "-d", "--name", "one", "-p", "8130:80", *words)
        wait_until(lambda: begun(8130, found), "an answer")
        assert cove("wait", "one").out == "0\n"
        wait_until(lambda: free(LOOPBACK, 8130), "its port")
        assert len(to_end(found[-1])) == 299_999
    finally:
        cove("rm", "-f", "one")
        for link in found:
            link.close()


# ---- who is killed ----


def test_a_relay_that_is_killed_is_replaced(cove: Cove) -> None:
    with running(cove, "one", "-p", "8140:80"):
        wait_until(lambda: answers(LOOPBACK, 8140), "the server")
        pid = cove.inspect("one")["State"]["Pid"]
        relay = relay_of(cove, pid)
        status = Path(f"/proc/{relay}/status").read_text()
        assert "\nUid:\t2147483648\t2147483648\t" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nNoNewPrivs:\t1\nSeccomp:\t2\n" in status
        kill_process(relay)
        wait_until(lambda: answers(LOOPBACK, 8140), "another relay")
        assert relay_of(cove, pid) not in (0, relay)


def test_it_outlives_the_daemon(cove: Cove) -> None:
    with running(cove, "one", "-p", "8150:80"):
        wait_until(lambda: answers(LOOPBACK, 8150), "the server")
        pid = cove.inspect("one")["State"]["Pid"]
        relay = relay_of(cove, pid)
        with connect(LOOPBACK, 8150) as link:
            cove.kill_daemon()
            link.sendall(b"a")
            assert link.recv(1) == b"a"
            cove("port", "add", "one", "8151:80")
            assert relay_of(cove, pid) == relay
            assert say(LOOPBACK, 8151) == b"hello"
            cove.stop_daemon()
            link.sendall(b"b")
            assert link.recv(1) == b"b"
            assert len(ports(cove, "one")) == 2
        cove.kill_daemon()
        kill_process(relay)
        cove("ps")
        wait_until(lambda: answers(LOOPBACK, 8150) and answers(LOOPBACK, 8151), "a relay")
        monitor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        kill_process(monitor)
        wait_until(lambda: free(LOOPBACK, 8150) and free(LOOPBACK, 8151), "its ports")
        assert not ports(cove, "one")
        cove("start", "one")
        wait_until(lambda: answers(LOOPBACK, 8150), "the server")
        pid = cove.inspect("one")["State"]["Pid"]
        cove.kill_daemon()
        kill_process(pid)  # nobody is there but its monitor and its relay
        wait_until(lambda: free(LOOPBACK, 8150), "its port")


def few(stride: int) -> int:
    """Each step where all of every walk was asked for."""
    return 1 if STRIDE == 1 else stride


def agrees(cove: Cove, port: int) -> bool:
    """Kernel, records and rules."""
    told = ports(cove, NAME) if cove("ps", "-q", "-f", f"name={NAME}").out else []
    door = f"tcp . {port}" in rules()
    return bool(told) == door and (answers(LOOPBACK, port) if told else free(LOOPBACK, port))


@no_scenario("it kills the daemon between steps of the host's, which are the same for all machines")
@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_start(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    words = ("run", "-d", "--name", NAME, "-p", "0.0.0.0:8160:80", "bb", *ECHO)
    verb, undo = "cove.engine.networks.ports:open_all", ("rm", "-f", NAME)
    for where, told in walk(cove, tmp_path / "at", verb, words, again=undo, stride=few(30)):
        wait_until(lambda: agrees(cove, 8160), f"agreement after {where}")
        assert cove("ps", "-q").out or not told, where
        cove("rm", "-f", NAME, code=None)
        wait_until(lambda: agrees(cove, 8160), f"the end after {where}")
    cove("rm", "-f", NAME)


@no_scenario("it kills the daemon between steps of the host's, which are the same for all machines")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("verb", ["add", "rm"])
def test_a_daemon_killed_at_any_step_of_a_change(
    fresh_cove: Cove, tmp_path: Path, verb: str
) -> None:
    """The relay of a machine that runs is made, as after a start, where nobody waits for it."""
    cove, other = fresh_cove, {"add": "rm", "rm": "add"}[verb]
    port = "0.0.0.0:8170:80"
    with running(cove, NAME, "--network", "bridge"):
        if verb == "rm":
            cove("port", "add", NAME, port)
        steps = walk(
            cove, tmp_path / "at", "cove.engine.networks.publishing:change",
            ("port", verb, NAME, port), again=("port", other, NAME, port),
            stride=few(12 if verb == "add" else 4),
        )  # fmt: skip
        for where, told in steps:
            wait_until(lambda: agrees(cove, 8170), f"agreement after {where}")
            assert not told or bool(ports(cove, NAME)) == (verb == "add"), where


@no_scenario("it kills the daemon between steps of the host's, which are the same for all machines")
@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_an_end(fresh_cove: Cove, tmp_path: Path) -> None:
    cove = fresh_cove
    start = ("run", "-d", "--name", NAME, "-p", "0.0.0.0:8180:80", "bb", *ECHO)
    cove(*start)
    for where, _ in walk(
        cove, tmp_path / "at", "cove.engine.networks.ports:close", ("rm", "-f", NAME),
        again=start, stride=few(5),
    ):  # fmt: skip
        cove("rm", "-f", NAME, code=None)
        wait_until(lambda: agrees(cove, 8180), f"the end after {where}")
