"""Virtual machines on networks: by tap on the same bridges, behind the same rules."""

from __future__ import annotations

import ctypes
import fcntl
import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need
from tests.driver import Cove, front_path, wait_until
from tests.kernel.conftest import closed_cove
from tests.networks.asking import seat
from tests.networks.conftest import Host, address, machine, network, rules, run
from tests.networks.frames import OTHER_MAC, ethernet, forged, giant, udp, unfinished
from tests.networks.test_attacks import SNIFF, heard, listening, port, received
from tests.networks.test_capture import capturing, echoes, packets, replies, told
from tests.networks.test_ipv6 import address6, place
from tests.networks.test_ipv6_attacks import spoof as spoof6
from tests.networks.test_networks import ping, unheard
from tests.shared import give_guests

pytestmark = pytest.mark.timeout(900)

GUESTS = True
"""Whose kernel is fetched before this is in a network of its own."""


@contextmanager
def with_kernel(bb_tar: Path) -> Iterator[Cove]:
    need("qemu-system-x86_64")
    need("mkfs.erofs")
    with closed_cove(bb_tar) as driver:
        give_guests(driver)
        yield driver
        driver("rm", "-f", *driver("ps", "-aq").out.split(), code=None)
        driver("network", "prune", "-f")
    assert rules() == "", "rules are left"


@pytest.fixture(scope="module")
def cove(host: Host, bb_tar: Path) -> Iterator[Cove]:
    """With a guest kernel, in the network of ``host``; the first machine boots, on a network."""
    with with_kernel(bb_tar) as driver:
        with network(driver, "first") as gateway:
            shown = driver("run", "--rm", "--vm", "--network", "first", "bb", "ip", "route").out
            assert f"default via {gateway} dev eth0" in shown
        wait_until(lambda: driver("template", "ls", "-q").out != "", "a template")
        yield driver


@pytest.fixture(scope="module")
def up(cove: Cove) -> Iterator[tuple[str, str]]:
    """A virtual machine ``vm`` beside the containers ``box`` and ``ear``, on network ``web``: its
    gateway, and the address of the first.
    """
    with (
        network(cove, "web") as gateway,
        machine(cove, "box", "web"),
        machine(cove, "ear", "web", image="host"),
        machine(cove, "vm", "web", "--vm", "--network-alias", "guest") as own,
    ):
        yield gateway, own


def mac_of(cove: Cove, name: str, net: str = "web") -> str:
    return str(cove.inspect(name)["NetworkSettings"]["Networks"][net]["MacAddress"])


def inside(cove: Cove, *words: str, name: str = "vm") -> str:
    return cove("exec", name, *words).out


def test_its_packets_are_captured(cove: Cove, up: tuple[str, str], tmp_path: Path) -> None:
    gateway, own = up
    file = tmp_path / "vm"
    with capturing(cove, "vm", file) as process:
        assert ping(cove, "vm", gateway)
        wait_until(lambda: replies(file, gateway, own), "an answer")
    assert "missed 0" in told(process)
    assert echoes(packets(file), own, gateway) == 1


def test_it_is_on_its_network_as_a_container_is(cove: Cove, up: tuple[str, str]) -> None:
    gateway, own = up
    box = address(cove, "box", "web")
    assert ping(cove, "vm", box) and ping(cove, "box", own) and ping(cove, "vm", gateway)
    assert ping(cove, "vm", "box") and ping(cove, "box", "vm") and ping(cove, "box", "guest")
    assert f"default via {gateway} dev eth0" in inside(cove, "ip", "route")
    shown = inside(cove, "ip", "addr")
    assert mac_of(cove, "vm") in shown and "eth1" not in shown and "card" not in shown
    assert f"{own}\t" in inside(cove, "cat", "/etc/hosts")
    found = json.loads(cove("network", "inspect", "web").out)[0]["Containers"].values()
    assert {member["Name"]: member["Aliases"] for member in found} == {
        "box": [], "ear": [], "vm": ["guest"]
    }  # fmt: skip
    seen = json.loads(cove("stats", "--no-stream", "--format", "json", "vm").out)
    assert seen["NetIO"] != "0B / 0B"


