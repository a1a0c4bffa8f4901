"""Machines find each other by name, and others through the servers that they are told to ask."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dnslib import RCODE

from cove.net.names.seats import OF_ALL, OF_ONE
from tests.driver import Cove, wait_until
from tests.networks.asking import (
    Seat,
    exchange,
    framed,
    kept_open,
    question,
    seat,
    unframed,
    upstream,
)
from tests.networks.conftest import (
    INSIDE,
    OUTSIDE,
    Host,
    inside,
    links,
    machine,
    network,
    rules,
    run,
    with_python,
)
from tests.shared import container_only

pytestmark = pytest.mark.usefixtures("clean")

UDP_SEGMENT = 103
NO_SUCH, FAILED, REFUSED = RCODE.NXDOMAIN, RCODE.SERVFAIL, RCODE.REFUSED


def code(seat_: Seat, name: str, kind: str = "A") -> int:
    return int(seat_.ask(name, kind).header.rcode)


def reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def server_pid(cove: Cove) -> int:
    """Of the name server of this state directory."""
    return pid_of(cove, b"cove.net.names")


def pid_of(cove: Cove, module: bytes) -> int:
    """0: it does not run."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if module in words and os.fsencode(str(cove.root)) in words:
            return int(path.parent.name)
    return 0


# ---- machines ----


def test_c_libraries_find_machines_at_once(cove: Cove) -> None:
    """Of a network that nobody was on before: what is asked first is answered."""
    with network(cove, "web") as gateway, machine(cove, "db", "web") as db:
        words = ("run", "--rm", "--network", "web")
        assert db in cove(*words, "bb", "nslookup", "db").out
        image = with_python(cove)
        shown = cove(*words, image, "sh", "-c", f"getent ahostsv4 db; getent ahostsv4 DB.web; "
                     f"getent hosts {db}; getent ahostsv4 host.cove.internal").out  # fmt: skip
        assert shown.count(db) >= 3 and "db.web" in shown and gateway in shown
        cove(*words, image, "getent", "ahostsv4", "nobody.cove.internal", code=2)


def test_what_a_machine_is_called(cove: Cove) -> None:
    named = ("--hostname", "box.example", "--domainname", "x", "--network-alias", "Sql")
    with network(cove, "web") as gateway, machine(cove, "Db", "web", *named) as db:
        short = cove.inspect("Db")["Id"][:12]
        with machine(cove, "one", "web") as one, seat(cove, "one") as at:
            names = ("db", "DB", "Db.web", "db.WEB", short, "box.example", f"{short}.web", "sql")
            for name in names:
                assert at.addresses(name) == [db], name
            assert at.addresses("one") == [one]
            assert at.addresses("host.cove.internal") == [gateway]
            for kind in ("AAAA", "MX", "TXT"):
                found = at.ask("db", kind)
                assert (found.header.rcode, found.rr) == (0, []), kind
            assert str(at.ask(reverse(db), "PTR").rr[0].rdata) == "Db.web."
            assert str(at.ask(reverse(gateway), "PTR").rr[0].rdata) == "host.cove.internal."
            assert code(at, reverse(gateway[:-1] + "77"), "PTR") == NO_SUCH
            assert code(at, "other.cove.internal") == NO_SUCH
            assert str(at.ask_stream("db").rr[0].rdata) == db
            cove("rename", "Db", "store")
            assert at.addresses("store") == [db] and code(at, "db.web") == FAILED
            cove("rename", "store", "Db")
            cove("kill", "Db")
            wait_until(lambda: code(at, "Db") == FAILED, "the name to go with its machine")


def test_many_of_one_name_are_given_in_turn(cove: Cove) -> None:
    with network(cove, "web"), ExitStack() as stack:
        all_ = [
            stack.enter_context(machine(cove, f"m{n}", "web", "--hostname", "shared"))
            for n in range(3)
        ]
        with seat(cove, "m0") as at:
            found = [at.addresses("shared") for _ in range(3)]
            assert all(set(addresses) == set(all_) for addresses in found)
            assert {addresses[0] for addresses in found} == set(all_)


