"""What goes wrong around networks says what it was, and leaves nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cove.client.transport import Http
from cove.client.verbs import VERBS
from cove.engine.calls import Call
from cove.engine.calls.networks import NetworkConnect, NetworkCreate
from cove.errors import CoveError
from cove.spec.network import NetworkSpec
from tests.driver import Cove, wait_until
from tests.networks.conftest import links, machine, network, rules, run, state
from tests.shared import no_scenario

pytestmark = pytest.mark.usefixtures("clean")

BEFORE = (
    (("create", "--subnet", "10.5.0.0/33", "x1"), "not ADDRESS/BITS", 125),
    (("create", "--subnet", "10.5.0.1/24", "x1"), "the network is 10.5.0.0/24", 125),
    (("create", "--subnet", "127.0.0.0/8", "x1"), "for no machine", 125),
    (("create", "--gateway", "10.5.0.1", "x1"), "--gateway needs a --subnet", 125),
    (("create", "--subnet", "10.5.0.0/24", "--gateway", "10.6.0.1", "x1"), "no address of", 125),
    (("create", "--subnet", "10.5.0.0/24", "--ip-range", "10.6.0.0/25", "x1"), "no part of", 125),
    (("create", "-d", "overlay", "x1"), "cove has only bridge", 125),
    (("create", "-o", "a=b", "x1"), "have none", 125),
    (("create", "host"), "a meaning of its own", 125),
    (("create", "--subnet", "198.51.100.0/25", "x1"), "where the host has a way to", 1),
    (("rm", "nothere"), 'cannot find network "nothere"', 1),
    (("rm", "host"), "it is always there", 1),
    (("inspect", "nothere"), 'cannot find network "nothere"', 1),
    (("ls", "-f", "colour=red"), 'cannot filter by "colour"', 125),
)


@no_scenario("no machine is made")
@pytest.mark.parametrize(("words", "message", "code"), BEFORE, ids=lambda v: " ".join(v)[:40]
                         if isinstance(v, tuple) else "")  # fmt: skip
def test_wrong_words(cove: Cove, words: tuple[str, ...], message: str, code: int) -> None:
    done = cove("network", *words, code=code)
    assert message in done.err and done.err.startswith("cove: ")


@no_scenario("no machine is made")
def test_names_and_subnets_that_are_taken(cove: Cove) -> None:
    with network(cove, "web", "--subnet", "10.5.0.0/24"):
        assert "another network has it" in cove("network", "create", "web", code=1).err
        done = cove("network", "create", "--subnet", "10.5.0.128/25", "db", code=1)
        assert "10.5.0.128/25 overlaps with 10.5.0.0/24 of network web" in done.err


@no_scenario("no machine is made")
def test_a_subnet_is_chosen_that_the_host_has_no_way_to(cove: Cove) -> None:
    run("ip", "route", "add", "10.192.0.0/12", "dev", "uplink")
    try:
        with network(cove, "web") as gateway:
            assert gateway.startswith("172.")
    finally:
        run("ip", "route", "del", "10.192.0.0/12", "dev", "uplink")


def test_a_network_in_use(cove: Cove) -> None:
    with network(cove, "web"), machine(cove, "one", "web"):
        done = cove("network", "rm", "web", code=1)
        assert "cannot remove network web: one is on it" in done.err
        assert "hint: cove network disconnect web one" in done.err


def test_machines_that_ask_for_what_cannot_be(cove: Cove) -> None:
    done = cove("run", "--rm", "--network", "wbe", "bb", "true", code=125)
    assert 'cannot join the network "wbe": no such network' in done.err
    with network(cove, "web", "--subnet", "10.5.0.0/29"), machine(cove, "one", "web") as one:
        for verb in ("connect", "disconnect"):
            assert cove("network", verb, "wbe", "one", code=1).err == (
                'cove: cannot find network "wbe": no such network\n  hint: did you mean web?\n'
            )
        for flags, message in (
            (("--ip", "10.6.0.9"), "10.6.0.9 is no address of 10.5.0.0/29"),
            (("--ip", one), f"another machine has the address {one}"),
            (("--ip", "10.5.0.1"), "the network's gateway has the address"),
            (("--ip", "10.5.0.6"), "its name server has the address"),
            (("--mac-address", "02:c0:0a:05:00:06"), "the network itself has the MAC address"),
            (("--mac-address", "02:c0:0a:05:00:02"), "another machine has the MAC address"),
            (("--mac-address", "01:00:5e:00:00:01"), "it is a group's"),
        ):
            done = cove("run", "--rm", "--network", "web", *flags, "bb", "true", code=125)
            assert message in done.err, flags
        done = cove("run", "--rm", "--network", "wbe", "bb", "true", code=125)
        assert "did you mean web" in done.err
    assert not cove("ps", "-aq").out


def test_no_address_left(cove: Cove) -> None:
    with network(cove, "tiny", "--subnet", "10.5.0.0/29"):
        names = [f"m{number}" for number in range(4)]
        for name in names:
            cove("run", "-d", "--name", name, "--network", "tiny", "bb", "sleep", "1000")
        done = cove("run", "--rm", "--network", "tiny", "bb", "true", code=125)
        assert "all addresses of 10.5.0.0/29 are taken" in done.err
        cove("rm", "-f", names[2])
        shown = cove("run", "--rm", "--network", "tiny", "bb", "hostname", "-i").out
        assert shown == "10.5.0.4\n"
        cove("rm", "-f", *names)


def test_no_port_left(cove: Cove) -> None:
    """A bridge of the kernel's has 1,023, by whatever they are taken."""
    with network(cove, "web"), machine(cove, "one", "web"):
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "web").out.strip()
        held = len(run("ip", "-o", "link", "show", "master", bridge).splitlines())
        pairs = [(f"full{number}", f"peer{number}") for number in range(512)]
        lines = [f"link add {one} type veth peer name {two}" for one, two in pairs]
        lines += [f"link set dev {end} group 77" for pair in pairs for end in pair]
        ends = [end for pair in pairs for end in pair][: 1023 - held]
        lines += [f"link set dev {end} master {bridge}" for end in ends]
        try:
            run("ip", "-batch", "-", text="\n".join(lines))
            cove("create", "--name", "two", "--network", "web", "bb", "sleep", "1000")
            said = cove("start", "two", code=1).err
            assert "cannot connect two: all 1,023 ports of network web are taken" in said
            assert "hint: another network has as many: cove network create NAME" in said
            run("ip", "link", "del", "full0")
            cove("start", "two")
            cove("rm", "-f", "two")
        finally:
            run("ip", "link", "del", "group", "77")