OFFLOADS = {0: "checksums", 1: "checksums to it", 7: "pieces to it", 11: "pieces", 15: "buffers"}
"""Bits of a network device of virtio: CSUM, GUEST_CSUM, GUEST_TSO4, HOST_TSO4, MRG_RXBUF."""
GET_TSO = 0x1E


def leaves_pieces(link: str) -> bool:
    """Whether who reads of this link of the host cuts packets itself (ethtool: tso)."""
    with socket.socket() as sock:
        value = ctypes.create_string_buffer(struct.pack("II", GET_TSO, 0))
        ask = struct.pack("16sP16x", link.encode(), ctypes.addressof(value))
        fcntl.ioctl(sock, 0x8946, ask)  # SIOCETHTOOL
        return bool(struct.unpack("II", value.raw[:8])[1])


def whole(cove: Cove, name: str, *cards: str) -> None:
    """Packets larger than a wire's go both ways, whole and unchecked, and nobody is asked for more
    than that: the guest agreed with its emulator, and that with the kernel.
    """
    for card in cards:
        bits = inside(cove, "cat", f"/sys/class/net/{card}/device/features", name=name)
        assert not [what for bit, what in OFFLOADS.items() if bits[bit] != "1"], (name, card)
    ports = {link for link in bridged() if link[:2] == "cv" and link[7] == "e"}
    assert [link for link in sorted(ports) if leaves_pieces(link)] == sorted(ports)


def bridged() -> list[str]:
    """Links that are ports of some bridge and taps."""
    found = Path("/sys/class/net")
    return [
        p.name for p in found.iterdir() if (p / "brport").exists() and (p / "tun_flags").exists()
    ]


LARGE = """
import socket
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("eth0", 3))
print("ready", flush=True)
while b"HONEST" not in (data := raw.recv(65536)):
    pass
print(len(data))
"""


def test_large_packets_go_whole(cove: Cove, up: tuple[str, str]) -> None:
    """However it was started, and to whichever network it came: its own, forks' and restored."""
    to, own = (mac_of(cove, "ear"), address(cove, "ear", "web")), address(cove, "vm", "web")
    ear = cove.spawn("exec", "ear", "python3", "-uc", LARGE)
    assert ear.stdout is not None and ear.stdout.readline() == b"ready\n"
    frame = giant(to[0], mac_of(cove, "vm"), own, to[1], b"HONEST")
    assert inside(cove, "probe", "giants", "eth0", frame) == "ok\n"
    assert ear.communicate(timeout=120)[0] == b"4054\n"
    with network(cove, "more"):
        whole(cove, "vm", "eth0")
        cove("network", "connect", "more", "vm")
        whole(cove, "vm", "eth0", "eth1")
        cove("fork", "--name", "other", "vm")
        try:
            whole(cove, "other", "eth0", "eth1")
            cove("snapshot", "create", "other", "large")
            cove("restore", "other", "large")
            whole(cove, "other", "eth0", "eth1")
        finally:
            cove("rm", "-f", "other", code=None)
            cove("snapshot", "rm", "-f", "large", code=None)
            cove("network", "disconnect", "more", "vm")


def test_two_networks_connect_and_disconnect_while_it_runs(cove: Cove, up: tuple[str, str]) -> None:
    gateway, _ = up
    with network(cove, "db", "--internal") as inner, machine(cove, "store", "db") as store:
        assert unheard(cove, "vm", store)
        cove("network", "connect", "--ip", f"{inner[:-1]}99", "db", "vm")
        assert address(cove, "vm", "db") == f"{inner[:-1]}99"
        assert ping(cove, "vm", store) and ping(cove, "store", f"{inner[:-1]}99")
        assert "eth1" in inside(cove, "ip", "route")
        cove("network", "disconnect", "db", "vm")
        assert "eth1" not in inside(cove, "ip", "addr") and unheard(cove, "vm", store)
        with network(cove, "lan") as other:
            cove("network", "connect", "lan", "vm")
            cove("network", "disconnect", "web", "vm")
            assert f"default via {other} dev eth1" in inside(cove, "ip", "route")
            cove("network", "connect", "--alias", "guest", "web", "vm")
            cove("network", "disconnect", "lan", "vm")
        assert f"default via {gateway} dev eth0" in inside(cove, "ip", "route")
        assert ping(cove, "vm", gateway)
        flags = ("--network", "db", "--vm")
        with machine(cove, "two", "web", *flags):
            assert ping(cove, "two", store) and ping(cove, "vm", address(cove, "two", "web"))
            assert "eth1" in inside(cove, "ip", "route", name="two")


