"""A connection that was HTTP and carries a machine's streams from now on."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from cove.daemon.half import Listener

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def take_over(request: web.Request, limit: int) -> Streams:
    """Both directions, without HTTP; what the client said right behind its request comes first.
    ``limit``: bytes that wait to be read. Raises ``ConnectionResetError`` where it has ended.
    """
    loop = asyncio.get_running_loop()
    transport, protocol = request.transport, request.protocol
    if not isinstance(transport, asyncio.Transport):
        raise ConnectionResetError
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    stream = asyncio.StreamReaderProtocol(reader, loop=loop)
    rest, protocol._message_tail = protocol._message_tail, b""  # daemon/behind.py
    transport.set_protocol(stream)
    stream.connection_made(transport)
    if rest:
        reader.feed_data(rest)
    if isinstance(protocol, Listener) and protocol.ended:
        reader.feed_eof()
    with contextlib.suppress(RuntimeError):
        transport.resume_reading()
    return reader, asyncio.StreamWriter(transport, stream, reader, loop)
