"""A connection that was HTTP and carries a machine's streams from now on: raw where the machine has
a terminal, else in frames of Docker's with eight bytes before each piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from cove.client.session import DETACH as DETACHED
from cove.client.session import (
    EXIT,
    HEAD,
    INPUT,
    INPUT_EOF,
    MESSAGE_MAX,
    OUTPUT,
    RELAY_STDIN,
    SESSION,
    DetachKeys,
)
from cove.daemon.docker.ask import MULTIPLEXED, RAW_STREAM, Answer, Ask, Hijack
from cove.daemon.docker.websocket import Websocket
from cove.daemon.ends import gone, heard, linger
from cove.engine.calls import Session
from cove.errors import UsageError

FRAME = struct.Struct(">BxxxL")
CHUNK = 32 << 10
BODY_MAX = 16 << 20
LOOK = 1.0
"""Seconds between two looks whether a client that says nothing more is still there."""
PATIENCE = 1.0
"""Seconds that a client may take to read the head of an answer."""
MULTIPLEXED_SINCE = (1, 42)


def framed(stream: int, data: bytes) -> bytes:
    return FRAME.pack(stream, len(data)) + data


class Done(web.StreamResponse):
    """Everything is said already."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Taken:
    """A connection, without its HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self._transport = reader, writer, writer.transport

    def gone(self) -> bool:
        """Whether nobody is at the other end; one who only has nothing more to say is there."""
        return gone(self._transport)

    async def say(self, answer: Answer, headers: Mapping[str, str]) -> None:
        body = answer.encoded()
        reason = {200: "OK", 201: "Created", 404: "Not Found"}.get(answer.status, "Error")
        lines = [f"HTTP/1.1 {answer.status} {reason}"]
        lines += [f"{name}: {value}" for name, value in (dict(headers) | answer.headers).items()]
        lines += [
            f"Content-Type: {answer.type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        with contextlib.suppress(ConnectionError):
            self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            await self.writer.drain()

    async def begin(self, type: str, *, upgrade: bool) -> None:
        head = "HTTP/1.1 101 UPGRADED" if upgrade else "HTTP/1.1 200 OK"
        more = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if upgrade else "Connection: close\r\n"
        self.writer.write(f"{head}\r\nContent-Type: {type}\r\n{more}\r\n".encode())
        await self.writer.drain()
        await self._read_up()

    async def _read_up(self) -> None:
        """Wait until the client has the head: docker-py reads it through a buffer, and would lose
        what came along with it.
        """
        found: socket.socket | None = self._transport.get_extra_info("socket")
        pause, patience = 0.0002, PATIENCE
        while found is not None and patience > 0 and not self._transport.is_closing():
            waiting = fcntl.ioctl(found.fileno(), termios.TIOCOUTQ, bytes(4))
            if not int.from_bytes(waiting, "little"):
                return
            await asyncio.sleep(pause)
            patience -= pause
            pause = min(2 * pause, 0.01)

    async def finish(self) -> None:
        await linger(self.reader, self.writer)

    def close(self) -> None:
        self.writer.close()


def check_body(request: web.Request) -> None:
    if request.content_length is None and request.can_read_body:
        raise UsageError("cannot read the request: its body has no length")
    if (request.content_length or 0) > BODY_MAX:
        raise UsageError(f"cannot read the request: its body is longer than {BODY_MAX} bytes")


async def serve(
    taken: Taken | Websocket, pool: Executor, ask: Ask, asked: Hijack, *, upgrade: bool
) -> None:
    """The session, until either side ends."""
    loop = asyncio.get_running_loop()
    pair = Pair()
    try:
        try:
            if asked.live:
                await loop.run_in_executor(pool, asked.begin, pair.session, pair.release)
        except BaseException:
            pair.release()
            raise
        several = ask.version >= MULTIPLEXED_SINCE and asked.framed
        await taken.begin(MULTIPLEXED if several else RAW_STREAM, upgrade=upgrade)
        try:
            while (chunk := await loop.run_in_executor(pool, next, asked.before, None)) is not None:
                taken.writer.write(chunk)
                await taken.writer.drain()
        finally:
            await asyncio.shield(loop.run_in_executor(pool, close, asked.before))
        if asked.live:
            await Relay(taken, pair.ours, asked, loop).run()
        await taken.finish()
    finally:
        asked.forget()
        pair.ours.close()


class Pair:
    """Two ends of a session: the engine's, and the one that is relayed here."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.session = Session(self._theirs.fileno(), (-1, -1, -1), 0, 0, 0)

    def release(self) -> None:
        """Its monitor has a copy of it, or nobody ever will."""
        self._theirs.close()