def test_words_that_no_command_line_lets_through(cove: Cove) -> None:
    """What a client of the socket may send: it reaches neither the kernel nor the rules."""
    http = Http(str(cove.root / "run/api.sock"))
    bad = "x } ; flush ruleset"
    with network(cove, "web"), machine(cove, "one", "web"):
        before = rules()
        for verb, params in (
            ("network.create", NetworkCreate(NetworkSpec(bad))),
            ("network.create", NetworkCreate(NetworkSpec("db", subnet=bad))),
            ("network.create", NetworkCreate(NetworkSpec("db", subnet="10.5.0.0/24", range=bad))),
            ("network.create", NetworkCreate(NetworkSpec("db", subnet="10.5.0.0/24", gateway=bad))),
            ("network.create", NetworkCreate(NetworkSpec("db", driver=bad))),
        ):
            with pytest.raises(CoveError):
                http.call(VERBS[verb], params, Call())
        cove("create", "--name", "two", "bb", "true")
        for more in ({"ip": bad}, {"mac": bad}):
            with pytest.raises(CoveError):
                http.call(VERBS["network.connect"], NetworkConnect("web", "two", **more), Call())
            with pytest.raises(CoveError):
                http.call(VERBS["network.connect"], NetworkConnect("web", "one", **more), Call())
        assert rules() == before
        cove("rm", "two")


def test_a_bridge_that_is_taken_away(cove: Cove) -> None:
    with network(cove, "web") as gateway, machine(cove, "one", "web"):
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "web").out.strip()
        run("ip", "link", "del", bridge)
        with machine(cove, "two", "web") as two:  # the next start makes it again
            assert "1 packets received" in cove("exec", "two", "ping", "-c1", gateway).out
            assert cove("exec", "one", "ping", "-c1", "-W5", two).out


def test_the_name_of_a_bridge_that_is_taken(cove: Cove) -> None:
    with network(cove, "web"):
        cove("run", "--rm", "--network", "web", "bb", "true")
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "web").out.strip()
        run("ip", "link", "del", bridge)
        run("ip", "link", "add", bridge, "type", "veth", "peer", "name", "zz")
        words = ("run", "--rm", "--network", "web", "bb", "true")
        assert cove(*words, code=125).err.startswith(
            f"cove: cannot make network web: its bridge is called {bridge}, and that name is "
            f"taken\n  host: {bridge} is no bridge, but of the kind veth\n"
        )
        run("ip", "link", "del", "zz")
        cove(*words)


