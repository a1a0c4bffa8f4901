"""Clients that say everything and shut their side, as ``nc -N`` does: they are answered, as by
Docker's daemon. To aiohttp the end of what they say is the end of the connection.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from cove.daemon.behind import Behind
from cove.daemon.ends import gone

LOOK = 1.0
"""Seconds between two looks whether such a client is still there: its end cannot be read again."""


class Listener(Behind):
    """One connection."""

    __slots__ = ("ended",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.ended = False
        super().connection_made(transport)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's answer, and may be true
        """Whether the connection stays: what was asked for, whole, is not answered yet."""
        transport, last = self.transport, self._last
        waited_for = self._waiter is None or bool(self._messages)
        if transport is None or gone(transport) or not waited_for or self._payload_parser:
            return False
        if last is None or not last.is_eof():
            return False
        self.ended = True
        if self._messages:
            message, payload = self._messages[-1]
            if not isinstance(message, _ErrInfo):
                self._messages[-1] = message._replace(should_close=True), payload
        else:
            self.close()  # once it is answered
        self._look()
        return True

    def _look(self) -> None:
        if self.transport is None or self.transport.get_protocol() is not self:
            return  # it has ended, or is a stream that looks for itself
        if gone(self.transport):
            self.transport.abort()
        else:
            self._loop.call_later(LOOK, self._look)


class Site(web.SockSite):
    """A listening socket with such connections."""

    __slots__ = ()

    async def start(self) -> None:
        await web.BaseSite.start(self)
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None

        def listener() -> Listener:
            return Listener(server, loop=loop, **server._kwargs)

        self._server = await loop.create_server(listener, sock=self._sock, backlog=self._backlog)
