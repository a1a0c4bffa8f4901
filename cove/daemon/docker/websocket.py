"""A machine's streams over a websocket (RFC 6455): raw, in binary messages, whatever the client's
are. In place of a connection that was taken from HTTP.
"""

from __future__ import annotations

import asyncio

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from cove.errors import UsageError

DATA = (WSMsgType.TEXT, WSMsgType.BINARY)
MESSAGE_MOST = 4 << 20


class Websocket:
    """As ``hijack.Taken``: who relays a session reads and writes it."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.WebSocketResponse(compress=False, max_msg_size=MESSAGE_MOST)
        if not self.response.can_prepare(request):
            raise UsageError("cannot attach: the request is no handshake of a websocket")
        self._request = request
        self.reader, self.writer = Reader(self.response), Writer(self.response)

    def gone(self) -> bool:
        transport = self._request.transport
        return self.response.closed or transport is None or transport.is_closing()

    async def begin(self, type: str, *, upgrade: bool) -> None:
        await self.response.prepare(self._request)
        self.reader.begin()

    async def finish(self) -> None:
        """Whatever was said is heard before the end: it is a message like the others."""
        await self.reader.stop()
        await self.response.close()

    async def fail(self, why: str) -> None:
        await self.reader.stop()
        # Of a frame of control, which has 125 bytes at most (RFC 6455, 5.5).
        text = why.encode()[:120].decode(errors="ignore").encode()
        await self.response.close(code=WSCloseCode.INTERNAL_ERROR, message=text)


class Reader:
    def __init__(self, response: web.WebSocketResponse) -> None:
        self._response = response
        self._rest = b""
        self._ended = False
        self._next: asyncio.Task[WSMessage] | None = None

    def begin(self) -> None:
        """Listen, though nobody reads yet: only who receives answers pings and sees the end."""
        self._next = asyncio.ensure_future(self._response.receive())

    async def stop(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})

    async def read(self, most: int) -> bytes:
        """What is next, at most so much of it; nothing: the client has closed it."""
        while not self._rest and not self._ended:
            if self._next is None:
                self.begin()
            assert self._next is not None
            await asyncio.wait({self._next})  # whoever is cancelled here leaves it what it hears
            self._take(self._next)
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    def _take(self, heard: asyncio.Task[WSMessage]) -> None:
        self._next, message = None, heard.result()
        if message.type in DATA:
            data = message.data
            self._rest = data.encode() if isinstance(data, str) else data
        else:
            self._ended = True

    def at_eof(self) -> bool:
        if self._next is not None and self._next.done():
            self._take(self._next)
        return self._ended and not self._rest


class Writer:
    def __init__(self, response: web.WebSocketResponse) -> None:
        self._response = response
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._held.append(data)

    async def drain(self) -> None:
        data, self._held = b"".join(self._held), []
        if data:
            await self._response.send_bytes(data)
