"""Questions asked from where a machine is, and a server for names that no machine has."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dnslib import EDNS0, QTYPE, RR, TXT, A, DNSHeader, DNSQuestion, DNSRecord

from tests.driver import Cove
from tests.networks.conftest import inside

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PATIENCE = 120.0


@dataclass
class Seat:
    """A machine's place on its networks, taken by the test: its packets are the machine's."""

    namespace: int
    server: str

    def socket(self, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        with inside(self.namespace):
            sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(PATIENCE)
        sock.connect((self.server, 53))
        return sock

    def ask(self, name: str, kind: str = "A", *, room: int = 0) -> DNSRecord:
        with self.socket() as sock:
            return exchange(sock, name, kind, room=room)

    def ask_stream(self, name: str, kind: str = "A") -> DNSRecord:
        with self.socket(socket.SOCK_STREAM) as sock:
            sock.sendall(framed(question(name, kind)))
            return DNSRecord.parse(unframed(sock))

    def addresses(self, name: str) -> list[str]:
        return [str(rr.rdata) for rr in self.ask(name).rr]


@dataclass
class SeatInGuest(Seat):
    """Nobody of the host's can be where a virtual machine is: a program in it sends for us."""

    cove: Cove
    name: str

    def socket(self, kind: int = socket.SOCK_DGRAM) -> socket.socket:
        words = ("exec", "-i", self.name, "probe", "carry")
        how = "udp" if kind == socket.SOCK_DGRAM else "tcp"
        pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        carrier = self.cove.spawn(*words, how, self.server, "53", **pipes)
        sock = Carried(carrier, loses=kind == socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE)
        return sock


class Carried(socket.socket):
    """What is sent goes through a program's input, and its output is what comes: each message with
    its length before it. ``loses``: what comes when nobody has read for long, as datagrams do.
    """

    def __init__(self, carrier: subprocess.Popen[bytes], *, loses: bool) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(fileno=ours.detach())
        self.carrier = carrier
        self.flags = socket.MSG_DONTWAIT if loses else 0
        self.threads = [threading.Thread(target=act) for act in (self._there, self._back)]
        for thread in self.threads:
            thread.start()

    def _there(self) -> None:
        stdin = self.carrier.stdin
        assert stdin is not None
        with contextlib.suppress(OSError), stdin:  # whoever asked may be gone, and the carrier
            while data := self.theirs.recv(1 << 17):
                stdin.write(framed(data[1:]))
                stdin.flush()

    def _back(self) -> None:
        stdout = self.carrier.stdout
        assert stdout is not None
        with contextlib.suppress(OSError), stdout:
            while head := stdout.read(2):
                data = stdout.read(int.from_bytes(head, "big"))
                with contextlib.suppress(BlockingIOError):
                    self.theirs.send(b"." + data, self.flags)
            self.theirs.shutdown(socket.SHUT_RDWR)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """An empty message would be its end: there is a byte before each."""
        return super().send(b"." + bytes(data), flags) - 1

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        self.send(data, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(size + 1, flags)[1:]

    def close(self) -> None:
        super().close()
        for thread in self.threads:
            thread.join()
        self.theirs.close()
        self.carrier.wait()


def question(name: str, kind: str = "A", *, number: int = 0, room: int = 0) -> bytes:
    header = DNSHeader(id=number or None, rd=1)
    record = DNSRecord(header, q=DNSQuestion(name, getattr(QTYPE, kind)))
    if room:
        record.add_ar(EDNS0(udp_len=room))
    return bytes(record.pack())


def exchange(sock: socket.socket, name: str, kind: str = "A", *, room: int = 0) -> DNSRecord:
    asked = question(name, kind, room=room)
    sock.send(asked)
    data = sock.recv(1 << 16)
    assert data[:2] == asked[:2]
    return DNSRecord.parse(data)


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def unframed(sock: socket.socket) -> bytes:
    """One message of a connection; empty: it was closed."""
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        more = sock.recv(1 << 16)
        if not more:
            return b""
        data += more
    return data[2:]


@contextlib.contextmanager
def kept_open(at: Seat, count: int) -> Iterator[None]:
    """So many connections at once. Each asks a question every now and then, however long the others
    take: the server closes what says nothing.
    """
    over = threading.Event()
    taken = [threading.Event() for _ in range(count)]

    def keep(sock: socket.socket, answered: threading.Event) -> None:
        while not over.is_set():
            sock.sendall(framed(question("host.cove.internal")))
            if not unframed(sock):
                return
            answered.set()
            over.wait(1)

    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(at.socket(socket.SOCK_STREAM)) for _ in taken]
        threads = [
            threading.Thread(target=keep, args=each) for each in zip(held, taken, strict=True)
        ]
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(over.set)
        for thread in threads:
            thread.start()
        for answered in taken:
            assert answered.wait(PATIENCE), "a connection is closed, or has no answer"
        yield


