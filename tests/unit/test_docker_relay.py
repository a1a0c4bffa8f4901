"""A connection of Docker's API that carries a machine's session."""

from __future__ import annotations

import asyncio
import socket

from cove.client.session import EXIT, HEAD, OUTPUT, SESSION
from cove.daemon.docker.ask import Hijack
from cove.daemon.docker.hijack import Relay, Taken, framed


def test_a_session_that_is_over_when_it_is_first_looked_at() -> None:
    """On a busy host its beginning, its output and its end come together."""

    async def relay() -> bytes:
        client, served = socket.socketpair()
        ours, monitor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with client, ours, monitor:
            for kind, value, data in ((SESSION, 0, b""), (OUTPUT, 1, b"all\n"), (EXIT, 0, b"")):
                monitor.send(HEAD.pack(kind, value, len(data), 0) + data)
            reader, writer = await asyncio.open_unix_connection(sock=served)
            asked = Hijack(lambda *_: None, tty=False, stdin=False)
            taken = Taken(reader, writer)
            await Relay(taken, ours, asked, asyncio.get_running_loop()).run()
            taken.close()
            await writer.wait_closed()
            return client.recv(100)

    assert asyncio.run(relay()) == framed(1, b"all\n")
