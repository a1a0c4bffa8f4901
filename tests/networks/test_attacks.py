"""What a hostile root inside a machine tries on its network. Each trick is shown to work where
nothing guards, and is followed by an honest packet of the same sender, which arrives: what was sent
before it has arrived too, or never will.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Cove, wait_until
from tests.networks.conftest import (
    METADATA,
    Host,
    inside,
    machine,
    network,
    rules,
    run,
    with_python,
)

pytestmark = pytest.mark.usefixtures("clean")

SPOOF = """
import os, socket, struct, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one queue, so that order is kept
victim, victim_mac, own = sys.argv[1:4]
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind(("eth0", 0))
mac = raw.getsockname()[4]
to = bytes.fromhex(victim_mac.replace(":", ""))
other = bytes.fromhex("02deadbeef01")
def ip(source, text, kind=17):
    body = struct.pack("!HHHH", 4000, 4000, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, 0, 64, kind, 0,
                       socket.inet_aton(source), socket.inet_aton(victim))
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xffff) + (total >> 16)
    total = ~((total & 0xffff) + (total >> 16)) & 0xffff
    return head[:10] + struct.pack("!H", total) + head[12:] + body
def arp(sender_mac, sender_ip, verb=2):
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, verb, sender_mac,
                       socket.inet_aton(sender_ip), to, socket.inet_aton(victim))
def send(source, kind, body):
    raw.send(to + source + struct.pack("!H", kind) + body)
gateway = own.rsplit(".", 1)[0] + ".1"
send(mac, 0x800, ip("203.0.113.9", b"SPOOF address"))
send(mac, 0x800, ip(gateway, b"SPOOF gateway"))
send(other, 0x800, ip(own, b"SPOOF mac"))
send(mac, 0x806, arp(mac, gateway))
send(mac, 0x806, arp(other, own))
send(other, 0x806, arp(mac, own))
send(mac, 0x86dd, b"\\x60" + bytes(5) + b"\\x3a\\xff" + bytes(32) + b"SPOOF six")
send(mac, 0x88cc, b"SPOOF lldp")
raw.send(to + mac + struct.pack("!HHH", 0x8100, 5, 0x800) + ip("203.0.113.9", b"SPOOF vlan"))
for text in sys.argv[4:]:
    raw.send(to + mac + struct.pack("!HHH", 0x8100, 5, 0x800) + ip(own, text.encode()))
# What an emulator sends may overtake what it sent on another CPU: an answer is waited for.
icmp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
icmp.settimeout(120)
icmp.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1), (gateway, 0))
icmp.recv(100)
send(mac, 0x800, ip(own, b"HONEST"))
"""

SNIFF = """
import socket, struct, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("eth0", 3))
# An emulated card lets through what is for its address, of VLANs that its guest has, or else all.
raw.setsockopt(263, 1, struct.pack("iHH8x", socket.if_nametoindex("eth0"), 1, 0))
print("ready", flush=True)
attacker, gateway = sys.argv[1], sys.argv[2]
while True:
    data, (_, _, kind, _, _) = raw.recvfrom(2000)
    if kind == socket.PACKET_OUTGOING:
        continue
    if b"SPOOF" in data:
        text = data[data.index(b"SPOOF"):].split(b"\\0")[0]  # a card fills short frames up
        print(text.decode("latin-1"), flush=True)
    if data[12:14] == b"\\x08\\x06" and data[20:22] == b"\\0\\2" and (
        socket.inet_ntoa(data[28:32]) == gateway or data[22:28] != data[6:12]
        or data[6:8] == b"\\x02\\xde"
    ):
        print("SPOOF arp", flush=True)
    if b"HONEST" in data:
        break