def test_names_are_known_only_on_networks_that_both_are_on(cove: Cove) -> None:
    machines = machine(cove, "one", "web"), machine(cove, "two", "lan")
    with network(cove, "web"), network(cove, "lan"), machines[0], machines[1] as two:
        with seat(cove, "one") as at:
            assert code(at, "two") == FAILED and code(at, reverse(two), "PTR") == FAILED
            cove("network", "connect", "lan", "one")
            assert at.addresses("two") == [two] == at.addresses("two.lan")
            assert code(at, "two.web") == FAILED
        with seat(cove, "two") as at:
            assert len(at.addresses("one")) == 1
        before = cove("exec", "one", "cat", "/etc/resolv.conf").out
        cove("network", "disconnect", "web", "one")
        assert cove("exec", "one", "cat", "/etc/resolv.conf").out != before
        assert two in cove("exec", "one", "nslookup", "two").out
        cove("exec", "one", "sh", "-c", "echo nameserver 1.1.1.1 > /etc/resolv.conf")
        cove("network", "connect", "web", "one")
        cove("network", "disconnect", "lan", "one")
        assert cove("exec", "one", "cat", "/etc/resolv.conf").out == "nameserver 1.1.1.1\n"


def test_a_machine_that_comes_to_its_first_network(cove: Cove) -> None:
    with network(cove, "web"), machine(cove, "db", "web") as db:
        cove("run", "-d", "--name", "one", "bb", "sleep", "1000")
        assert "on no network" in cove("exec", "one", "cat", "/etc/resolv.conf").out
        cove("network", "connect", "web", "one")
        assert db in cove("exec", "one", "nslookup", "db").out
        cove("network", "disconnect", "web", "one")
        assert "on no network" in cove("exec", "one", "cat", "/etc/resolv.conf").out
        cove("rm", "-f", "one")


