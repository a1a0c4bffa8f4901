"""``--network container:NAME``: one network and one user namespace for two machines, and nothing
else that they share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.networks.conftest import machine, network
from tests.shared import container_only

DEFAULT_NETWORK = "bridge"
JOIN = ("--network", "container:web")


@pytest.fixture
def swept(cove: Cove, clean: None) -> Iterator[None]:
    """A test that fails leaves nothing that the next one is blamed for."""
    yield
    cove("rm", "-f", "side", "web", code=None)
    cove("network", "prune", "-f")


def namespaces(cove: Cove, name: str) -> dict[str, str]:
    pid = cove.inspect(name)["State"]["Pid"]
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in os.listdir(f"/proc/{pid}/ns")}


def joined(cove: Cove, *words: str, flags: tuple[str, ...] = ()) -> str:
    return cove("run", "--rm", *JOIN, *flags, "bb", *words).out


@container_only("a guest has a network of its own")
def test_two_machines_have_one_network(cove: Cove, swept: None) -> None:
    """Addresses, ports, names and the host name are one; processes, files and limits are not."""
    with network(cove, "lan"), machine(cove, "web", "lan", "--hostname", "front") as address:
        serve = ("--name", "side", *JOIN, "bb", "nc", "-ll", "-p", "80", "-e", "echo", "hi")
        cove("run", "-d", *serve)
        for words in (
            ("exec", "web", "nc", "-w60", "127.0.0.1", "80"),
            ("run", "--rm", *JOIN, "bb", "nc", "-w60", "127.0.0.1", "80"),
            ("run", "--rm", "--network", "lan", "bb", "nc", "-w60", "web", "80"),
        ):
            wait_until(lambda words=words: cove(*words, code=None).out == "hi\n", "an answer")
        web, side = namespaces(cove, "web"), namespaces(cove, "side")
        assert {kind for kind in web if web[kind] == side[kind]} >= {"net", "user"}
        assert not {kind for kind in ("mnt", "pid", "uts", "ipc") if web[kind] == side[kind]}
        assert joined(cove, "hostname", "-i") == f"{address}\n"
        assert joined(cove, "hostname") == "front\n"
        for name in ("hosts", "resolv.conf", "hostname"):
            theirs = cove("exec", "web", "cat", f"/etc/{name}").out
            assert joined(cove, "cat", f"/etc/{name}") == theirs
        assert "sleep 1000" not in joined(cove, "ps")
        assert "eth0" in cove("exec", "side", "ls", "/sys/class/net").out
        assert cove("exec", "side", "hostname", "-i").out == f"{address}\n"
        assert "nc -ll" in cove("top", "side").out
        found = cove.inspect("side")
        other = cove.inspect("web")["Id"]
        assert found["HostConfig"]["NetworkMode"] == f"container:{other}"
        assert found["NetworkSettings"]["Networks"] == {}
        assert "shared with another machine" in str(found)
        cove("rm", "-f", "side")


@container_only("a guest has a network of its own")
def test_what_it_writes_is_its_own(cove: Cove, swept: None, tmp_path: Path) -> None:
    """Layers, binds, copies: ids on the disk are what they always are."""
    (tmp_path / "in").write_text("from the host\n")
    with machine(cove, "web", ""):
        mount = ("-v", f"{tmp_path}:/mnt")
        cove("run", "-d", "--name", "side", *JOIN, *mount, "bb", "sleep", "1000")
        cove("exec", "side", "sh", "-c", "echo mine > /root/own; cp /root/own /mnt/out")
        assert (tmp_path / "out").stat().st_uid == 0
        assert cove("exec", "web", "cat", "/root/own", code=1).out == ""
        cove("cp", "side:/root/own", str(tmp_path / "got"))
        assert (tmp_path / "got").read_text() == "mine\n"
        cove("cp", str(tmp_path / "in"), "side:/root/in")
        cove("stop", "-t", "0", "side")
        assert cove("cp", "side:/root/in", "-").out
        cove("start", "side")
        assert cove("exec", "side", "cat", "/root/in").out == "from the host\n"
        assert cove("diff", "side").out
        cove("rm", "-f", "side")


@container_only("a guest has a network of its own")
def test_capabilities_count_over_the_network_that_is_shared(cove: Cove, swept: None) -> None:
    """As in the machine that has it; and no further."""
    with machine(cove, "web", "") as address:
        add = ("ip", "addr", "add", "192.0.2.9/32", "dev", "lo")
        denied = cove("run", "--rm", *JOIN, "bb", *add, code=None)
        assert denied.returncode and "not permitted" in denied.err
        cove("run", "--rm", *JOIN, "--cap-add", "NET_ADMIN", "bb", *add)
        assert "192.0.2.9" in cove("exec", "web", "ip", "addr").out
        assert joined(cove, "ping", "-c1", "-W60", address)
        shown = cove("run", "--rm", *JOIN, "--privileged", "bb", "hostname", "-i").out
        assert shown == f"{address}\n"


@container_only("a guest has a network of its own")
def test_neither_sees_or_ends_the_other(cove: Cove, swept: None) -> None:
    """The same ids: what keeps them apart is that neither has a name for a process of the other."""
    with machine(cove, "web", ""):
        cove("run", "-d", "--name", "side", *JOIN, "bb", "sleep", "1000")
        for one in ("web", "side"):
            kill = 'for pid in $(seq 2 400); do kill -9 "$pid" 2>/dev/null; done; kill -9 -1; true'
            cove("exec", one, "sh", "-c", kill, code=None)
        assert cove("ps", "--format", "{{.Names}}").out.split() == ["side", "web"]
        inside = cove("exec", "side", "sh", "-c", "ls -d /proc/[0-9]* | wc -l").out
        assert int(inside) <= 4
        cove("rm", "-f", "side")


@container_only("a guest has a network of its own")
def test_its_end_does_not_touch_the_other(cove: Cove, swept: None) -> None:
    with machine(cove, "web", "") as address:
        joined(cove, "true")
        cove("run", "-d", "--name", "side", *JOIN, "bb", "sleep", "1000")
        cove("rm", "-f", "side")
        assert cove("run", "--rm", "bb", "ping", "-c1", "-W60", address).out


@container_only("a guest has a network of its own")
def test_the_other_one_starts_anew_or_goes(cove: Cove, swept: None) -> None:
    """Who holds it keeps the old network, which leads nowhere; its next start joins the new one.
    Ids are given to nobody else before both have ended.
    """
    with machine(cove, "web", ""):
        cove("run", "-d", "--name", "side", *JOIN, "bb", "sleep", "1000")
        before = namespaces(cove, "side")
        ids = cove("exec", "side", "cat", "/proc/self/uid_map").out
        cove("restart", "-t", "0", "web")
        assert namespaces(cove, "side") == before
        links = "ls /sys/class/net"
        wait_until(lambda: cove("exec", "side", "sh", "-c", links).out == "lo\n", "its link's end")
        assert cove("exec", "web", "cat", "/proc/self/uid_map").out != ids
        cove("restart", "-t", "0", "side")
        assert namespaces(cove, "side")["net"] == namespaces(cove, "web")["net"]
        assert "eth0" in cove("exec", "side", "sh", "-c", links).out
        cove("rename", "web", "other")
        cove("restart", "-t", "0", "side")
        cove("rename", "other", "web")
    assert cove("exec", "side", "ls", "/sys/class/net").out == "lo\n"
    gone = cove("restart", "-t", "0", "side", code=1)
    assert "no such machine" in gone.err
    cove("rm", "side")


@container_only("a guest has a network of its own")
def test_a_daemon_that_is_killed_knows_whose_ids_are_whose(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with machine(cove, "web", ""):
        cove("run", "-d", "--name", "side", *JOIN, "bb", "sleep", "1000")
        cove.kill_daemon()
        cove("stop", "-t", "0", "web")
        ids = cove("exec", "side", "cat", "/proc/self/uid_map").out
        for _ in range(3):
            assert cove("run", "--rm", "bb", "cat", "/proc/self/uid_map").out != ids
        cove("start", "web")
        cove("rm", "-f", "side")
        assert "nothing was found" in cove("system", "check").out


@container_only("a guest has a network of its own")
def test_chains(cove: Cove, swept: None) -> None:
    with machine(cove, "web", "", "--hostname", "front") as address:
        cove("run", "-d", "--name", "side", *JOIN, "bb", "sleep", "1000")
        words = ("run", "--rm", "--network", "container:side", "bb", "hostname")
        assert cove(*words).out == "front\n"
        assert cove(*words, "-i").out == f"{address}\n"
        cove("rm", "-f", "side")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--hostname", "x"), "cannot use --hostname"),
        (("-p", "80"), "cannot use --publish"),
        (("-P",), "cannot use --publish-all"),
        (("--expose", "80"), "cannot use --expose"),
        (("--ip", "10.1.2.3"), "cannot use --ip"),
        (("--ip6", "fd00::9"), "cannot use --ip6"),
        (("--mac-address", "02:00:00:00:00:01"), "cannot use --mac-address"),
        (("--network-alias", "db"), "cannot use --network-alias"),
        (("--dns", "10.1.2.3"), "cannot use --dns"),
        (("--dns-search", "a"), "cannot use --dns-search"),
        (("--dns-option", "a"), "cannot use --dns-option"),
        (("--add-host", "a:10.1.2.3"), "cannot use --add-host"),
        (("--sysctl", "net.ipv4.ip_forward=1"), "cannot use --sysctl"),
        (("--network", "web"), "there is no other"),
        (("--isolation", "vm"), "a guest's network is its own kernel's"),
    ],
)
def test_what_is_the_other_machines_is_not_chosen(
    cove: Cove, flags: tuple[str, ...], said: str
) -> None:
    done = cove("run", "--rm", *JOIN, *flags, "bb", "true", code=125)
    assert said in done.err


@container_only("a guest has a network of its own")
def test_whose_network_cannot_be_joined(cove: Cove, swept: None) -> None:
    done = cove("run", "--rm", *JOIN, "bb", "true", code=125)
    assert done.err == (
        "cove: cannot join the network of web: no such machine\n"
        "  from: --network container:web\n"
        "  hint: cove ps -a lists them\n"
    )
    cove("run", "--rm", "--network", "container:", "bb", "true", code=125)
    cove("create", "--name", "web", "bb", "sleep", "1000")
    done = cove("run", "--rm", *JOIN, "bb", "true", code=125)
    assert "cannot join the network of web: it does not run" in done.err
    assert "hint: cove start web" in done.err
    cove("create", "--name", "side", *JOIN, "bb", "sleep", "1000")
    assert "it does not run" in cove("start", "side", code=1).err
    cove("start", "web")
    cove("start", "side")
    for verb in (("network", "connect", "bridge", "side"), ("port", "add", "side", "80")):
        assert "shares the network of another machine" in cove(*verb, code=1).err
    cove("rm", "-f", "web", "side")
    for flags, said in (
        (("--network", "host"), "it is on the host's own"),
        (("--privileged",), "it has no user namespace of its own"),
    ):
        cove("run", "-d", "--name", "web", *flags, "bb", "sleep", "1000")
        assert said in cove("run", "--rm", *JOIN, "bb", "true", code=125).err
        cove("rm", "-f", "web")


@container_only("a guest has a network of its own")
def test_a_program_that_has_left_its_namespaces_is_not_followed(cove: Cove, swept: None) -> None:
    """Its ids would be what it wrote itself."""
    unconfined = ("--security-opt", "seccomp=unconfined", "--cap-add", "SYS_ADMIN")
    leave = "exec unshare -r -n sleep 1000"
    with machine(cove, "idle", ""):
        cove("run", "-d", "--name", "web", *unconfined, "bb", "sh", "-c", leave)
        pid = cove.inspect("web")["State"]["Pid"]
        comm = Path(f"/proc/{pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", "its program")
        done = cove("run", "--rm", *JOIN, "bb", "true", code=125)
        assert "its first process has left the namespaces that it was given" in done.err
        cove("rm", "-f", "web")