def test_no_forged_sender_leaves_it(cove: Cove, up: tuple[str, str]) -> None:
    gateway, own = up[0], address(cove, "vm", "web")
    frames = forged(
        mac_of(cove, "vm"), own, gateway, mac_of(cove, "ear"), address(cove, "ear", "web")
    )
    to = mac_of(cove, "ear"), mac_of(cove, "vm"), "203.0.113.9", address(cove, "ear", "web")
    mine = to[0], OTHER_MAC, own, to[3]
    giants = giant(*to, b"SPOOF giant"), giant(*mine, b"SPOOF giant mac")

    def spoof() -> set[str]:
        sniffer = cove.spawn("exec", "ear", "python3", "-uc", SNIFF, own, gateway)
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == b"ready\n"
        assert inside(cove, "probe", "frames", "eth0", *frames[:-1]) == "ok\n"
        # What an emulator sends may overtake what it sent on another CPU: an answer is waited for.
        assert inside(cove, "probe", "giants", "eth0", *giants) == "ok\n"
        assert ping(cove, "vm", gateway)
        assert inside(cove, "probe", "frames", "eth0", *frames[-1:]) == "ok\n"
        return set(sniffer.communicate(timeout=120)[0].decode().splitlines())

    assert spoof() == set()
    tag = rules().split("table bridge ")[1].split()[0]
    run("nft", "flush", "chain", "bridge", tag, "guard")
    assert spoof() >= {
        "SPOOF address", "SPOOF gateway", "SPOOF mac", "SPOOF arp", "SPOOF lldp", "SPOOF giant",
        "SPOOF giant mac",
    }  # fmt: skip
    run("nft", "delete", "table", "bridge", tag)
    cove("run", "--rm", "--network", "web", "bb", "true")
    assert spoof() == set()  # made anew with the next machine


def test_the_loopback_of_the_host_is_not_reached_from_it(cove: Cove, up: tuple[str, str]) -> None:
    gateway, own = up[0], address(cove, "vm", "web")
    found = json.loads(cove("network", "inspect", "web").out)[0]
    bridge = found["Bridge"]
    # As if somebody had switched on what lets 127.0.0.1 in from other interfaces.
    Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").write_text("1")
    target_mac = run("ip", "-o", "link", "show", bridge).split("link/ether ")[1].split()[0]
    with listening("127.0.0.1") as lo:
        number = int(port(lo))
        frame = ethernet(
            target_mac, mac_of(cove, "vm"), 0x800, udp(own, "127.0.0.1", number, b"PROBE")
        )
        half = unfinished(frame)
        assert inside(cove, "probe", "frames", "eth0", frame) == "ok\n"
        assert inside(cove, "probe", "giants", "eth0", half) == "ok\n"
        assert ping(cove, "vm", gateway)  # behind it
        assert not heard(lo)
        tag = rules().split("table bridge ")[1].split()[0]
        run("nft", "delete", "table", "inet", tag)
        assert inside(cove, "probe", "frames", "eth0", frame) == "ok\n"
        wait_until(lambda: heard(lo), "what nothing guards")
        assert inside(cove, "probe", "giants", "eth0", half) == "ok\n"
        wait_until(lambda: heard(lo), "what nothing guards, and the card was to finish")
    cove("run", "--rm", "--network", "web", "bb", "true")


