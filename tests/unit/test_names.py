"""The name server's reading, knowing and answering, without a socket."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network

import pytest
from dnslib import EDNS0, QTYPE, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from cove.net.names import message
from cove.net.names.message import Code, NoQuery
from cove.net.names.seats import OF_ALL, OF_ONE, given_up
from cove.net.names.table import Machine, Network, Table
from cove.net.names.upstream import nameservers

WEB = Network("w" * 64, "web", IPv4Network("10.0.0.0/24"), "10.0.0.1", internal=False)
DB = Network("d" * 64, "Db", IPv4Network("10.0.1.0/24"), "10.0.1.1", internal=True)


def machine(key: int, name: str, *places: Network, more: tuple[str, ...] = (), **fields: object):  # type: ignore[no-untyped-def]
    names = (name, *more)
    return Machine(
        key,
        name,
        {place.id: names for place in places},
        {place.id: str(place.subnet[key]) for place in places},
        **fields,  # type: ignore[arg-type]
    )


@pytest.fixture
def table() -> Table:
    made = Table()
    made.networks = {WEB.id: WEB, DB.id: DB}
    made.put(machine(2, "one", WEB, more=("all",)))
    made.put(machine(3, "two", WEB, DB, more=("all", "store")))
    made.put(machine(4, "three", DB, more=("all",)))
    return made


def query(name: str, kind: str = "A", **fields: int) -> message.Query:
    record = DNSRecord(DNSHeader(id=7, rd=1, **fields), q=DNSQuestion(name, getattr(QTYPE, kind)))
    return message.read(bytes(record.pack()))


# ---- what is known ----


def test_names_are_known_where_both_are(table: Table) -> None:
    one, three = table.machines[2], table.machines[4]
    assert table.addresses(one, WEB.id, "two") == ("10.0.0.3",)
    assert table.addresses(three, DB.id, "two") == ("10.0.1.3",)
    assert table.addresses(one, WEB.id, "three") is None
    assert table.addresses(one, WEB.id, "store.web") == ("10.0.0.3",)
    assert table.addresses(three, DB.id, "store.db") == ("10.0.1.3",)
    assert table.addresses(three, DB.id, "store.web") is None
    two = table.machines[3]
    assert table.addresses(two, DB.id, "three") == table.addresses(two, WEB.id, "three")


def test_a_name_of_many_gives_all_in_turn(table: Table) -> None:
    one = table.machines[2]
    first, then, again = (table.addresses(one, WEB.id, "all") for _ in range(3))
    assert first == again and first is not None and then == first[::-1]
    assert set(first) == {"10.0.0.2", "10.0.0.3"}
    table.drop(3)
    assert table.addresses(one, WEB.id, "all") == ("10.0.0.2",)
    table.drop(2)
    table.drop(2)
    assert table.asker(WEB.id, "10.0.0.2") is None
    assert table.addresses(one, WEB.id, "all") is None


def test_a_machine_that_changed_is_what_it_is_now(table: Table) -> None:
    table.put(machine(3, "other", WEB))
    one = table.machines[2]
    assert table.addresses(one, WEB.id, "two") is None
    assert table.addresses(one, WEB.id, "other") == ("10.0.0.3",)
    assert table.asker(DB.id, "10.0.1.3") is None
    table.put(machine(9, "late", WEB))
    table.drop(77)
    assert set(table.machines) == {2, 3, 4, 9}


def test_the_host(table: Table) -> None:
    one, two, three = (table.machines[key] for key in (2, 3, 4))
    assert table.addresses(one, WEB.id, "host.cove.internal") == ("10.0.0.1",)
    assert table.addresses(two, DB.id, "host.cove.internal") == ("10.0.0.1",)
    assert table.addresses(three, DB.id, "host.cove.internal") == ()
    assert table.addresses(one, WEB.id, "x.cove.internal") == ()


def test_reverse_names(table: Table) -> None:
    one, three = table.machines[2], table.machines[4]
    assert table.pointed(one, WEB.id, "3.0.0.10.in-addr.arpa") == "two.web"
    assert table.pointed(one, WEB.id, "1.0.0.10.in-addr.arpa") == "host.cove.internal"
    assert table.pointed(one, WEB.id, "9.0.0.10.in-addr.arpa") == ""
    assert table.pointed(one, WEB.id, "4.1.0.10.in-addr.arpa") is None
    assert table.pointed(three, DB.id, "1.1.0.10.in-addr.arpa") == ""
    for name in ("x.in-addr.arpa", "1.2.3.in-addr.arpa", "in-addr.arpa", "1.2.3.4.5.in-addr.arpa"):
        assert table.pointed(one, WEB.id, name) is None


def test_whom_to_ask_for_a_machine(table: Table) -> None:
    host = ("9.9.9.9",)
    assert table.servers(table.machines[2], host) == host
    assert table.servers(table.machines[4], host) == ()
    table.put(machine(5, "asks", WEB, dns=("1.1.1.1",)))
    assert table.servers(table.machines[5], host) == ("1.1.1.1",)
    table.put(machine(6, "inner", DB, dns=("1.1.1.1", "10.0.1.3", "::1")))
    assert table.servers(table.machines[6], host) == ("10.0.1.3",)


def test_the_hosts_servers() -> None:
    text = (
        "nameserver 1.1.1.1\n nameserver fe80::1%eth0 # x\nnameserver\nnameserver 3\nnameserver 4\n"
    )
    assert nameservers(text) == ("1.1.1.1", "fe80::1%eth0", "3")
    assert nameservers("search lan\n") == ("127.0.0.1",)


# ---- questions ----


def test_a_question_is_read() -> None:
    found = query("DB.Web")
    assert (found.name, found.kind, found.room, found.extended) == ("db.web", 1, 512, False)
    record = DNSRecord(DNSHeader(id=1), q=DNSQuestion("x"))
    record.add_ar(EDNS0(udp_len=1400))
    assert message.read(bytes(record.pack())).room == 1400
    assert message.read(bytes(record.pack())).extended


HEAD = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0)
END = b"\0\0\1\0\1"
MALFORMED = {
    "no question": struct.pack(">HHHHHH", 7, 0x100, 0, 0, 0, 0),
    "two questions": struct.pack(">HHHHHH", 7, 0x100, 2, 0, 0, 0) + (b"\1x" + END) * 2,
    "a name that points to itself": HEAD + b"\xc0\x0c\0\1\0\1",
    "a name that points on": HEAD + b"\1x\xc0\x0c\0\1\0\1",
    "a reserved kind of label": HEAD + b"\x40x" + END,
    "a name without an end": HEAD + b"\5x",
    "a name that is too long": HEAD + b"\1x" * 128 + END,
    "no kind": HEAD + b"\1x\0\0",
    "answers": struct.pack(">HHHHHH", 7, 0x100, 1, 9, 0, 0) + b"\1x" + END,
    "a record cut off": struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 1) + b"\1x" + END + b"\0\0\x29",
    "a record too long": struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 1) + b"\1x" + END
    + b"\0\0\x29\x10\0\0\0\0\0\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
def test_malformed_questions_get_that_answer(raw: bytes) -> None:
    found = message.read(raw)
    assert found.fault == Code.MALFORMED
    assert DNSRecord.parse(message.failure(found, found.fault)).header.rcode == 1


@pytest.mark.parametrize(
    "raw", [b"", b"x" * 11, bytes(5000), HEAD[:2] + b"\x80\0" + HEAD[4:] + b"\1x" + END]
)
def test_what_is_no_question_gets_none(raw: bytes) -> None:
    with pytest.raises(NoQuery):
        message.read(raw)


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [({"opcode": 4}, "A", 4), ({"opcode": 5}, "A", 4), ({}, "AXFR", 5), ({}, "IXFR", 5)],
)
def test_what_cove_does_not_do(fields: dict[str, int], kind: str, code: int) -> None:
    found = query("x", kind, **fields)
    assert found.fault == code
    assert DNSRecord.parse(message.failure(found, found.fault)).header.rcode == code


def test_another_class_and_another_version() -> None:
    chaos = message.read(bytes(DNSRecord(q=DNSQuestion("version.bind", QTYPE.TXT, 3)).pack()))
    assert chaos.fault == Code.REFUSED
    record = DNSRecord(q=DNSQuestion("x"))
    record.add_ar(EDNS0(udp_len=1400, version=1))
    found = message.read(bytes(record.pack()))
    assert found.fault == Code.BAD_VERSION
    reply = DNSRecord.parse(message.failure(found, found.fault))
    assert reply.header.rcode == 0 and reply.ar[0].edns_ver == 0 and reply.ar[0].edns_rcode == 1


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_not(raw: bytes) -> None:
    try:
        found = message.read(raw)
    except NoQuery:
        return
    if found.fault == Code.FINE:
        DNSRecord.parse(message.answer(found, ["10.0.0.2"]))
    message.failure(found, found.fault)
    assert isinstance(found.name, str)


# ---- answers ----


def test_answers() -> None:
    found = DNSRecord.parse(message.answer(query("DB"), ["10.0.0.2", "10.0.0.3"]))
    assert [str(rr.rdata) for rr in found.rr] == ["10.0.0.2", "10.0.0.3"]
    assert found.header.id == 7 and found.header.aa and found.header.ra and found.header.rd
    assert str(found.q.qname) == "DB."  # as it was asked
    empty = DNSRecord.parse(message.answer(query("db", "AAAA"), ["10.0.0.2"]))
    assert empty.header.rcode == 0 and not empty.rr
    pointer = DNSRecord.parse(message.answer(query("2.0.0.10.in-addr.arpa", "PTR"), (), "db.web"))
    assert str(pointer.rr[0].rdata) == "db.web."


def test_a_long_answer_asks_for_a_connection() -> None:
    found = query("all")
    whole = message.answer(found, [f"10.0.0.{n}" for n in range(2, 60)])
    short = DNSRecord.parse(message.fitted(found, whole))
    assert short.header.tc and not short.rr
    assert message.fitted(found, message.answer(found, ["10.0.0.2"])) != short.pack()


def test_a_label_with_a_dot_in_it_is_no_two_labels() -> None:
    raw = HEAD + b"\6db.web" + END
    assert message.read(raw).name == "."


def test_which_replies_are_answers() -> None:
    asked = query("Db.Example")
    reply = message.answer(query("dB.eXAMPLE"), ["1.2.3.4"])
    assert message.answers(asked, 7, reply)
    assert not message.answers(asked, 8, reply)
    assert not message.answers(query("db.example", "AAAA"), 7, reply)
    assert not message.answers(query("db.exampld"), 7, reply)
    assert not message.answers(asked, 7, asked.raw)
    assert not message.answers(asked, 7, reply[:11]) and not message.answers(asked, 7, b"")


# ---- who may hold a connection ----


def test_a_machine_has_its_share_of_connections() -> None:
    own, other = ("web", "10.0.0.2"), ("web", "10.0.0.3")
    assert given_up((), own) == given_up((own,) * (OF_ONE - 1), own) == -1
    assert given_up((other,) * OF_ONE, own) == -1
    assert given_up((own,) * OF_ONE, own) is None


def test_who_comes_with_none_takes_the_place_of_the_greediest() -> None:
    greedy = [("web", f"10.0.0.{2 + number // 8}") for number in range(OF_ALL)]
    assert given_up(greedy, ("db", "10.1.0.2")) == 0
    assert given_up(greedy, ("web", "10.0.0.99")) == 0
    # One who has as many as others takes nothing from them.
    assert given_up([*greedy[1:], ("web", "10.0.0.99")], ("web", "10.0.0.99")) == 7
    level = [("web", f"10.0.0.{number % 64}") for number in range(OF_ALL)]
    assert given_up(level, ("web", "10.0.0.1")) is None
    assert given_up(level, ("web", "10.0.0.99")) == 0


def test_networks_have_the_same_share_of_connections() -> None:
    crowd = [("web", f"10.0.0.{number}") for number in range(OF_ALL - 4)]
    held = [("db", "10.1.0.2")] * 4 + crowd
    assert given_up(held, ("db", "10.1.0.2")) == 4
    assert given_up(held, ("db", "10.1.0.3")) == 4
    assert given_up(held, ("web", "10.0.0.999")) == 4
    half = [("db", "10.1.0.2")] * 128 + crowd[:128]
    assert given_up(half, ("db", "10.1.0.3")) == 0  # of its own network


def test_a_link_is_the_name_of_one_asker_alone(table: Table) -> None:
    links = {WEB.id: {"it": "two", "all": "two"}, DB.id: {"far": "three"}}
    table.put(machine(5, "four", WEB, links=links))
    four, one = table.machines[5], table.machines[2]
    assert table.addresses(four, WEB.id, "it") == ("10.0.0.3",)
    assert table.addresses(four, WEB.id, "all") == ("10.0.0.3",), "before what all call so"
    assert table.addresses(four, WEB.id, "far") is None, "it is not on that network"
    assert table.addresses(one, WEB.id, "it") is None
    table.drop(3)
    assert table.addresses(four, WEB.id, "it") is None