def test_rules_that_are_taken_away(cove: Cove) -> None:
    with network(cove, "web"), machine(cove, "one", "web") as one:
        before = rules()
        run("nft", "flush", "ruleset")
        with machine(cove, "two", "web"):
            assert one in rules()
            assert cove("exec", "two", "ping", "-c1", "-W5", one).out
        wait_until(lambda: rules() == before, "the rules of before")


def test_the_rules_of_every_network_go_with_a_machine(cove: Cove) -> None:
    """With a policy too, which leads it through the host; others keep theirs."""
    both = ("--network", "db", "--network-policy", "deny-all")
    with network(cove, "web"), network(cove, "db"), machine(cove, "stays", "web", *both):
        before = rules()
        with machine(cove, "goes", "web", *both):
            assert rules() != before
        wait_until(lambda: rules() == before, "the rules of before")


def test_a_link_that_the_machine_deletes_itself(cove: Cove) -> None:
    """Or switches off: a guest's is a card."""
    with network(cove, "web"):
        script = "ip link del eth0 2>/dev/null || ip link set eth0 down"
        words = ("--cap-add", "NET_ADMIN", "bb", "sh", "-c", script)
        cove("run", "--rm", "--network", "web", *words)


def test_forwarding_that_the_host_has_on_stays_on(cove: Cove) -> None:
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    switch.write_text("1")
    try:
        with network(cove, "web"), machine(cove, "one", "web"):
            assert "jump entering\n\t}" in rules()  # others go on as they did
        assert switch.read_text() == "1\n"
    finally:
        switch.write_text("0")


def test_the_daemon_is_killed_while_a_machine_is_connected(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with network(cove, "web"), network(cove, "db"), machine(cove, "one", "web") as one:
        before = state()
        cove.kill_daemon()
        assert cove("network", "inspect", "-f", "{{len .Containers}}", "web").out == "1\n"
        assert state() == before
        with machine(cove, "two", "web") as two:
            assert one != two
            assert cove("exec", "two", "ping", "-c1", "-W5", one).out
        cove.kill_daemon()
        cove("network", "connect", "db", "one")
        assert "eth1" in cove("exec", "one", "ip", "route").out


@pytest.mark.parametrize("lost", ["link", "bridge", "rules"])
def test_what_is_missing_after_a_crash_is_made_again(fresh_cove: Cove, lost: str) -> None:
    cove = fresh_cove
    with network(cove, "web") as gateway, machine(cove, "one", "web"):
        before = rules()
        cove.kill_daemon()
        bridge = next(name for name in links() if name[:2] == "cv" and name[7] == "b")
        port = next(name for name in links() if name[:2] == "cv" and name[7] == "e")
        if lost == "rules":
            run("nft", "flush", "ruleset")
        else:
            run("ip", "link", "del", {"link": port, "bridge": bridge}[lost])
        assert cove("network", "ls", "-q").out
        assert rules() == before
        assert cove("exec", "one", "ping", "-c1", "-W5", gateway).out


def test_a_link_of_nobody_is_swept(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with network(cove, "web"), machine(cove, "one", "web"):
        before = links()
        bridge = next(name for name in before if name[:2] == "cv" and name[7] == "b")
        cove.kill_daemon()
        run("ip", "link", "add", f"{bridge[:7]}ezz0", "type", "veth", "peer", "name", "zz")
        cove("network", "ls")
        assert links() == before


def test_monitor_and_daemon_are_killed(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with network(cove, "web"):
        cove("run", "-d", "--name", "one", "--network", "web", "bb", "sleep", "1000")
        monitor = int(Path(f"/proc/{cove.inspect('one')['State']['Pid']}/stat").read_text()
                      .rpartition(")")[2].split()[1])  # fmt: skip
        cove.kill_daemon()
        os.kill(monitor, signal.SIGKILL)
        wait_until(lambda: cove("ps", "-q").out == "", "its end")
        wait_until(lambda: not any(name[7:8] == "e" for name in links() if name[:2] == "cv"),
                   "its link to go")  # fmt: skip
        cove("rm", "one")
