"""Questions that others know the answer to: sent to servers, one after another, each from a socket
of its own whose port the kernel chose, under a number that nobody can guess.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from cove.linux.timers import Timer
from cove.net.names.loop import Loop
from cove.net.names.message import Code, Query, answers, code_of

HOST_FILE = "/etc/resolv.conf"
FILE_MAX = 1 << 16
SERVERS = 3
"""Of one machine or of the host: as resolv.conf(5) has it."""
PORT = 53
PATIENCE = 4.4
"""Seconds for all servers together: askers wait five."""
ROUNDS = 2
"""How often each server is asked by datagram: one may be lost."""
REPLY_MAX = 1 << 16
OPEN, SHARE = 1024, 4
"""Questions under way: one machine has no more than a quarter of what is left, so that there is
always something left.
"""

Asker = tuple[str, str]
Done = Callable[[bytes | None], None]
FAULTS = (Code.FAILED, Code.REFUSED, Code.NOT_IMPLEMENTED, Code.MALFORMED)


class HostServers:
    """What the host resolves names with, as it is now."""

    def __init__(self, path: str = HOST_FILE) -> None:
        self._path = path
        self._seen: tuple[int, ...] = ()
        self._servers: tuple[str, ...] = ()

    def __call__(self) -> tuple[str, ...]:
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._servers = nameservers(file.read(FILE_MAX))
                self._seen = seen
        except OSError:
            self._seen, self._servers = (), nameservers("")
        return self._servers


def nameservers(text: str) -> tuple[str, ...]:
    """Of a resolv.conf; without any it is the host's own loopback, as with the C library."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            found.append(words[1])
    return tuple(found[:SERVERS]) or ("127.0.0.1",)


class Upstream:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._open: Counter[Asker] = Counter()
        self.under_way = 0

    def ask(
        self, query: Query, asker: Asker, servers: Sequence[str], *, stream: bool, done: Done
    ) -> None:
        """``done`` is called once, later or now: with the reply, under the asker's number, or with
        None. One machine's questions leave room for the others'.
        """
        if not servers or self._open[asker] * SHARE >= OPEN - self.under_way:
            done(None)
            return
        self._open[asker] += 1
        self.under_way += 1

        def ended(reply: bytes | None) -> None:
            self.under_way -= 1
            self._open[asker] -= 1
            if not self._open[asker]:
                del self._open[asker]
            done(reply)

        _Exchange(self._loop, query, servers, stream=stream, done=ended).next()


class _Exchange:
    """One question, and the servers that are left to be asked."""

    def __init__(
        self, loop: Loop, query: Query, servers: Sequence[str], *, stream: bool, done: Done
    ) -> None:
        self._loop, self._query, self._done = loop, query, done
        self._stream = stream
        self._left = list(servers[:SERVERS]) * (1 if stream else ROUNDS)
        self._each = PATIENCE / len(self._left)
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._number = 0
        self._sent = False
        self._data = bytearray()
        self._worse: bytes | None = None
        """What a server said that could not answer: better than nothing, if nobody can."""

    def next(self) -> None:
        self._close()
        while self._left:
            server = self._left.pop(0)
            try:
                self._begin(server)
                return
            except OSError:
                self._close()
        self._done(self._worse)

    def _begin(self, server: str) -> None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
        self._socket = sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        host, _, zone = server.partition("%")
        scope = socket.if_nametoindex(zone) if zone else 0
        where = (host, PORT, 0, scope) if ":" in server else (host, PORT)
        self._number = secrets.randbelow(1 << 16)
        self._sent, self._data = False, bytearray()
        error = sock.connect_ex(where)
        if error and not (self._stream and error == errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        events = select.EPOLLIN | (select.EPOLLOUT if self._stream else 0)
        if not self._stream:
            sock.send(self._question())
        self._loop.watch(sock.fileno(), self._ready, events)
        self._timer = self._loop.after(self._each, self.next)

    def _question(self) -> bytes:
        return self._number.to_bytes(2, "big") + self._query.raw[2:]

    def _ready(self, events: int) -> None:
        assert self._socket is not None
        try:
            if not self._stream:
                self._take(self._socket.recv(REPLY_MAX))
            elif not self._sent:
                question = self._question()
                whole = len(question).to_bytes(2, "big") + question
                if self._socket.send(whole) != len(whole):
                    raise OSError("no room for one question")
                self._sent = True
                self._loop.watch(self._socket.fileno(), self._ready)
            else:
                self._read(self._socket)
        except BlockingIOError:
            pass
        except OSError:  # nobody listens there
            self.next()

    def _read(self, sock: socket.socket) -> None:
        data = sock.recv(REPLY_MAX)
        if not data:
            raise OSError("cut off")
        self._data += data
        length = int.from_bytes(self._data[:2], "big")
        if len(self._data) >= 2 + length and len(self._data) > 2:
            reply = bytes(self._data[2 : 2 + length])
            if not answers(self._query, self._number, reply):
                raise OSError("an answer to something else")
            self._take(reply)

    def _take(self, reply: bytes) -> None:
        """Of datagrams, one that is no answer may be anybody's: the answer may still come."""
        if not answers(self._query, self._number, reply):
            return
        whole = self._query.raw[:2] + reply[2:]
        if code_of(reply) in FAULTS:
            self._worse = whole
            self.next()
            return
        self._close()
        self._done(whole)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
