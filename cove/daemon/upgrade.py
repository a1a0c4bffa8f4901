"""A session over HTTP: after the upgrade the connection carries the messages of ``init/cove.h``,
framed by their own headers; a SEQPACKET pair carries the same to and from the monitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from aiohttp import web

from cove.daemon.crowd import left
from cove.daemon.ends import heard, linger
from cove.daemon.raw import take_over
from cove.engine.calls import Session

HEADER = struct.Struct("<IiII")
MESSAGE_MAX = 192 << 10


class SessionBridge:
    """One end of a pair is the engine's ``front``, the other is relayed to the connection."""

    def __init__(self, terminals: int, rows: int, columns: int) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self.session = Session(self._theirs.fileno(), (-1, -1, -1), terminals, rows, columns)

    def handed_over(self) -> None:
        """The monitor has its copy of the other end."""
        self._theirs.close()

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    async def relay(self, request: web.Request, loop: asyncio.AbstractEventLoop) -> None:
        """Until either side ends."""
        reader, writer = take_over(request, MESSAGE_MAX)
        inward = loop.create_task(self._inward(reader, loop))
        outward = loop.create_task(self._outward(writer))
        try:
            await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
            if inward.done() and not outward.done():
                # The client closed its side: what the machine still says has nobody to hear it.
                self._ours.shutdown(socket.SHUT_WR)
            else:
                inward.cancel()
                await asyncio.wait({inward})
                await linger(reader, writer)
        finally:
            for task in (inward, outward):
                task.cancel()
            await asyncio.gather(inward, outward, return_exceptions=True)
            self._ours.close()
            writer.close()
            left(request)

    async def _inward(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                head = await reader.readexactly(HEADER.size)
                length = HEADER.unpack(head)[2]
                if length > MESSAGE_MAX:
                    return
                payload = await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            with contextlib.suppress(OSError):  # its end is on the way to us
                await loop.sock_sendall(self._ours, head + payload)

    async def _outward(self, writer: asyncio.StreamWriter) -> None:
        while message := await heard(self._ours, HEADER.size + MESSAGE_MAX):
            writer.write(message)
            await writer.drain()
