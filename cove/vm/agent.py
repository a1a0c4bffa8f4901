"""The agent of a guest that has no hub yet: channels over its serial port, one at a time. The
hub of a machine (``init/jail.c``) takes the port over when there is one.
"""

from __future__ import annotations

import select
import socket
import struct
import time

from cove.errors import HostError
from cove.plan import wire
from cove.plan.ops import Plan

HEADER = struct.Struct("<IiII")
RUN = struct.Struct("<IIHH")
FRAME_MAX, WINDOW = 7680, 16
PROTOCOL = 1

PLAN, RUN_PLAN, READ = 96, 97, 98
AHEAD, REST = 32, 64
"""Flags of ``init/guest.h``: halves of a plan."""
STARTED, FAILED, EXITED, OUTPUT = 16, 17, 18, 65
HELLO, TAKEN, CLOSE = 112, 120, 121
ANEW = 101

MACHINE, WARM = 1, 0x3FFF_FFFF
"""Channels of plans that were begun ahead: a hub's first one, and one that no hub comes to."""
FIRST = 0x4000_0000
"""A machine's hub counts its channels from 1."""
PATIENCE = 30.0


class Agent:
    def __init__(self, sock: socket.socket, *, patience: float = PATIENCE) -> None:
        self.sock, self._rest = sock, b""
        self._patience = patience
        self._channel = self._next = FIRST
        self._late = 0.0

    def close(self) -> None:
        self.sock.close()

    def wait_ready(self) -> str:
        """The kernel's release, once a guest that boots has an agent."""
        self._late = time.monotonic() + self._patience
        kind, value, _, data = self.message()
        if kind != HELLO or value != PROTOCOL:
            raise HostError("cannot use a guest: its agent is another one")
        return data.decode("utf-8", "replace")[:64]

    def begin(self, plan: Plan, *, channel: int) -> None:
        """The first half of a plan: whose process waits at this channel then, in a copy too."""
        self._begin(channel)
        self._order(plan, AHEAD)
        while self._answer()[0] != STARTED:
            pass

    def finish(self, plan: Plan, *, channel: int) -> int:
        """The second half: the exit code of its program."""
        self._begin(channel)
        self._order(plan, REST)
        return self._end()

    def run(self, plan: Plan) -> int:
        """A whole one, at a channel of its own; 0 of a plan without a program."""
        self._next += 1
        self._begin(self._next)
        self._order(plan, 0)
        return self._end()

    def _end(self) -> int:
        code = -1
        while True:
            kind, value, _ = self._answer()
            if kind == EXITED:
                code = value
            elif kind == OUTPUT:
                self._say(TAKEN, 1, b"")
            elif kind == CLOSE:
                if code < 0:
                    raise HostError("cannot use a guest: its agent gave up")
                return code

    def _order(self, plan: Plan, flags: int) -> None:
        host, machine = wire.encode(plan.host), wire.encode(plan.machine) if plan.machine else b""
        room = WINDOW
        for at in range(0, len(host) + len(machine), FRAME_MAX):
            while not room:
                kind, value, _ = self._answer()
                room += value if kind == TAKEN else 0
            self._say(PLAN, 0, (host + machine)[at : at + FRAME_MAX])
            room -= 1
        self._say(RUN_PLAN, flags, RUN.pack(len(host), len(machine), 0, 0))

    def _answer(self) -> tuple[int, int, bytes]:
        """What is said on this channel; the plan's failure is raised."""
        while True:
            kind, value, channel, data = self.message()
            if channel != self._channel:
                continue
            if kind == FAILED:
                op, detail = data[4:8], data[12:].split(b"\0", 1)[0]
                where = f"op {int.from_bytes(op, 'little')}: {detail.decode('utf-8', 'replace')}"
                raise HostError(f"cannot use a guest: its agent stopped at {where[:200]}")
            return kind, value, data

    def read(self, path: str) -> bytes | None:
        """A file of the guest's, at most a frame of it; None: it is not there."""
        self._next += 1
        self._begin(self._next)
        self._say(READ, 0, path.encode())
        while True:
            kind, value, channel, data = self.message()
            if (kind, channel) == (OUTPUT, self._channel):
                return data if value > 0 else None

    def begin_anew(self) -> None:
        """To a copy of a guest whose channels were held: who was at them is at the other one's."""
        self._begin(0)
        self._say(ANEW, 0, b"")

    def _begin(self, channel: int) -> None:
        self._late, self._channel = time.monotonic() + self._patience, channel

    def _say(self, kind: int, value: int, data: bytes) -> None:
        rest = memoryview(HEADER.pack(kind, value, len(data), self._channel) + data)
        while rest:
            self._wait(select.POLLOUT)
            try:
                rest = rest[self.sock.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise HostError("cannot use a guest: it has ended") from error

    def message(self) -> tuple[int, int, int, bytes]:
        while True:
            if len(self._rest) >= HEADER.size:
                kind, value, length, channel = HEADER.unpack_from(self._rest)
                if length > FRAME_MAX:
                    raise HostError("cannot use a guest: it does not speak as an agent does")
                end = HEADER.size + length
                if len(self._rest) >= end:
                    data, self._rest = self._rest[HEADER.size : end], self._rest[end:]
                    return kind, value, channel, data
            self._wait(select.POLLIN)
            try:
                data = self.sock.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if not data:
                raise HostError("cannot use a guest: it has ended")
            self._rest += data

    def _wait(self, events: int) -> None:
        poll = select.poll()
        poll.register(self.sock, events)
        left = self._late - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise HostError(f"cannot use a guest: no answer in {self._patience:.0f} seconds")
