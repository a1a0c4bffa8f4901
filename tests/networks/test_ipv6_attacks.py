"""What a hostile root inside a machine tries by IPv6. As in ``test_attacks`` each trick works where
nothing guards, and is followed by an honest packet, which arrives.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cove.planner.networks.addresses import link_local
from tests.driver import Cove, wait_until
from tests.networks.conftest import Host, inside, machine, network, rules, run, with_python
from tests.networks.frames import SNIFF6, ethernet, forged6, udp6
from tests.networks.test_attacks import heard, port
from tests.networks.test_ipv6 import INSIDE6, OUTSIDE6, address6, place, six

__all__ = ["six"]

pytestmark = pytest.mark.usefixtures("clean")

METADATA6 = "fd00:ec2::254"
ALL = {
    "SPOOF address", "SPOOF gateway", "SPOOF local", "SPOOF nobody", "SPOOF neighbour",
    "SPOOF question", "SPOOF taken", "SPOOF solicit", "SPOOF router", "SPOOF redirect",
    "SPOOF query", "SPOOF dhcp", "SPOOF mac", "SPOOF hidden", "SPOOF fragment",
}  # fmt: skip


def spoof(cove: Cove, net: str, victim: str, attacker: str, link: str = "eth0") -> set[str]:
    """The forgeries that arrive."""
    mac, own = str(place(cove, attacker, net)["MacAddress"]), address6(cove, attacker, net)
    gateway = str(place(cove, attacker, net)["IPv6Gateway"])
    to, local = str(place(cove, victim, net)["MacAddress"]), str(link_local(mac).ip)
    sniffer = cove.spawn("exec", victim, "python3", "-uc", SNIFF6, mac, own, local)
    assert sniffer.stdout is not None
    assert sniffer.stdout.readline() == b"ready\n"
    frames = forged6(mac, own, local, gateway, to, address6(cove, victim, net))
    assert cove("exec", attacker, "probe", "frames", link, *frames).out == "ok\n"
    return set(sniffer.communicate(timeout=180)[0].decode().splitlines())


def check_spoofing(cove: Cove, net: str, victim: str, attacker: str) -> None:
    assert spoof(cove, net, victim, attacker) == set()
    tag = rules().split("table bridge ")[1].split()[0]
    run("nft", "flush", "chain", "bridge", tag, "guard")
    assert spoof(cove, net, victim, attacker) >= ALL
    run("nft", "delete", "table", "bridge", tag)
    cove("run", "--rm", "--network", net, "bb", "true")
    assert spoof(cove, net, victim, attacker) == set()  # made anew with the next machine


def test_no_forged_sender_leaves_a_machine(cove: Cove) -> None:
    with (
        network(cove, "lan", "--ipv6"),
        machine(cove, "victim", "lan", image=with_python(cove)),
        machine(cove, "attacker", "lan"),
    ):
        check_spoofing(cove, "lan", "victim", "attacker")


PROBE = """
import socket, struct, sys
gateway = sys.argv[1]
def honest(number):
    icmp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
    icmp.settimeout(120)
    icmp.sendto(struct.pack("!BBHHH", 128, 0, 0, 0, number), (gateway, 0))
    icmp.recv(100)
honest(1)
for target in sys.argv[2:]:
    address, port = target.split(",")
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    host, _, link = address.partition("%")
    try:
        udp.sendto(b"PROBE", (host, int(port), 0, socket.if_nametoindex(link) if link else 0))
    except OSError as error:
        print(error)
honest(2)
"""


def probe(cove: Cove, gateway: str, *targets: str) -> None:
    cove("exec", "attacker", "python3", "-c", PROBE, gateway, *targets)


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        host, _, link = address.partition("%")
        sock.bind((host, 0, 0, socket.if_nametoindex(link) if link else 0))
        yield sock


def gateway6(cove: Cove, net: str) -> str:
    form = "{{(index .IPAM.Config 1).Gateway}} {{.Bridge}}"
    return cove("network", "inspect", "-f", form, net).out.split()[0]


def received(cove: Cove, name: str) -> int:
    """Datagrams that came to a machine, whether or not somebody listens there."""
    lines = cove("exec", name, "cat", "/proc/net/snmp6").out.splitlines()
    words = dict(line.split() for line in lines)
    return sum(int(words[f"Udp6{name}"]) for name in ("InDatagrams", "NoPorts", "InErrors"))


def test_neither_the_host_nor_other_networks_nor_metadata_are_reached(
    cove: Cove, host: Host
) -> None:
    run("ip", "route", "add", METADATA6, "via", OUTSIDE6)
    with inside(host.outside):
        run("ip", "addr", "add", f"{METADATA6}/128", "dev", "lo", "nodad")  # else a moment later
        metadata = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        metadata.bind((METADATA6, 0))
        open_to_all = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        open_to_all.bind((OUTSIDE6, 0))
    with (
        metadata,
        open_to_all,
        network(cove, "lan", "--ipv6"),
        network(cove, "other", "--ipv6"),
        machine(cove, "there", "other"),
        machine(cove, "attacker", "lan", image=with_python(cove)),
    ):
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "lan").out.strip()
        lan, other = gateway6(cove, "lan"), gateway6(cove, "other")
        link = run("ip", "-o", "link", "show", bridge).split("link/ether ")[1].split()[0]
        local = str(link_local(link).ip)
        before = received(cove, "there")
        with (
            listening("::1") as lo, listening("::") as every, listening(lan) as here,
            listening(other) as far, listening(INSIDE6) as up,
            listening(f"{local}%{bridge}") as near,
        ):  # fmt: skip
            targets = (
                f"{lan},{port(every)}", f"{lan},{port(here)}", f"{other},{port(far)}",
                f"{INSIDE6},{port(up)}", f"{local}%eth0,{port(near)}",
                f"{address6(cove, 'there', 'other')},4000", f"{METADATA6},{port(metadata)}",
            )  # fmt: skip
            probe(cove, lan, *targets, f"{OUTSIDE6},{port(open_to_all)}")
            own = place(cove, "attacker", "lan")
            to_loopback = ethernet(
                link, str(own["MacAddress"]), 0x86DD,
                udp6(address6(cove, "attacker", "lan"), "::1", b"PROBE",
                     ports=(4000, int(port(lo)))),
            )  # fmt: skip
            send = "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); " \
                "s.bind(('eth0', 0)); s.send(bytes.fromhex(sys.argv[1]))"  # fmt: skip
            cove("exec", "attacker", "python3", "-c", send, to_loopback)
            probe(cove, lan)
            wait_until(lambda: heard(open_to_all), "what is allowed, sent behind it")
            assert not any(map(heard, (lo, every, here, far, up, near, metadata)))
            assert received(cove, "there") == before
            tag = rules().split("table bridge ")[1].split()[0]
            run("nft", "delete", "table", "inet", tag)
            probe(cove, lan, *targets)
            for sock in (every, here, far, up, near):
                wait_until(lambda sock=sock: heard(sock), "what nothing guards")  # type: ignore[misc]
            wait_until(lambda: received(cove, "there") == before + 1, "what nothing guards")
        cove("run", "--rm", "--network", "lan", "bb", "true")
    run("ip", "route", "del", METADATA6, "via", OUTSIDE6)