"""


@pytest.fixture
def lan(cove: Cove) -> Iterator[str]:
    """A network with a victim on it: the gateway."""
    with network(cove, "lan") as gateway:
        yield gateway


def python(cove: Cove, name: str, code: str, *words: str) -> str:
    return cove("exec", name, "python3", "-c", code, *words).out


@contextmanager
def people(cove: Cove) -> Iterator[tuple[str, str, str]]:
    """A victim, its MAC address, and an attacker."""
    with machine(cove, "victim", "lan", image=with_python(cove)) as victim:
        mac = cove.inspect("victim")["NetworkSettings"]["Networks"]["lan"]["MacAddress"]
        with machine(cove, "attacker", "lan", image=with_python(cove)) as attacker:
            yield victim, mac, attacker


def spoof(cove: Cove, gateway: str, victim: str, mac: str, attacker: str) -> set[str]:
    """The forgeries that arrive."""
    sniffer = cove.spawn("exec", "victim", "python3", "-uc", SNIFF, attacker, gateway)
    assert sniffer.stdout is not None
    assert sniffer.stdout.readline() == b"ready\n"
    python(cove, "attacker", SPOOF, victim, mac, attacker, "SPOOF tagged")
    seen, _ = sniffer.communicate(timeout=180)
    return set(seen.decode().splitlines())


def test_no_forged_sender_leaves_a_machine(cove: Cove, lan: str) -> None:
    with people(cove) as who:
        assert spoof(cove, lan, *who) == set()
        tag = rules().split("table bridge ")[1].split()[0]
        run("nft", "flush", "chain", "bridge", tag, "guard")
        got = spoof(cove, lan, *who)
        assert got >= {
            "SPOOF address", "SPOOF gateway", "SPOOF mac", "SPOOF arp", "SPOOF lldp", "SPOOF tagged"
        }, got  # fmt: skip
        cove("run", "--rm", "--network", "lan", "bb", "true")
        run("nft", "delete", "table", "bridge", tag)
        cove("run", "--rm", "--network", "lan", "bb", "true")
        assert spoof(cove, lan, *who) == set()  # made anew with the next machine


PROBE = """
import os, socket, struct, subprocess, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
gateway = sys.argv[1]
def honest(number):
    icmp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    icmp.settimeout(120)
    icmp.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, number), (gateway, 0))
    icmp.recv(100)
honest(1)
for target in sys.argv[2:]:
    address, port, kind = target.split(",")
    if kind == "raw":  # to the gateway's MAC address, whatever this machine's own routes say
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
        line = next(l.split() for l in open("/proc/net/arp") if l.startswith(gateway + " "))
        own = subprocess.run(["hostname", "-i"], capture_output=True, text=True).stdout.split()[0]
        body = struct.pack("!HHHH", 4000, int(port), 13, 0) + b"PROBE"
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 33, 7, 0, 64, 17, 0,
                           socket.inet_aton(own), socket.inet_aton(address))
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xffff) + (total >> 16)
        total = ~((total & 0xffff) + (total >> 16)) & 0xffff
        head = head[:10] + struct.pack("!H", total) + head[12:]
        mac = bytes.fromhex(line[3].replace(":", ""))
        raw.sendto(head + body, ("eth0", 0x800, 0, 0, mac))
    else:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.sendto(b"PROBE", (address, int(port)))
        except OSError as error:
            print(error)
honest(2)
"""


def probe(cove: Cove, gateway: str, *targets: str) -> None:
    """Send to each, then wait for the gateway's answer to an honest packet."""
    python(cove, "attacker", PROBE, gateway, *targets)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind((address, 0))
        yield sock


def heard(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(100))
    except BlockingIOError:
        return False


def port(sock: socket.socket) -> str:
    return str(sock.getsockname()[1])


