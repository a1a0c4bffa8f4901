"""What a client says right behind a request that turns its connection into a stream: the first
bytes of that stream, in the same segment or in the next. Docker's daemon hands them on; aiohttp's
parser knows no such protocol but ``websocket``, and drops them, or takes them for a request.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from cove.daemon.docker.routes import becomes_stream

HEAD_END = b"\r\n\r\n"


class Behind(RequestHandler):
    """One connection. The parser is given each head, and the body of such a request, by itself:
    what follows is kept as aiohttp keeps it behind a websocket's handshake.
    """

    __slots__ = ("_last", "_left", "_seam", "_taking")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._last: StreamReader | None = None
        """The body of the latest request."""
        self._taking: StreamReader | None = None
        """The same, of one that takes the connection, until all of it is there."""
        self._left = 0
        """Bytes of that which the parser has not been given."""
        self._seam = b""
        """The last bytes of a head that came in part: its end may be cut, too."""
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        heads = True
        while True:
            piece = self._next(data, heads)
            data = data[len(piece) :]
            asked = self._request_count
            super().data_received(piece)
            heads = self._request_count > asked
            if heads and not self._note():
                return
            if self._taking is not None and self._taking.is_eof():
                self._taking, self._upgraded = None, True
            if not data:
                return
            if self._taking is not None and not self._left:
                # The parser pauses: aiohttp comes back with b"" once the body's reader has read.
                self._message_tail += data
                return

    def _next(self, data: bytes, heads: bool) -> bytes:
        """What the parser is given now."""
        if self._taking is not None:
            piece = data[: self._left]
            self._left -= len(piece)
            return piece
        seam, self._seam = self._seam, b""
        if not heads or self._upgraded or not (self._last is None or self._last.is_eof()):
            return data
        if (found := (seam + data[:3]).find(HEAD_END)) >= 0:
            return data[: found + len(HEAD_END) - len(seam)]
        if (found := data.find(HEAD_END)) >= 0:
            return data[: found + len(HEAD_END)]
        self._seam = (seam + data[-3:])[-3:]
        return data

    def _note(self) -> bool:
        """Of a new request; False: it is none, and the connection will end."""
        before = self._last
        message, self._last = self._messages[-1]
        if not isinstance(message, RawRequestMessage):
            if before is not None and not before.is_eof():
                # Who reads that body would wait for the rest of it: aiohttp tells nobody.
                before.set_exception(web.RequestPayloadError("no HTTP"))
                self._messages.pop()
            return False
        if becomes_stream(message.method, message.path) and not message.chunked:
            self._taking = self._last
            self._left = int(message.headers.get("Content-Length", "0"))
        return True
