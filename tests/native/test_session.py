"""The front's part in Python: the same peer as the C front, over packets and over a stream."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.client import session
from tests.native import peer
from tests.native.peer import HEAD, Connection, Message, terminal

ROOT = Path(__file__).resolve().parents[2]

KINDS = [socket.SOCK_SEQPACKET, socket.SOCK_STREAM]


class Stream(Connection):
    """The peer over a byte stream: messages framed by their header."""

    def receive(self) -> Message | None:
        head = self._read(HEAD.size)
        if not head:
            return None
        kind, value, length, reserved = HEAD.unpack(head)
        return Message(kind, value, self._read(length), reserved)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.sock.recv(size - len(data))):
            data += more
        return data


@dataclass
class Ends:
    """A caller on pipes."""

    fds: tuple[int, int, int]
    terminals: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Foreground:
    connection: Connection
    caller: Ends
    stdin: int
    stdout: int
    stderr: int
    codes: list[int]
    thread: threading.Thread

    def code(self) -> int:
        self.thread.join(120)
        return self.codes[0]


@contextmanager
def foreground(kind: int, received: bytes = b"") -> Iterator[Foreground]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    pipes = [os.pipe() for _ in range(3)]
    caller = Ends((pipes[0][0], pipes[1][1], pipes[2][1]))
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(session.relay(ours, caller, received)))
    connection = (Stream if kind == socket.SOCK_STREAM else Connection)(theirs)
    thread.start()
    try:
        yield Foreground(connection, caller, pipes[0][1], pipes[1][0], pipes[2][0], codes, thread)
    finally:
        connection.close()
        thread.join(120)
        ours.close()
        for fd in {fd for pair in pipes for fd in pair}:
            os.close(fd)


@pytest.mark.parametrize("kind", KINDS)
def test_relays_all_three_and_gives_the_code(kind: int) -> None:
    with foreground(kind) as front:
        front.connection.session(peer.RELAY_STDIN)
        os.write(front.stdin, b"typed")
        front.connection.expect_input(b"typed")
        front.connection.output(b"out")
        front.connection.output(b"err", fd=2)
        front.connection.exit(42, "why\n")
        assert front.code() == 42
        assert os.read(front.stdout, 99) == b"out"
        assert os.read(front.stderr, 99) == b"errwhy\n"


@pytest.mark.parametrize("kind", KINDS)
def test_lost_peer_after_last_words(kind: int) -> None:
    with foreground(kind) as front:
        front.connection.output(b"last")
        front.connection.close()
        assert front.code() == 125
        assert os.read(front.stdout, 99) == b"last"
        assert os.read(front.stderr, 99) == b"cove: lost the machine's monitor\n"


@pytest.mark.parametrize("kind", KINDS)
def test_detach(kind: int) -> None:
    with foreground(kind) as front:
        front.connection.session(peer.RELAY_STDIN, b"\x10\x11")
        os.write(front.stdin, b"a\x10")
        front.connection.expect_input(b"a")
        os.write(front.stdin, b"\x11")
        front.connection.expect(peer.DETACH)
        front.connection.close()
        assert front.code() == 0


def test_bytes_read_with_the_upgrade_come_first() -> None:
    first = HEAD.pack(peer.OUTPUT, 1, 3, 0) + b"one" + HEAD.pack(peer.OUTPUT, 1, 3, 0)[:5]
    with foreground(socket.SOCK_STREAM, first) as front:
        front.connection.sock.sendall(HEAD.pack(peer.OUTPUT, 1, 3, 0)[5:] + b"two")
        front.connection.exit(0)
        assert front.code() == 0
        assert os.read(front.stdout, 99) == b"onetwo"


def test_stream_cut_anywhere() -> None:
    text = os.urandom(5000)
    whole = HEAD.pack(peer.OUTPUT, 1, len(text), 0) + text + HEAD.pack(peer.EXIT, 3, 0, 0)
    with foreground(socket.SOCK_STREAM) as front:
        for start in range(0, len(whole), 7):
            front.connection.sock.sendall(whole[start : start + 7])
        assert front.code() == 3
        assert os.read(front.stdout, 9999) == text


def test_message_too_long_is_a_lost_peer() -> None:
    with foreground(socket.SOCK_STREAM) as front:
        front.connection.sock.sendall(HEAD.pack(peer.OUTPUT, 1, 1 << 30, 0))
        assert front.code() == 125


def test_cancelled_session_ends() -> None:
    with foreground(socket.SOCK_SEQPACKET) as front:
        front.caller.cancelled.set()
        assert front.code() == 130


@pytest.mark.parametrize("kind", KINDS)
def test_stdin_end_of_file(kind: int) -> None:
    with foreground(kind) as front:
        front.connection.session(peer.RELAY_STDIN)
        text = os.urandom(50_000)
        os.write(front.stdin, text)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, front.stdin)
        os.close(null)
        front.connection.expect_input(text)
        front.connection.expect(peer.INPUT_EOF)
        front.connection.exit(0)
        assert front.code() == 0


@given(st.binary(min_size=1, max_size=4), st.lists(st.binary(max_size=6), max_size=8))
def test_detach_keys_are_found_where_find_finds_them(keys: bytes, pieces: list[bytes]) -> None:
    """However typing is cut into reads, the first occurrence detaches; nothing else is lost."""
    keys = bytes(b % 3 for b in keys)
    pieces = [bytes(b % 3 for b in piece) for piece in pieces]
    found = session.DetachKeys(keys)
    passed = b""
    for piece in pieces:
        more, detach = found.feed(piece)
        passed += more
        if detach:
            assert b"".join(pieces).find(keys) == len(passed)
            return
    assert keys not in b"".join(pieces)
    assert passed + found.held == b"".join(pieces)


def test_on_a_terminal() -> None:
    """Raw while the session lasts, resized, restored."""
    program = """
import socket, sys, threading
from types import SimpleNamespace
from cove.client.session import relay
caller = SimpleNamespace(fds=(0, 1, 2), terminals=7, cancelled=threading.Event())
sys.exit(relay(socket.socket(fileno=int(sys.argv[1])), caller))
"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    os.set_inheritable(ours.fileno(), True)
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-c", program, str(ours.fileno())]
    with theirs, terminal(argv, env) as tty:
        ours.close()
        connection = Connection(theirs)
        before = tty.modes()
        connection.session(peer.RELAY_STDIN | peer.RAW)
        connection.output(b"ready>")
        tty.wait_for(b"ready>")
        assert tty.is_raw()
        tty.type(b"\x03")
        connection.expect_input(b"\x03")
        tty.resize(30, 90)
        assert connection.expect(peer.RESIZE).payload == b"\x1e\x00\x5a\x00"
        connection.exit(7)
        assert tty.wait() == 7
        assert tty.modes() == before
