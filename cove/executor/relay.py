"""What listens for a machine on the host (``init/relay.c``), as its daemon speaks to it.

Every word is answered with what it serves then. It outlives the daemon, and ends with the machine.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from cove.errors import Bug
from cove.executor.forker import RELAY, Forker
from cove.executor.messages import FDS_MAX, Kind, receive, send

BEGIN = struct.Struct("<II")
PORT = struct.Struct("<IHBx")
PROTOCOL = 1
PATIENCE = 20.0
"""Seconds for an answer; it does nothing that could take one."""


class Served(NamedTuple):
    connections: int
    ids: frozenset[int]


class Carried(NamedTuple):
    """A port that it is given: what it is called, and the machine's."""

    id: int
    port: int
    udp: bool
    fd: int


class Relay:
    """Raises OSError when it is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE)

    @classmethod
    def begin(cls, forker: Forker, *, id: int, listener: int, machine: int) -> Relay:
        """A new one with this user id, that ends with the process behind the pidfd ``machine``."""
        relay = cls(forker.fork(RELAY))
        try:
            relay._ask(Kind.RELAY_BEGIN, BEGIN.pack(PROTOCOL, id), (listener, machine))
        except BaseException:
            relay.close()
            raise
        return relay

    @classmethod
    def find(cls, path: str) -> Relay | None:
        """One that serves since an earlier daemon."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            return None
        return cls(sock)

    def close(self) -> None:
        self.sock.close()

    def served(self) -> Served:
        return self._ask(Kind.QUERY)

    def add(self, ports: Sequence[Carried]) -> None:
        for start in range(0, len(ports), FDS_MAX):
            some = ports[start : start + FDS_MAX]
            words = b"".join(PORT.pack(p.id, p.port, p.udp) for p in some)
            self._ask(Kind.RELAY_ADD, words, tuple(p.fd for p in some))

    def drop(self, ids: Sequence[int]) -> None:
        """With the connections through them."""
        for start in range(0, len(ids), 1000):
            self._ask(Kind.RELAY_DROP, array.array("I", ids[start : start + 1000]).tobytes())

    def aim(self, address: bytes) -> None:
        """At the machine's address; empty: nobody is let through."""
        self._ask(Kind.RELAY_TARGET, address)

    def end(self) -> None:
        """All ports are free when this returns."""
        self._ask(Kind.RELAY_END)

    def _ask(self, kind: Kind, payload: bytes = b"", fds: tuple[int, ...] = ()) -> Served:
        send(self.sock, kind, payload=payload, fds=fds)
        try:
            message = receive(self.sock)
        except Bug as error:
            raise ConnectionAbortedError("its answer cannot be read") from error
        if message is None or message.kind != Kind.RELAY_STATE or len(message.payload) < 8:
            raise ConnectionAbortedError("it ended")
        words = array.array("I", message.payload)
        return Served(words[1], frozenset(words[2:]))


def listen(run_fd: int, key: int) -> int:
    """Where later daemons find it."""
    path = address(run_fd, key)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        try:
            os.unlink(path)  # of one that was killed
        except FileNotFoundError:
            pass
        listener.bind(path)
        listener.listen(4)
    except BaseException:
        listener.close()
        raise
    return listener.detach()


def address(run_fd: int, key: int) -> str:
    return f"/proc/self/fd/{run_fd}/{key}.relay"