def test_ipv6_while_it_runs_and_from_its_start(cove: Cove, up: tuple[str, str]) -> None:
    with network(cove, "six", "--ipv6"), machine(cove, "ear6", "six", image="host") as _:
        flags = ("run", "--rm", "--vm", "--network", "six", "bb", "sh", "-c")
        shown = cove(*flags, "ip -6 addr show dev eth0; ip -6 route; cat /etc/hosts").out
        gateway = str(place(cove, "ear6", "six")["IPv6Gateway"])
        assert f"default via {gateway} dev eth0" in shown and "tentative" not in shown
        prefix = gateway.removesuffix("1")
        assert f"inet6 {prefix}" in shown and f"\n{prefix}" in shown
        # Nobody is asked whether it is taken, so the first thing that it sends has its address:
        # permanent (80), without duplicate address detection (02), and never tentative (40).
        ear = address6(cove, "ear6", "six")
        first = cove(*flags, f"nc {ear} 9 < /dev/null; cat /proc/net/if_inet6")
        assert "Connection refused" in first.err, first.err
        (line,) = [line for line in first.out.splitlines() if line.startswith("fd")]
        assert line.split()[4:] == ["82", "eth0"], first.out
        cove("network", "connect", "six", "vm")
        own = address6(cove, "vm", "six")
        shown = inside(cove, "ip", "-6", "addr", "show", "dev", "eth1")
        assert f"{own}/64" in shown and "tentative" not in shown
        assert ping(cove, "vm", ear) and ping(cove, "vm", gateway) and ping(cove, "vm", "ear6")
        with seat(cove, "ear6") as seen:
            assert [str(rr.rdata) for rr in seen.ask("vm", "AAAA").rr] == [own]
        assert spoof6(cove, "six", "ear6", "vm", "eth1") == set()
        cove("fork", "--name", "other", "vm")
        try:
            shown = inside(cove, "ip", "-6", "addr", "show", "dev", "eth1", name="other")
            assert f"{address6(cove, 'other', 'six')}/64" in shown and f"{own}/" not in shown
            assert ping(cove, "other", own) and ping(cove, "other", ear)
        finally:
            cove("rm", "-f", "other")
        cove("network", "disconnect", "six", "vm")
        assert "eth1" not in inside(cove, "ip", "addr") and unheard(cove, "vm", ear)


def test_its_network_policy_is_kept_outside_of_it(cove: Cove, up: tuple[str, str]) -> None:
    gateway, own = up[0], address(cove, "vm", "web")
    flags = ("--vm", "--network-policy", f"allow={own}/icmp")
    with machine(cove, "held", "web", *flags) as held:
        wait_until(lambda: ping(cove, "held", own, wait=2), "the way that is allowed")
        assert unheard(cove, "held", gateway)
        wait_until(lambda: ping(cove, "box", held, wait=2), "answers go out")
        assert unheard(cove, "held", address(cove, "box", "web"))
        target, ear = mac_of(cove, "ear"), address(cove, "ear", "web")
        frame = ethernet(target, mac_of(cove, "held"), 0x800, udp(held, ear, 4000, b"AROUND"))
        before = received(cove, "ear")
        assert inside(cove, "probe", "frames", "eth0", frame, name="held") == "ok\n"
        assert ping(cove, "held", own)  # behind it
        assert received(cove, "ear") == before
        form = "{{.Address}} {{.Port}} {{.Protocol}}"
        shown = cove("network", "refused", "--format", form, "held").out.splitlines()
        assert f"{ear} 4000 udp" in shown and f"{gateway}  icmp" in shown