def test_the_host_itself_is_not_reached(cove: Cove, lan: str) -> None:
    machines = (
        machine(cove, "there", "other"),
        machine(cove, "attacker", "lan", image=with_python(cove)),
    )
    with network(cove, "other") as other, machines[0], machines[1]:
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "lan").out.strip()
        # As if somebody had switched on what lets 127.0.0.1 in from other interfaces.
        Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").write_text("1")
        places = ("127.0.0.1", "0.0.0.0", lan, other, "198.51.100.1")
        with (
                listening(places[0]) as lo, listening(places[1]) as every,
                listening(places[2]) as here, listening(places[3]) as far,
                listening(places[4]) as up,
            ):  # fmt: skip
            probe(
                    cove, lan,
                    f"127.0.0.1,{port(lo)},raw", f"{lan},{port(every)},udp",
                    f"{lan},{port(here)},udp", f"{other},{port(far)},udp",
                    f"198.51.100.1,{port(up)},udp",
                )  # fmt: skip
            assert not any(map(heard, (lo, every, here, far, up)))
            tag = rules().split("table bridge ")[1].split()[0]
            run("nft", "delete", "table", "inet", tag)
            probe(
                    cove, lan,
                    f"127.0.0.1,{port(lo)},raw", f"{lan},{port(here)},udp",
                    f"{other},{port(far)},udp",
                )  # fmt: skip
            wait_until(lambda: heard(here), "what nothing guards")
            wait_until(lambda: heard(far), "what nothing guards")
            wait_until(lambda: heard(lo), "what nothing guards")
        cove("run", "--rm", "--network", "lan", "bb", "true")


COUNT = ("grep", "^Udp:", "/proc/net/snmp")


def received(cove: Cove, name: str) -> int:
    """Datagrams that came to a machine, whether or not somebody listens there."""
    titles, numbers = (line.split() for line in cove("exec", name, *COUNT).out.splitlines()[:2])
    found = dict(zip(titles[1:], map(int, numbers[1:]), strict=True))
    return found["InDatagrams"] + found["NoPorts"] + found["InErrors"]


def test_machines_of_another_network_are_not_reached(cove: Cove, lan: str) -> None:
    machines = (
        machine(cove, "there", "other"),
        machine(cove, "attacker", "lan", image=with_python(cove)),
    )
    with network(cove, "other"), machines[0] as there, machines[1]:
        before = received(cove, "there")
        probe(cove, lan, f"{there},4000,udp", f"{there},4000,raw")
        assert received(cove, "there") == before
        tag = rules().split("table bridge ")[1].split()[0]
        run("nft", "delete", "table", "inet", tag)
        probe(cove, lan, f"{there},4000,udp", f"{there},4000,raw")
        wait_until(lambda: received(cove, "there") == before + 2, "what nothing guards")
        cove("run", "--rm", "--network", "lan", "bb", "true")


def datagrams(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((address, 0))
    return sock


def test_the_metadata_service_of_a_cloud_is_not_reached(cove: Cove, lan: str, host: Host) -> None:
    with machine(cove, "attacker", "lan", image=with_python(cove)), ExitStack() as held:
        with inside(host.outside):
            metadata = [held.enter_context(datagrams(address)) for address in METADATA]
            open_to_all = held.enter_context(datagrams("198.51.100.2"))
        targets = [
            f"{sock.getsockname()[0]},{port(sock)},{kind}"
            for sock in metadata
            for kind in ("udp", "raw")
        ]
        probe(cove, lan, *targets, f"198.51.100.2,{port(open_to_all)},udp")
        wait_until(lambda: heard(open_to_all), "what is allowed, sent behind it")
        assert not any(heard(sock) for sock in metadata)


def test_the_host_routes_for_nobody_else(cove: Cove, lan: str, host: Host) -> None:
    """cove switched forwarding on for its machines: neighbours of the host gain nothing."""
    with machine(cove, "one", "lan"):
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
        found = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
        chains = {chain: _last(found, chain) for chain in ("forward", "others")}
        family, verdict = chains["forward"]
        assert family["match"]["right"] == "ipv4" and verdict == {"jump": {"target": "others"}}
        assert chains["others"] == [{"drop": None}]  # of whom there is more in test_beside.py


def _last(found: list[dict[str, Any]], chain: str) -> list[dict[str, Any]]:
    """The last rule of a chain."""
    expressions: list[dict[str, Any]] = [
        item["rule"]["expr"] for item in found if item.get("rule", {}).get("chain") == chain
    ][-1]
    return expressions
