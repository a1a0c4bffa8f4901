"""The end of a connection, so that nothing of what was said before it is lost: what one side closes
with something unread in it is a broken connection to the kernel, and it tells the other side so.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket

LINGER = 2.0
"""Seconds that a client may take to hear of the end, while it still sends."""
CHUNK = 64 << 10


async def heard(sock: socket.socket, size: int) -> bytes:
    """The next message of a monitor. Of one that ended with some of our input unread the kernel
    tells that first, once, and only then what it had said.
    """
    loop = asyncio.get_running_loop()
    for _ in range(2):
        with contextlib.suppress(ConnectionError):
            return await loop.sock_recv(sock, size)
    return b""


def gone(transport: asyncio.BaseTransport) -> bool:
    """Whether nobody is at the other end; one who only has nothing more to say is there."""
    found: socket.socket | None = transport.get_extra_info("socket")
    if found is None or transport.is_closing():
        return True
    poll = select.poll()
    try:
        poll.register(found.fileno(), 0)  # POLLHUP comes unasked
    except ValueError:
        return True
    return bool(poll.poll(0))


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Nothing more is said, and what the client still says is thrown away until it has heard that:
    it would lose what it has not read yet.
    """
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        writer.write_eof()
        async with asyncio.timeout(LINGER):
            while await reader.read(CHUNK):
                pass