def test_a_hundred_machines_find_each_other(cove: Cove) -> None:
    # Each guest has a kernel and memory of its own.
    names = [f"m{number}" for number in range(100 if cove.isolation == "container" else 4)]
    with network(cove, "web"), ExitStack() as stack:
        for name in names:
            cove("run", "-d", "--name", name, "--network", "web", "bb", "sleep", "1000")
        stack.callback(cove, "rm", "-f", *names)
        found = {}
        for name in names:
            with seat(cove, name) as at, at.socket() as sock:
                for other in names:
                    reply = exchange(sock, other)
                    found.setdefault(other, set()).add(str(reply.rr[0].rdata))
        assert all(len(addresses) == 1 for addresses in found.values())
        assert len(set().union(*found.values())) == len(names)
        # All connections that there are, and of four guests all that they may have: none is in the
        # way of a machine that has none yet.
        with ExitStack() as held:
            for name in names[:-1][: OF_ALL // OF_ONE]:
                at = held.enter_context(seat(cove, name))
                for _ in range(OF_ONE):
                    held.enter_context(at.socket(socket.SOCK_STREAM))
            with seat(cove, names[-1]) as at:
                assert [str(rr.rdata) for rr in at.ask_stream("m0").rr] == [*found["m0"]]


def test_flags(cove: Cove) -> None:
    with network(cove, "web") as gateway:
        flags = ("--dns", "192.0.2.1", "--dns-search", "a.example", "--dns-search", "b.example",
                 "--dns-option", "ndots:3", "--dns-opt", "rotate",
                 "--add-host", "up:host-gateway")  # fmt: skip
        with machine(cove, "one", "web", *flags):
            text = cove("exec", "one", "cat", "/etc/resolv.conf").out
            assert text.splitlines()[1:] == [
                "search a.example b.example", "options ndots:3 rotate"
            ]  # fmt: skip
            assert f"{gateway}\tup\n" in cove("exec", "one", "cat", "/etc/hosts").out
            shown = cove.inspect("one")["HostConfig"]
            assert shown["Dns"] == ["192.0.2.1"] and shown["DnsOptions"] == ["ndots:3", "rotate"]
            assert shown["DnsSearch"] == ["a.example", "b.example"]
            assert shown["ExtraHosts"] == ["up:host-gateway"]
        inner = cove("run", "--rm", "--network", "web", "--dns", "127.0.0.1", "bb", "cat",
                     "/etc/resolv.conf").out  # fmt: skip
        assert inner.startswith("nameserver 127.0.0.1\n")
        alone = cove("run", "--rm", *flags[:2], "bb", "cat", "/etc/resolv.conf").out
        assert alone == "nameserver 192.0.2.1\n"
        done = cove("run", "--rm", *flags[-2:], "bb", "true", code=125)
        assert "cannot add the host up: the machine is on no network with a gateway" in done.err
        done = cove("run", "--rm", "--dns-search", "a b", "bb", "true", code=125)
        assert "not labels with dots between them" in done.err


# ---- others ----


@pytest.fixture
def lan(cove: Cove, host: Host) -> Iterator[str]:
    """A network of which two machines run that ask OUTSIDE; the second asks INSIDE first."""
    with (
        network(cove, "web") as gateway,
        machine(cove, "one", "web", "--dns", OUTSIDE),
        machine(cove, "two", "web", "--dns", INSIDE, "--dns", OUTSIDE),
    ):
        yield gateway


def test_others_names_are_asked_for(cove: Cove, host: Host, lan: str) -> None:
    with upstream(host.outside, OUTSIDE) as other, seat(cove, "one") as at:
        assert at.addresses("www.example") == ["192.0.2.7"]
        assert str(at.ask_stream("www.example").rr[0].rdata) == "192.0.2.7"
        assert at.addresses("forged.example") == ["192.0.2.7"]
        short = at.ask("long.example", "TXT")
        assert short.header.tc and not short.rr
        assert len(at.ask_stream("long.example", "TXT").rr) == 40
        for number in range(20):
            at.ask(f"n{number}.example")
        asked = [entry for entry in other.seen if entry[0].startswith("n")]
        assert len(asked) == 20
        assert len({number for _, number, _ in asked}) > 15
        assert len({port for _, _, port in asked}) > 15
        with seat(cove, "two") as second:  # nobody listens at the first
            assert second.addresses("www.example") == ["192.0.2.7"]
            with upstream(host.namespace, INSIDE) as first:
                assert code(second, "refused.example") == REFUSED
                assert first.names()[0] == "refused.example"
                assert second.addresses("www.example") == ["192.0.2.7"]


def test_servers_that_are_dead_are_said_to_be(cove: Cove, host: Host, lan: str) -> None:
    with seat(cove, "one") as at:
        assert code(at, "www.example") == FAILED  # nobody listens: known at once
        assert int(at.ask_stream("www.example").header.rcode) == FAILED
        with upstream(host.outside, OUTSIDE) as other:
            assert code(at, "silent.example") == FAILED
            wait_until(lambda: other.names() == ["silent.example"] * 2, "both questions")


def test_one_machines_questions_leave_room_for_anothers(cove: Cove, host: Host, lan: str) -> None:
    with upstream(host.outside, OUTSIDE), seat(cove, "one") as at, at.socket() as sock:
        for number in range(400):
            sock.send(question(f"silent{number}.example", number=number + 1))
        # Of these some are refused at once, while the others wait for a server.
        refused = sock.recv(1 << 16)
        assert refused[3] & 15 == FAILED
        with seat(cove, "two") as second:
            assert second.addresses("www.example") == ["192.0.2.7"]
            assert len(second.addresses("one")) == 1


def _answered(at: Seat, name: str) -> bool:
    with at.socket() as sock, contextlib.suppress(TimeoutError):
        sock.settimeout(1)
        return len(exchange(sock, name).rr) == 1
    return False


def test_a_flood_of_one_machine_does_not_drown_anothers_question(
    cove: Cove, host: Host, lan: str
) -> None:
    with seat(cove, "one") as at, at.socket() as flood, seat(cove, "two") as second:
        asked = question("two")
        for _ in range(20000):
            flood.send(asked)
        # Nothing promises that no datagram is lost while the host is busy: ask as resolvers do.
        wait_until(lambda: _answered(second, "one"), "an answer for the other")
        assert "limit rate over 5000/second" in rules()


@container_only("no program of the tests' guests sends such packets")
def test_a_packet_is_one_question(cove: Cove, lan: str) -> None:
    """As many as the kernel would make of one, by its sender's wish, would not be counted."""
    with seat(cove, "one") as at, at.socket() as sock:
        asked = [question("two", number=number + 1) for number in range(16)]
        size = struct.pack("H", len(asked[0]))
        sock.sendmsg([b"".join(asked)], [(socket.SOL_UDP, UDP_SEGMENT, size)])
        sock.send(question("two", number=1000))
        answered = [int.from_bytes(sock.recv(1 << 16)[:2], "big")]
        while answered[-1] != 1000:
            answered.append(int.from_bytes(sock.recv(1 << 16)[:2], "big"))
        assert len(answered) <= 2, answered


def test_long_questions_do_not_reach_the_server(cove: Cove, lan: str) -> None:
    with seat(cove, "one") as at, at.socket() as sock:
        for number, length in enumerate((1100, 900), 1):
            asked = bytearray(question("two", number=number, room=4096))
            padding = length - len(asked)  # EDNS option 12 (RFC 7830)
            asked[-2:] = padding.to_bytes(2, "big")
            asked += b"\0\x0c" + (padding - 4).to_bytes(2, "big") + bytes(padding - 4)
            sock.send(asked)
        assert int.from_bytes(sock.recv(1 << 16)[:2], "big") == 2


def test_an_internal_network_asks_nobody_outside(cove: Cove, host: Host) -> None:
    with network(cove, "inner", "--internal"), upstream(host.outside, OUTSIDE) as other:
        machines = machine(cove, "one", "inner", "--dns", OUTSIDE), machine(cove, "two", "inner")
        with machines[0], machines[1] as two, seat(cove, "one") as at:
            assert at.addresses("two") == [two]
            assert code(at, "www.example") == NO_SUCH
            assert code(at, "host.cove.internal") == NO_SUCH
            assert other.names() == []
            with network(cove, "web"):
                cove("network", "connect", "web", "one")
                assert at.addresses("www.example") == ["192.0.2.7"]
                cove("network", "disconnect", "web", "one")
            assert code(at, "again.example") == NO_SUCH
            assert "again.example" not in other.names()


def test_the_hosts_own_servers_also_on_its_loopback(
    host: Host, bb_tar: Path, tmp_path: Path, isolation: str
) -> None:
    """A daemon that sees a resolv.conf of the test's, as if it were the host's."""
    from tests.kernel.conftest import closed_cove

    own = tmp_path / "resolv.conf"
    own.write_text("nameserver 127.0.0.53\nsearch corp.example\noptions edns0\n")
    with closed_cove(bb_tar, isolation) as cove:
        cove.stop_daemon()
        run("unshare", "-m", "sh", "-c",
            f"mount --bind {own} /etc/resolv.conf && COVE_ROOT={cove.root} "
            f"{Path(os.sys.executable).parent}/cove daemon start")  # fmt: skip
        with network(cove, "web"), machine(cove, "one", "web"):
            text = cove("exec", "one", "cat", "/etc/resolv.conf").out
            assert text.splitlines()[1:] == ["search corp.example", "options edns0 ndots:0"]
            with seat(cove, "one") as at:
                with upstream(host.namespace, "127.0.0.53") as other:
                    assert at.addresses("www.example") == ["192.0.2.7"]
                    assert other.names() == ["www.example"]
                own.write_text("nameserver 127.0.0.54\n")
                with upstream(host.namespace, "127.0.0.54") as other:
                    assert at.addresses("www.example") == ["192.0.2.7"]
        cove("network", "rm", "web", code=None)


# ---- who asks what he should not ----


def test_only_machines_of_the_network_are_answered(cove: Cove, host: Host, lan: str) -> None:
    with seat(cove, "one") as at, upstream(host.outside, OUTSIDE) as other:
        with Seat(host.namespace, at.server).socket() as sock:  # the host itself
            assert exchange(sock, "one").header.rcode == REFUSED
            assert exchange(sock, "www.example").header.rcode == REFUSED
        with inside(host.outside):
            run("ip", "route", "add", f"{at.server}/32", "via", INSIDE)
        with Seat(host.outside, at.server).socket() as sock:
            sock.send(question("one"))
            sock.send(question("open.example"))
            assert at.addresses("www.example") == ["192.0.2.7"]
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
        assert other.names() == ["www.example"]
        for kind in ("udp", "tcp"):  # nothing of the host's own listens for it
            held = Path(f"/proc/thread-self/net/{kind}").read_text().splitlines()[1:]
            listens = {"udp": "07", "tcp": "0A"}[kind]
            assert not any(f":0035 00000000:0000 {listens}" in line for line in held), kind


HOSTILE = (
    b"", b"\0" * 11, b"\xff" * 12, os.urandom(500), b"\0" * 60000,
    b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1",
    b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x3f" + b"a" * 63 + b"\xc0\x0c\0\1\0\1",
    b"\0\1\1\0\xff\xff\xff\xff\xff\xff\xff\xff" + b"\1a\0\0\1\0\1" * 400,
    b"\0\1\1\0\0\1\0\0\0\0\xff\xff\1a\0\0\1\0\1" + b"\0\0\x29\xff\xff\0\0\0\0\xff\xff",
    b"\0\1\x81\x80\0\1\0\1\0\0\0\0\1a\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4",
)  # fmt: skip


def test_hostile_questions(cove: Cove, lan: str) -> None:
    before = server_pid(cove)
    with seat(cove, "one") as at, at.socket() as sock:
        for data in HOSTILE:
            sock.send(data)
        with at.socket(socket.SOCK_STREAM) as stream:
            stream.sendall(b"\xff\xff" + b"x" * 5000)
            with pytest.raises(ConnectionResetError):
                while stream.recv(1000):
                    pass
                raise ConnectionResetError  # closed, with nothing left unread
        assert len(at.addresses("two")) == 1
        with kept_open(at, OF_ONE):  # and no more
            assert len(at.addresses("two")) == 1
            with at.socket(socket.SOCK_STREAM) as late:
                assert late.recv(100) == b""
        with at.socket() as other, at.socket(socket.SOCK_STREAM) as stream:
            exchange(other, "two")
            stream.sendall(framed(question("two"))[:5])  # in pieces, two at once, and its end
            exchange(other, "two")
            stream.sendall(framed(question("two"))[5:] + framed(question("one")))
            stream.shutdown(socket.SHUT_WR)
            assert unframed(stream)[3] & 15 == 0
        assert server_pid(cove) == before


# ---- its life ----


def test_it_goes_with_the_last_network(cove: Cove) -> None:
    assert server_pid(cove) == 0
    with network(cove, "web"), network(cove, "lan"):
        cove("run", "--rm", "--network", "web", "bb", "true")
        first = server_pid(cove)
        assert first
        status = Path(f"/proc/{first}/status")
        nobody = "\nUid:\t65534\t65534\t65534\t65534\n"
        wait_until(lambda: nobody in status.read_text(), "its rights to go")
        assert "\nCapEff:\t0000000000000000\n" in status.read_text()
        cove("run", "--rm", "--network", "lan", "bb", "true")
        assert server_pid(cove) == first
    assert server_pid(cove) == 0


def test_a_place_that_is_taken_away_is_made_again(cove: Cove) -> None:
    with network(cove, "web"), machine(cove, "one", "web"):
        link = next(name for name in links() if name[:2] == "cv" and name[7] == "d")
        run("ip", "link", "del", link)
        with machine(cove, "two", "web") as two, seat(cove, "one") as at:
            assert at.addresses("two") == [two]


def test_neither_the_hosts_firewall_nor_its_port_53_is_in_the_way(cove: Cove, host: Host) -> None:
    """What ufw writes, and what dnsmasq takes."""
    drop = "chain in {\n type filter hook input priority 0; policy drop;\n }"
    run("nft", "-f", "-", text=f"table inet ufw {{\n {drop}\n}}\n")
    kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    try:
        with contextlib.ExitStack() as stack:
            for kind in kinds:
                sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of earlier servers
                sock.bind(("0.0.0.0", 53))
                if kind == socket.SOCK_STREAM:
                    sock.listen()
            with network(cove, "web"), machine(cove, "one", "web") as one, seat(cove, "one") as at:
                assert at.addresses("one") == [one]
                assert str(at.ask_stream("one").rr[0].rdata) == one
    finally:
        run("nft", "delete", "table", "inet", "ufw")