def test_forks_and_restores_of_it_have_its_network_policy(cove: Cove, up: tuple[str, str]) -> None:
    """Each by its own addresses, which are others: they go on in the middle of what they did."""
    gateway, own = up[0], address(cove, "vm", "web")
    ear, target = address(cove, "ear", "web"), mac_of(cove, "ear")
    policy = f"allow={own}/32/icmp"

    def held(name: str, here: str) -> None:
        assert cove.inspect(name)["HostConfig"]["NetworkPolicy"] == [policy]
        wait_until(lambda: ping(cove, name, own, wait=2), "the way that is allowed")
        assert unheard(cove, name, gateway) and unheard(cove, name, ear)
        frame = ethernet(target, mac_of(cove, name), 0x800, udp(here, ear, 4000, b"AROUND"))
        before = received(cove, "ear")
        assert inside(cove, "probe", "frames", "eth0", frame, name=name) == "ok\n"
        assert ping(cove, name, own)  # behind it
        assert received(cove, "ear") == before
        form = "{{.Address}} {{.Port}} {{.Protocol}}"
        shown = cove("network", "refused", "--format", form, name).out.splitlines()
        assert {f"{ear} 4000 udp", f"{gateway}  icmp", f"{ear}  icmp"} <= set(shown)

    with machine(cove, "first", "web", "--vm", "--network-policy", policy) as first:
        try:
            cove("snapshot", "create", "first", "then")
            cove("fork", "first", "-n", "2")
            places = {name: address(cove, name, "web") for name in ("first-1", "first-2")}
            assert len({first, *places.values()}) == 3
            for name, here in places.items():
                held(name, here)
            cove("rm", "-f", "first-1", "first-2")
            cove("restore", "first", "then")
            held("first", address(cove, "first", "web"))
        finally:
            cove("rm", "-f", "first-1", "first-2", code=None)
            cove("snapshot", "rm", "-f", "then", code=None)


def test_a_fork_has_addresses_of_its_own(cove: Cove, up: tuple[str, str]) -> None:
    gateway, own = up[0], address(cove, "vm", "web")
    cove("fork", "--name", "other", "vm")
    try:
        other = address(cove, "other", "web")
        assert other != own and mac_of(cove, "other") != mac_of(cove, "vm")
        shown = inside(cove, "ip", "addr", name="other")
        assert f"{other}/" in shown and f"{own}/" not in shown
        assert mac_of(cove, "other") in shown
        assert ping(cove, "other", own) and ping(cove, "vm", other)
        assert ping(cove, "other", gateway) and ping(cove, "vm", gateway)
    finally:
        cove("rm", "-f", "other")


def test_a_clone_that_waited_has_its_network(cove: Cove) -> None:
    cove.stop_daemon()
    cove.env["COVE_VM_POOL"] = "1"
    try:
        with network(cove, "pooled") as gateway:
            ready = ("template", "ls", "--format", "{{.Warm}}")
            wait_until(lambda: cove(*ready).out.strip() == "1", "a clone that waits")
            shown = cove("run", "--rm", "--vm", "--network", "pooled", "bb", "ip", "route").out
            assert f"default via {gateway} dev eth0" in shown
    finally:
        cove.stop_daemon()
        cove.env["COVE_VM_POOL"] = "0"


def test_a_guest_without_taps_is_told_of(cove: Cove) -> None:
    """Made by a daemon that could make none, it has none when the next one can."""
    cove.stop_daemon()
    begin = (str(front_path()), "run", "-d", "--vm", "--name", "bare", "bb", "sleep", "100000")
    alone = 'mount -t tmpfs none /dev/net && exec "$0" "$@"'
    subprocess.run(["unshare", "-m", "sh", "-c", alone, *begin], env=cove.env, check=True,
                   stdout=subprocess.DEVNULL, timeout=300)  # fmt: skip
    try:
        with network(cove, "web2") as gateway:
            connect = ("network", "connect", "web2", "bare")
            said = cove(*connect, code=1).err
            assert "its guest was made without taps" in said
            assert "host: /dev/net/tun cannot be opened" in said and "modprobe tun; " in said
            cove.stop_daemon()
            said = cove(*connect, code=1).err
            assert "its guest was made without taps" in said and "modprobe" not in said
            assert cove.inspect("bare")["NetworkSettings"]["Networks"].keys() <= {"none"}
            cove("restart", "-t", "0", "bare")
            cove(*connect)
            assert ping(cove, "bare", gateway)
            cove("rm", "-f", "bare")
    finally:
        cove("rm", "-f", "bare", code=None)