@contextlib.contextmanager
def seat(cove: Cove, name: str) -> Iterator[Seat]:
    """At a machine that runs."""
    text = cove("exec", name, "cat", "/etc/resolv.conf").out
    server = next(line.split()[1] for line in text.splitlines() if line.startswith("nameserver"))
    if cove.isolation == "vm":
        yield SeatInGuest(-1, server, cove, name)
        return
    namespace = os.open(f"/proc/{cove.inspect(name)['State']['Pid']}/ns/net", os.O_RDONLY)
    try:
        yield Seat(namespace, server)
    finally:
        os.close(namespace)


@dataclass
class Upstream:
    """Somebody else's server. What it answers follows from the name."""

    datagrams: socket.socket
    connections: socket.socket
    seen: list[tuple[str, int, int]] = field(default_factory=list)
    """Name, number and port of every question by datagram."""
    held: list[tuple[bytes, tuple[str, int]]] = field(default_factory=list)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.seen]

    def serve(self) -> None:
        while True:
            data, peer = self.datagrams.recvfrom(1 << 16)
            if data == b"stop":
                return
            asked = DNSRecord.parse(data)
            self.seen.append((str(asked.q.qname).rstrip("."), asked.header.id, peer[1]))
            for reply in self._replies(asked, data):
                self.datagrams.sendto(reply, peer)

    def _replies(self, asked: DNSRecord, data: bytes) -> list[bytes]:
        name = str(asked.q.qname)
        good = answer(asked)
        if name.startswith("silent"):
            return []
        if name.startswith("refused"):
            return [bytes(asked.reply().pack())[:3] + b"\x85" + data[4:]]
        if name.startswith("forged"):
            other = DNSRecord.parse(question("forged-other.example", number=asked.header.id))
            number = (asked.header.id ^ 1).to_bytes(2, "big")
            return [b"", b"x" * 40, number + good[2:], answer(other, "6.6.6.6"), data, good]
        if name.startswith("long"):  # as a server that has no room for it
            return [bytes([*good[:2], good[2] | 2, *good[3:4]]) + bytes(data[4:])]
        return [good]

    def serve_streams(self) -> None:
        while True:
            sock, _ = self.connections.accept()
            with sock:
                data = unframed(sock)
                if data == b"stop":
                    return
                asked = DNSRecord.parse(data)
                if str(asked.q.qname).startswith("long"):
                    reply = asked.reply()
                    for number in range(40):
                        text = TXT(f"{number}" * 50)
                        reply.add_answer(RR(asked.q.qname, QTYPE.TXT, rdata=text, ttl=60))
                    sock.sendall(framed(bytes(reply.pack())))
                else:
                    sock.sendall(framed(answer(asked)))


def answer(asked: DNSRecord, address: str = "192.0.2.7") -> bytes:
    reply = asked.reply()
    if asked.q.qtype == QTYPE.A:
        reply.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A(address), ttl=60))
    return bytes(reply.pack())


@contextlib.contextmanager
def upstream(namespace: int, address: str) -> Iterator[Upstream]:
    """Listens at port 53 of an address there."""
    with inside(namespace):
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connections = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connections.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with datagrams, connections:
        datagrams.bind((address, 53))
        connections.bind((address, 53))
        connections.listen(64)
        made = Upstream(datagrams, connections)
        threads = [threading.Thread(target=work) for work in (made.serve, made.serve_streams)]
        for thread in threads:
            thread.start()
        try:
            yield made
        finally:
            with inside(namespace):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                    end.sendto(b"stop", (address, 53))
                with socket.create_connection((address, 53)) as stream:
                    stream.sendall(framed(b"stop"))
            for thread in threads:
                thread.join()
