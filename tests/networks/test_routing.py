"""Machines of both kinds that forward between networks, and what they may not send for all that."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.networks.conftest import OUTSIDE, Host, inside, machine, network, rules, run
from tests.networks.frames import ethernet, forged, udp, udp6
from tests.networks.test_attacks import SNIFF, datagrams, heard, port
from tests.networks.test_capture import capturing, packets, told
from tests.networks.test_ipv6 import OUTSIDE6, place, six
from tests.networks.test_ipv6_attacks import spoof as spoof6
from tests.networks.test_networks import ping, unheard
from tests.networks.test_virtual import with_kernel
from tests.shared import no_scenario

__all__ = ["six"]

pytestmark = [
    no_scenario("machines of both kinds are in it"),
    pytest.mark.usefixtures("clean"),
    pytest.mark.timeout(900),
]

GUESTS = True
"""Whose kernel is fetched before this is in a network of its own."""

FORWARDS = ("--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "net.ipv6.conf.all.forwarding=1")
LEFT = ("--internal", "--ipv6", "--subnet", "10.61.0.0/24", "--subnet", "fd00:61::/64")
RIGHT = ("--internal", "--ipv6", "--subnet", "10.62.0.0/24", "--subnet", "fd00:62::/64")


@pytest.fixture(scope="module")
def cove(host: Host, bb_tar: Path) -> Iterator[Cove]:
    with with_kernel(bb_tar) as driver:
        yield driver


@contextmanager
def router(cove: Cove, name: str, *flags: str) -> Iterator[None]:
    """Between ``left`` and ``right``, in front of both."""
    nets = [f"--network=name={net},driver-opt=forwarding=true" for net in ("left", "right")]
    cove("run", "-d", "--name", name, *nets, *FORWARDS, *flags, "bb", "sleep", "100000")
    try:
        yield
    finally:
        cove("rm", "-f", name)


def lead(cove: Cove, name: str, net: str, by: str) -> None:
    """From now on its way out is that router."""
    there = place(cove, by, net)
    for family, key in (("-4", "IPAddress"), ("-6", "GlobalIPv6Address")):
        cove("exec", name, "ip", family, "route", "replace", "default", "via", str(there[key]))


def passed(file: Path, source: str, target: str) -> list[bytes]:
    """Frames with a packet between these addresses, in order."""
    pair, at = pair_of(source, target), 22 if ":" in source else 26
    return [data for _, _, data in packets(file) if data[at : at + len(pair)] == pair]


def pair_of(source: str, target: str) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    return socket.inet_pton(family, source) + socket.inet_pton(family, target)


def written(file: Path, source: str, target: str, often: int) -> bool:
    """In a file that is being written."""
    return file.read_bytes().count(pair_of(source, target)) >= often


def macs(frame: bytes) -> tuple[str, str]:
    """Receiver and sender."""
    return frame[:6].hex(":"), frame[6:12].hex(":")


def mac(cove: Cove, name: str, net: str) -> str:
    return str(place(cove, name, net)["MacAddress"])


def test_a_router_of_each_kind(cove: Cove, tmp_path: Path) -> None:
    with (
        network(cove, "left", *LEFT),
        network(cove, "right", *RIGHT),
        router(cove, "box"),
        router(cove, "vm", "--vm"),
        machine(cove, "one", "left", "--cap-add", "NET_ADMIN") as one,
        machine(cove, "two", "right", "--cap-add", "NET_ADMIN") as two,
    ):
        one6, two6 = (
            str(place(cove, name, net)["GlobalIPv6Address"])
            for name, net in (("one", "left"), ("two", "right"))
        )
        assert unheard(cove, "one", two)
        assert place(cove, "vm", "left")["DriverOpts"] == {"forwarding": "true"}
        assert place(cove, "one", "left")["DriverOpts"] is None
        for by in ("box", "vm"):
            lead(cove, "one", "left", by)
            lead(cove, "two", "right", by)
            names = ("left", "right", by)
            files = {name: tmp_path / f"{by}-{name}" for name in names}
            with (
                capturing(cove, "left", files["left"]) as at_left,
                capturing(cove, "right", files["right"]) as at_right,
                capturing(cove, by, files[by]) as at_both,
            ):
                for source, target in ((one, two), (one6, two6)):
                    assert ping(cove, "one", target)
                    for name, file in files.items():  # the answer, which comes last
                        often = 2 if name == by else 1
                        wait_until(partial(written, file, target, source, often), "the answer")
            assert all("missed 0" in told(each) for each in (at_left, at_right, at_both))
            for source, target, hops in ((one, two, 22), (one6, two6, 21)):
                (came,) = passed(files["left"], source, target)
                (went,) = passed(files["right"], source, target)
                assert macs(came) == (mac(cove, by, "left"), mac(cove, "one", "left"))
                assert macs(went) == (mac(cove, "two", "right"), mac(cove, by, "right"))
                assert came[hops] == went[hops] + 1
                # Two links, two sockets: who is read first is not said (each has its time).
                assert sorted(passed(files[by], source, target)) == sorted([came, went])
                (back,) = passed(files["right"], target, source)
                (home,) = passed(files["left"], target, source)
                assert sorted(passed(files[by], target, source)) == sorted([back, home])


def test_a_router_forges_nobody_of_its_network(cove: Cove, host: Host, six: None) -> None:
    with (
        network(cove, "lan", "--ipv6") as gateway,
        machine(cove, "victim", "lan", "--cap-add", "NET_ADMIN", image="host") as victim,
        machine(cove, "attacker", "lan"),
    ):
        own = place(cove, "attacker", "lan")
        # It answers nobody from elsewhere, for which it would ask where the gateway is.
        cove("exec", "victim", "ip", "route", "del", "default")

        def forge() -> set[str]:
            sniffer = cove.spawn(
                "exec", "victim", "python3", "-uc", SNIFF, str(own["IPAddress"]), gateway
            )
            assert sniffer.stdout is not None and sniffer.stdout.readline() == b"ready\n"
            where = (mac(cove, "victim", "lan"), victim)
            frames = forged(str(own["MacAddress"]), str(own["IPAddress"]), gateway, *where)
            cove("exec", "attacker", "probe", "frames", "eth0", *frames)
            return set(sniffer.communicate(timeout=180)[0].decode().splitlines())

        assert forge() == spoof6(cove, "lan", "victim", "attacker") == set()
        cove("network", "disconnect", "lan", "attacker")
        cove("network", "connect", "--driver-opt", "forwarding=true", "lan", "attacker")
        own = place(cove, "attacker", "lan")
        # What is from elsewhere, and nothing else of all that.
        assert forge() == spoof6(cove, "lan", "victim", "attacker") == {"SPOOF address"}
        only_its_own_leaves_by_the_host(cove, host)


def only_its_own_leaves_by_the_host(cove: Cove, host: Host) -> None:
    """Also where the host itself would believe other senders."""
    bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "lan").out.strip()
    gateway = run("ip", "-o", "link", "show", bridge).split("link/ether ")[1].split()[0]
    for name in ("all", bridge):
        Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    with inside(host.outside):
        four = datagrams(OUTSIDE)
        six_ = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        six_.bind((OUTSIDE6, 0))
    with four, six_:
        foreign = (
            udp("203.0.113.9", OUTSIDE, int(port(four)), b"SPOOF"),
            udp6("2001:db8::9", OUTSIDE6, b"SPOOF", ports=(4000, int(port(six_)))),
        )
        frames = [
            ethernet(gateway, mac(cove, "attacker", "lan"), kind, packet)
            for kind, packet in zip((0x800, 0x86DD), foreign, strict=True)
        ]
        cove("exec", "attacker", "probe", "frames", "eth0", *frames)
        assert ping(cove, "attacker", OUTSIDE) and ping(cove, "attacker", OUTSIDE6)
        assert not heard(four) and not heard(six_)
        tag = rules().split("table bridge ")[1].split()[0]
        run("nft", "flush", "chain", "inet", tag, "sender")
        cove("exec", "attacker", "probe", "frames", "eth0", *frames)
        wait_until(lambda: heard(four), "what nothing guards")
        wait_until(lambda: heard(six_), "what nothing guards")


def test_what_is_asked_in_vain(cove: Cove) -> None:
    def refused(*flags: str) -> str:
        return cove("run", "--rm", *flags, "bb", "true", code=125).err

    assert "cove has only forwarding=true" in refused("--network", "name=lan,driver-opt=mtu=9000")
    assert "neither true nor false" in refused("--network", "name=lan,driver-opt=forwarding=yes")
    both = ("--network", "name=lan,driver-opt=forwarding=true", "--network-policy", "deny-all")
    assert "cannot use forwarding=true with --network-policy" in refused(*both)
    with network(cove, "lan"), network(cove, "db"), machine(cove, "one", "lan", *both[2:]):
        words = ("network", "connect", "--driver-opt", "forwarding=true", "db", "one")
        assert "cannot use forwarding=true with --network-policy" in cove(*words, code=125).err
