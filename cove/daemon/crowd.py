"""Who has connected and does not say what he wants: so many at most, and one more makes one of them
go. Any of them: were it the oldest, who comes fast enough would let nobody end a request.

Who is being answered is never sent away, however long that takes.
"""

from __future__ import annotations

import asyncio
import random

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

CROWD = 4096
"""Connections of one socket: 200 clients with twenty each."""
PATIENCE = 300.0
"""Seconds that somebody may take to say what he wants, as Docker's daemon has it: until the head of
the first request is there, or of the next, and then until its parameters are.
"""


class Crowd:
    """Of one listening socket; used by the thread of its loop alone."""

    def __init__(self) -> None:
        self._speaking: set[RequestHandler] = set()

    async def body(self, request: web.Request) -> bytes:
        """All of it: parameters."""
        if not request.can_read_body:
            return b""
        speaking = request.protocol
        self._speaking.add(speaking)
        try:
            async with asyncio.timeout(PATIENCE):
                return await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        finally:
            self._speaking.discard(speaking)

    def bound(self, server: web.Server | None) -> None:
        """Of a server that nobody has connected to yet."""
        assert server is not None
        came = server.connection_made

        def comes(who: RequestHandler, transport: asyncio.Transport) -> None:
            came(who, transport)
            there = [one for one in server.connections if one.transport is not None]
            if len(there) > CROWD:
                others = [one for one in there if one is not who and self._idle(one)]
                (random.choice(others) if others else who).force_close()

        server.connection_made = comes  # type: ignore[assignment, method-assign]

    def _idle(self, one: RequestHandler) -> bool:
        return one._waiter is not None or one in self._speaking


def left(request: web.Request) -> None:
    """A connection that was taken over ends unseen by aiohttp, which would remember it for ever,
    and all of it until its time to say something is over.
    """
    protocol = request.protocol
    protocol.keep_alive(False)
    if protocol._manager is not None:
        protocol._manager.connection_lost(protocol)
