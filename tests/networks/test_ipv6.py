"""IPv6 of networks: addresses, names, ways out, ports; a network without it has none."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.networks.asking import seat
from tests.networks.conftest import Host, inside, machine, network, rules, run
from tests.networks.publishing import ECHO, answers
from tests.networks.test_networks import ping, unheard

pytestmark = pytest.mark.usefixtures("clean")

OUTSIDE6, INSIDE6 = "2001:db8:1::2", "2001:db8:1::1"
FORWARDING = Path("/proc/sys/net/ipv6/conf/all/forwarding")
HEARS = Path("/proc/sys/net/ipv6/conf/uplink/accept_ra")


@pytest.fixture(scope="module", autouse=True)
def six(host: Host) -> Iterator[None]:
    """The host and who is outside have IPv6, too."""
    run("ip", "addr", "add", f"{INSIDE6}/64", "dev", "uplink", "nodad")
    with inside(host.outside):
        run("ip", "addr", "add", f"{OUTSIDE6}/64", "dev", "eth0", "nodad")
    yield
    run("ip", "addr", "del", f"{INSIDE6}/64", "dev", "uplink")


def place(cove: Cove, name: str, net: str) -> dict[str, object]:
    found: dict[str, object] = cove.inspect(name)["NetworkSettings"]["Networks"][net]
    return found


def address6(cove: Cove, name: str, net: str) -> str:
    return str(place(cove, name, net)["GlobalIPv6Address"])


def test_a_network_has_both_families(cove: Cove, host: Host) -> None:
    assert (FORWARDING.read_text(), HEARS.read_text()) == ("0\n", "1\n")
    flags = ("--ipv6", "--subnet", "fd00:77::/64", "--ip-range", "fd00:77::40/122")
    with (
        network(cove, "web", *flags),
        machine(cove, "one", "web", "--network-alias", "db"),
        machine(cove, "two", "web", "--ip6", "fd00:77::9"),
    ):
        found = json.loads(cove("network", "inspect", "web").out)[0]
        assert found["EnableIPv6"] and found["EnableIPv4"]
        assert found["IPAM"]["Config"][1] == {
            "Subnet": "fd00:77::/64", "Gateway": "fd00:77::1", "IPRange": "fd00:77::40/122",
        }  # fmt: skip
        shown = cove("network", "ls", "--format", "{{.Name}} {{.IPv6}}").out
        assert "web true" in shown and "none false" in shown
        members = {m["Name"]: m["IPv6Address"] for m in found["Containers"].values()}
        assert members == {"one": "fd00:77::40/64", "two": "fd00:77::9/64"}
        own = place(cove, "one", "web")
        assert own["GlobalIPv6Address"] == "fd00:77::40" and own["GlobalIPv6PrefixLen"] == 64
        assert own["IPv6Gateway"] == "fd00:77::1"
        # The address is there before the program: nobody was asked for it.
        addresses = cove("exec", "one", "ip", "-6", "addr", "show", "dev", "eth0").out
        assert "fd00:77::40/64" in addresses and "fe80::" in addresses
        assert "tentative" not in addresses
        assert "default via fd00:77::1 dev eth0" in cove("exec", "one", "ip", "-6", "route").out
        switches = ["accept_ra", "accept_dad", "accept_redirects", "autoconf"]
        paths = [f"/proc/sys/net/ipv6/conf/eth0/{name}" for name in switches]
        assert cove("exec", "one", "cat", *paths).out.split() == ["0"] * 4
        assert "fd00:77::40\t" in cove("exec", "one", "cat", "/etc/hosts").out
        assert ping(cove, "one", "fd00:77::9") and ping(cove, "two", "fd00:77::40")
        assert ping(cove, "one", "fd00:77::1") and ping(cove, "one", OUTSIDE6)
        names_are_told(cove)
        with inside(host.outside), socket.socket(socket.AF_INET6) as server:
            server.bind((OUTSIDE6, 0))
            server.listen()
            port = str(server.getsockname()[1])
            caller = cove.spawn("exec", "one", "nc", OUTSIDE6, port)
            connection, peer = server.accept()
            connection.close()
            caller.communicate()
            assert peer[0] == INSIDE6  # the host's own
        # The host's own way out by what routers tell of it is not lost.
        assert (FORWARDING.read_text(), HEARS.read_text()) == ("1\n", "2\n")
        cove("restart", "-t", "0", "two")
        assert address6(cove, "two", "web") == "fd00:77::9"
    assert (FORWARDING.read_text(), HEARS.read_text()) == ("0\n", "1\n")


def names_are_told(cove: Cove) -> None:
    with seat(cove, "two") as two:
        assert [str(rr.rdata) for rr in two.ask("one", "AAAA").rr] == ["fd00:77::40"]
        assert [str(rr.rdata) for rr in two.ask("DB.web", "AAAA").rr] == ["fd00:77::40"]
        assert two.addresses("one") == [place(cove, "one", "web")["IPAddress"]]
        assert len(two.ask("one", "ANY").rr) == 2
        back = ipaddress.ip_address("fd00:77::40").reverse_pointer
        assert [str(rr.rdata) for rr in two.ask(back, "PTR").rr] == ["one.web."]
        back = ipaddress.ip_address("fd00:77::1").reverse_pointer
        assert [str(rr.rdata) for rr in two.ask(back, "PTR").rr] == ["host.cove.internal."]
        back = ipaddress.ip_address("fd00:77::41").reverse_pointer
        assert two.ask(back, "PTR").header.rcode == 3
        host = [str(rr.rdata) for rr in two.ask("host.cove.internal", "AAAA").rr]
        assert host == ["fd00:77::1"]


def test_a_second_network_takes_its_forwarding_with_it(cove: Cove) -> None:
    """The host has a link of its own, which was there before the first one: nobody else is led."""
    with network(cove, "web"):
        cove("run", "--rm", "--network", "web", "bb", "true")
        with network(cove, "six", "--ipv6"):
            cove("run", "--rm", "--network", "six", "bb", "true")
            assert (FORWARDING.read_text(), HEARS.read_text()) == ("1\n", "2\n")
        assert (FORWARDING.read_text(), HEARS.read_text()) == ("0\n", "1\n")
        assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"


def test_cove_chooses_and_machines_come_and_go(cove: Cove) -> None:
    with (
        network(cove, "web", "--ipv6"),
        network(cove, "inner", "--ipv6", "--internal"),
        machine(cove, "one", "web"),
        machine(cove, "two", "inner"),
    ):
        found = json.loads(cove("network", "inspect", "web", "inner").out)
        web, inner = (ipaddress.ip_network(n["IPAM"]["Config"][1]["Subnet"]) for n in found)
        assert web != inner and web.prefixlen == inner.prefixlen == 64
        assert all(net.subnet_of(ipaddress.ip_network("fd00::/8")) for net in (web, inner))
        two = address6(cove, "two", "inner")
        assert unheard(cove, "one", two)
        assert "default" not in cove("exec", "two", "ip", "-6", "route").out
        cove("network", "connect", "--ip6", f"{inner[99]}", "inner", "one")
        assert address6(cove, "one", "inner") == str(inner[99])
        assert ping(cove, "one", two) and ping(cove, "two", str(inner[99]))
        cove("network", "disconnect", "web", "one")
        assert unheard(cove, "one", OUTSIDE6)
        cove("network", "connect", "web", "one")
        assert ping(cove, "one", OUTSIDE6)
        again = cove("network", "connect", "--ip6", f"{web[1]}", "web", "two", code=125)
        assert f"the network's gateway has the address {web[1]}" in again.err
        assert unheard(cove, "two", OUTSIDE6)
        words = ("run", "--rm", "--network", "web", "--ip6", "fd99::9", "bb", "true")
        assert "cannot connect to web: fd99::9 is no address of" in cove(*words, code=125).err


def test_published_ports_lead_to_it(cove: Cove, host: Host) -> None:
    ports = ("-p", "[::1]:8080:80", "-p", f"[{INSIDE6}]:8081:80", "-p", "[::]:8082:80")
    with network(cove, "web", "--ipv6"):
        cove("run", "-d", "--name", "one", "--network", "web", *ports, "bb", *ECHO)
        with machine(cove, "two", "web"), network(cove, "other", "--ipv6"):
            wait_until(lambda: answers("::1", 8080), "an answer")
            assert answers(INSIDE6, 8081) and answers("::1", 8082)
            with inside(host.outside):
                assert answers(INSIDE6, 8081) and answers(INSIDE6, 8082)
            with machine(cove, "far", "other"):
                for name in ("two", "far"):
                    for port in ("8081", "8082"):
                        said = cove("exec", name, "sh", "-c", f"echo hi | nc {INSIDE6} {port}")
                        assert said.out == "hi\n"
        cove("rm", "-f", "one")


def test_a_network_without_ipv6_has_none(cove: Cove) -> None:
    """Not even by the addresses that links have by themselves."""
    with network(cove, "web"), machine(cove, "one", "web"), machine(cove, "two", "web"):
        # Addresses that are not there yet, or are still being asked for, would send nothing anyway.
        wait_until(lambda: settled_in(cove, "one") and settled_in(cove, "two"), "addresses")
        own = cove("exec", "two", "ip", "-6", "-o", "addr", "show", "dev", "eth0").out
        local = own.split("inet6 ")[1].split("/")[0]
        bridge = cove("network", "inspect", "-f", "{{.Bridge}}", "web").out.strip()
        assert not run("ip", "-6", "addr", "show", "dev", bridge)
        assert unheard(cove, "one", f"{local}%eth0")
        assert address6(cove, "one", "web") == ""
        tag = rules().split("table bridge ")[1].split()[0]
        run("nft", "flush", "chain", "bridge", tag, "guard")
        wait_until(lambda: ping(cove, "one", f"{local}%eth0", wait=2), "what nothing guards")
        run("nft", "delete", "table", "bridge", tag)
        cove("run", "--rm", "--network", "web", "bb", "true")
        assert unheard(cove, "one", f"{local}%eth0")


def settled_in(cove: Cove, name: str) -> bool:
    shown = cove("exec", name, "ip", "-6", "addr", "show", "dev", "eth0").out
    return "fe80::" in shown and "tentative" not in shown


WRONG = [
    (("--subnet", "fd00::/64", "x1"), "is of IPv6, which it has not", 125),
    (("--ipv6", "--subnet", "fd00::1/64", "x1"), "the network is fd00::/64", 125),
    (("--ipv6", "--subnet", "fe80::/64", "x1"), "are for no machine", 125),
    (("--ipv6", "--subnet", "fd00::/127", "x1"), "its prefix is not between 16 and 125", 125),
    (("--ipv6", "--subnet", "fd00::/64", "--subnet", "fd01::/64", "x1"), "one of each family", 125),
    (("--ipv6", "--gateway", "fd00::1", "x1"), "--gateway needs a --subnet", 125),
    (("--ipv6", "--subnet", "fd00::/64", "--gateway", "fd01::1", "x1"), "is no address of", 125),
    (("--ipv6", "--subnet", "fd00::/64", "--ip-range", "fd01::/80", "x1"), "is no part of", 125),
    (("--ipv6", "--subnet", "2001:db8::/32", "x1"), "where the host has a way to", 1),
    (("--ipv4=false", "x1"), "cove's networks have IPv4", 125),
]


@pytest.mark.parametrize(("words", "said", "code"), WRONG, ids=lambda v: str(v)[:40])
def test_what_cannot_be(cove: Cove, words: tuple[str, ...], said: str, code: int) -> None:
    assert said in cove("network", "create", *words, code=code).err
    assert "x1" not in cove("network", "ls", "--format", "{{.Name}}").out.split()
