"""Questions as machines send them, read with doubt, and the answers to them. Pure.

A question's name is read here, label by label: one with pointers, or longer than names are, is no
question. The answers are dnslib's work.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from dnslib import AAAA, EDNS0, PTR, QTYPE, RR, A, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

HEADER = struct.Struct(">HHHHHH")
KIND = struct.Struct(">HH")
OPT = struct.Struct(">BHHIH")

QUERY_MAX = 4096
"""Bytes of a question; what is longer is none."""
PLAIN = 512
"""What every asker takes in a datagram (RFC 1035)."""
OWN = 1232
"""What cove takes, and what no path breaks up (DNS flag day 2020)."""
NAME_MAX = 255
TTL = 5
"""Seconds: machines come and go."""

RESPONSE, TRUNCATED, DESIRED, AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
IN, TYPE_OPT = 1, 41
TYPE_A, TYPE_AAAA = int(QTYPE.A), int(QTYPE.AAAA)
TYPE_PTR, TYPE_ANY = int(QTYPE.PTR), int(QTYPE.ANY)
TRANSFERS = (251, 252)


class Code(IntEnum):
    """RCODE."""

    FINE = 0
    MALFORMED = 1
    FAILED = 2
    NO_SUCH_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5
    BAD_VERSION = 16


class NoQuery(Exception):
    """Not worth an answer."""


@dataclass(frozen=True, slots=True)
class Query:
    raw: bytes
    end: int
    """Of the question in it."""
    labels: tuple[bytes, ...]
    kind: int
    kind_class: int
    room: int
    """What the asker takes in a datagram."""
    extended: bool
    """It has an OPT record, and the answer must too."""
    fault: Code = Code.FINE
    """What is wrong with it."""

    @property
    def id(self) -> int:
        return int.from_bytes(self.raw[:2], "big")

    @property
    def question(self) -> bytes:
        return self.raw[HEADER.size : self.end]

    @property
    def name(self) -> str:
        """In lower case; of a name that is not text, one that nobody has."""
        if any(b"." in label for label in self.labels):
            return "."
        return b".".join(self.labels).lower().decode("latin-1")


def read(raw: bytes) -> Query:
    """Raises NoQuery for what would not even be answered with an error."""
    if not HEADER.size <= len(raw) <= QUERY_MAX:
        raise NoQuery
    _, flags, questions, answers, authorities, more = HEADER.unpack_from(raw)
    if flags & RESPONSE:
        raise NoQuery
    try:
        if questions != 1:
            raise ValueError("more or less than one question")
        labels, at = _labels(raw)
        kind, kind_class = KIND.unpack_from(raw, at)
        end = at + KIND.size
        if answers or authorities:
            raise ValueError("a question brings no answers")
        room, extended, version = _extension(raw, end, more)
    except (ValueError, IndexError, struct.error):
        return Query(raw, HEADER.size, (), 0, IN, PLAIN, extended=False, fault=Code.MALFORMED)
    fault = Code.BAD_VERSION if version else Code.FINE
    if flags & 0x7800:
        fault = Code.NOT_IMPLEMENTED
    elif kind_class != IN or kind in TRANSFERS:
        fault = Code.REFUSED
    return Query(raw, end, labels, kind, kind_class, room, extended, fault)


def _labels(raw: bytes) -> tuple[tuple[bytes, ...], int]:
    """Of the one question's name, and where it ends."""
    labels, at = [], HEADER.size
    while length := raw[at]:
        if length > 63 or at + 1 + length - HEADER.size > NAME_MAX - 1:
            raise ValueError("no name")
        labels.append(raw[at + 1 : at + 1 + length])
        at += 1 + length
    return tuple(labels), at + 1


def _extension(raw: bytes, at: int, count: int) -> tuple[int, bool, int]:
    """Room, whether there is an OPT record, and its version. What stands before it has a name,
    and is passed over by nobody: OPT comes first, or is not seen.
    """
    if not count or raw[at]:
        return PLAIN, False, 0
    _, kind, room, extra, length = OPT.unpack_from(raw, at)
    if at + OPT.size + length > len(raw):
        raise ValueError("a record longer than its message")
    if kind != TYPE_OPT:
        return PLAIN, False, 0
    return min(max(room, PLAIN), QUERY_MAX), True, (extra >> 16) & 0xFF


def failure(query: Query, code: Code, *, more: int = 0) -> bytes:
    """An answer that has only the question."""
    flags = RESPONSE | AVAILABLE | more | (_flags(query) & (0x7800 | DESIRED)) | (code & 15)
    extended = query.extended
    head = HEADER.pack(query.id, flags, 1 if query.question else 0, 0, 0, 1 if extended else 0)
    tail = OPT.pack(0, TYPE_OPT, OWN, (code >> 4) << 24, 0) if extended else b""
    return head + query.question + tail


def _flags(query: Query) -> int:
    return int.from_bytes(query.raw[2:4], "big")


def answer(query: Query, addresses: Sequence[str] = (), pointer: str = "") -> bytes:
    """What cove itself knows: of a name that is there, but has no record of this kind, nothing."""
    name = DNSLabel(query.labels)
    record = DNSRecord(
        DNSHeader(id=query.id, qr=1, aa=1, ra=1, rd=1 if _flags(query) & DESIRED else 0),
        q=DNSQuestion(name, query.kind, query.kind_class),
    )
    for address in addresses:
        kind, rdata = (TYPE_AAAA, AAAA) if ":" in address else (TYPE_A, A)
        if query.kind in (kind, TYPE_ANY):
            record.add_answer(RR(name, kind, rdata=rdata(address), ttl=TTL))
    if pointer and query.kind in (TYPE_PTR, TYPE_ANY):
        # As labels: of text dnslib makes IDNA, and loads what may not be readable any more.
        target = DNSLabel(tuple(label.encode() for label in pointer.split(".")))
        record.add_answer(RR(name, TYPE_PTR, rdata=PTR(target), ttl=TTL))
    if query.extended:
        record.add_ar(EDNS0(udp_len=OWN))
    return bytes(record.pack())


def fitted(query: Query, reply: bytes) -> bytes:
    """For a datagram: where it has too little room, the asker is told to come by TCP."""
    if len(reply) <= query.room:
        return reply
    return failure(query, Code.FINE, more=TRUNCATED)


def answers(query: Query, number: int, reply: bytes) -> bool:
    """Whether a server's reply is one to this question, which was sent under ``number``."""
    if len(reply) < query.end:
        return False
    found, flags, questions = struct.unpack_from(">HHH", reply)
    return (
        found == number
        and bool(flags & RESPONSE)
        and not flags & 0x7800
        and questions == 1
        and _same_name(reply[HEADER.size : query.end], query.question)
    )


def _same_name(one: bytes, other: bytes) -> bool:
    """Servers may change the case of letters; type and class are no letters."""
    cut = -KIND.size
    return one[cut:] == other[cut:] and one[:cut].lower() == other[:cut].lower()


def code_of(reply: bytes) -> int:
    return reply[3] & 15