class Relay:
    """Messages of a session to bytes of a connection, and back."""

    def __init__(
        self,
        taken: Taken | Websocket,
        ours: socket.socket,
        asked: Hijack,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._taken, self._ours, self._asked, self._loop = taken, ours, asked, loop
        self._keys = DetachKeys(b"")
        self._served: asyncio.Future[None] = loop.create_future()
        self._flags = 0
        self._deaf = self._detached = False

    async def run(self) -> None:
        inward = self._loop.create_task(self._inward())
        outward = self._loop.create_task(self._outward())
        try:
            await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)

    async def _inward(self) -> None:
        """Ends when nobody is there any more."""
        if not await self._is_served():
            return
        wanted = bool(self._flags & RELAY_STDIN) and self._asked.stdin
        try:
            while data := await self._taken.reader.read(CHUNK):
                if wanted and not await self._typed(data):
                    wanted = False
        except ConnectionError:
            return
        if wanted:
            await self._send(INPUT_EOF, self._keys.held)
        while not self._taken.gone():
            await asyncio.sleep(LOOK)

    async def _is_served(self) -> bool:
        """Nothing is taken of the client before the machine is there to hear it; False: it left.
        What it said is carried to a machine that runs, not to one that may never start.
        """
        while not self._served.done():
            ended = self._taken.reader.at_eof()
            if self._taken.gone() and (ended or self._asked.waits()):
                return False
            # Not wait_for(): Python 3.11's forgets a cancel that comes together with the result.
            await asyncio.wait({self._served}, timeout=LOOK)
        return True

    async def _typed(self, data: bytes) -> bool:
        """Whether more is to come."""
        passed, detach = self._keys.feed(data) if self._asked.tty else (data, False)
        if passed:
            await self._send(INPUT, passed)
        if detach:
            self._detached = True
            await self._send(DETACHED, b"")
        return not detach

    async def _send(self, kind: int, payload: bytes) -> None:
        if kind == INPUT_EOF and payload:
            await self._send(INPUT, payload)
            payload = b""
        with contextlib.suppress(OSError):
            await self._loop.sock_sendall(self._ours, HEAD.pack(kind, 0, len(payload), 0) + payload)

    async def _outward(self) -> None:
        while True:
            message = await heard(self._ours, HEAD.size + MESSAGE_MAX)
            if len(message) < HEAD.size:
                return
            kind, value, _, _ = HEAD.unpack_from(message)
            payload = message[HEAD.size :]
            if kind == SESSION:
                self._flags, self._keys = value, DetachKeys(payload)
                if not self._served.done():
                    self._served.set_result(None)
            elif kind == OUTPUT and payload:
                await self._tell(framed(max(value, 1), payload) if self._asked.framed else payload)
            elif kind == EXIT:
                said = payload.partition(b"\0")[0]
                if not self._detached:
                    self._asked.ended(value & 255)
                if said and self._asked.last:
                    await self._tell(framed(2, said) if self._asked.framed else said)
                return

    async def _tell(self, data: bytes) -> None:
        """What a client has sent before it went is still carried: it is not the end of that."""
        if not self._deaf:
            try:
                self._taken.writer.write(data)
                await self._taken.writer.drain()
            except ConnectionError:
                self._deaf = True


def close(items: Iterator[bytes]) -> None:
    """End a stream, once the thread that may still be in it has come out."""
    end = getattr(items, "close", None)
    while end is not None:
        try:
            end()
            return
        except ValueError:  # "generator already executing": its cancel is on the way
            time.sleep(0.01)


__all__ = ["Done", "Taken", "close", "framed", "serve"]
