"""What comes right behind a request that takes its connection is the stream's, however the bytes
were cut on their way.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiohttp import web

from cove.daemon import crowd
from cove.daemon.docker import hijack
from cove.daemon.docker.routes import becomes_stream
from cove.daemon.half import Site
from cove.daemon.raw import take_over

PING = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
MADE = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 6\r\n\r\n\r\n\r\n{}"
TYPED = b"one\r\n\r\nPOST /two HTTP/1.1\r\n\r\n\0\xff"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: tcp\r\n"


def started(upgrade: bytes, length: int = 2) -> bytes:
    head = b"POST /v1.41/exec/x/start?a HTTP/1.1\r\nHost: d\r\n" + upgrade
    return head + b"Content-Length: %d\r\n\r\n" % length + b"b" * length


def answers(path: Path, requests: Iterable[list[bytes]]) -> list[bytes]:
    """What each client hears whose bytes arrive in such pieces, and no more of them: of a stream
    all that is in it, after the request's body and ``:``.
    """

    async def answer(request: web.Request) -> web.StreamResponse:
        if not becomes_stream(request.method, request.raw_path):
            try:
                return web.Response(body=await request.read() or b"-")
            except web.RequestPayloadError:
                return web.Response(status=400)
        body = await request.read()
        taken = hijack.Taken(*take_over(request, hijack.CHUNK))
        taken.reader.feed_eof()
        taken.writer.write(body + b":" + await taken.reader.read(-1))
        taken.close()
        crowd.left(request)
        return hijack.Done()

    async def heard(runner: web.AppRunner, pieces: list[bytes]) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert runner.server is not None
        while not (there := [one for one in runner.server.connections if one.transport]):
            await asyncio.sleep(0)
        (served,) = there
        for piece in pieces:
            served.data_received(piece)
        said = await reader.read()
        writer.close()
        while [one for one in runner.server.connections if one.transport]:
            await asyncio.sleep(0)
        return said

    async def run() -> list[bytes]:
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            await Site(runner, listener).start()
            found = [await heard(runner, pieces) for pieces in requests]
            await runner.cleanup()
        return found

    return asyncio.run(asyncio.wait_for(run(), 240))


@pytest.mark.parametrize("upgrade", [UPGRADE, b""], ids=["upgrade", "none"])
def test_wherever_it_is_cut(tmp_path: Path, upgrade: bytes) -> None:
    asked = PING + started(upgrade) + TYPED
    cuts = [[asked[:cut], asked[cut:]] for cut in range(1, len(asked))]
    cuts.append([bytes([each]) for each in asked])
    for said, pieces in zip(answers(tmp_path / "sock", cuts), cuts, strict=True):
        assert said.startswith(b"HTTP/1.1 200 OK") and said.count(b"HTTP/1.1 2") == 1
        assert said.endswith(b"\r\n\r\n-bb:" + TYPED), pieces


def test_a_body_of_more_than_is_read_at_once_is_no_part_of_it(tmp_path: Path) -> None:
    asked = started(UPGRADE, 1 << 20)
    pieces = [[asked + TYPED], [asked, TYPED], [asked[:-1], b"b" + TYPED]]
    for said in answers(tmp_path / "sock", pieces):
        assert said.count(b"b") == 1 << 20 and said.endswith(b":" + TYPED)


def test_other_requests_are_answered_in_turn(tmp_path: Path) -> None:
    last = PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    asked = b"\r\n\r\n" + MADE + PING + MADE + last
    cuts = [[asked[:cut], asked[cut:]] for cut in range(1, len(asked))]
    for said in answers(tmp_path / "sock", cuts):
        assert said.count(b"HTTP/1.1 200 OK") == 4
        assert said.count(b"\r\n\r\n\r\n\r\n{}") == said.count(b"\r\n\r\n-") == 2


def test_a_body_that_is_no_http_is_answered(tmp_path: Path) -> None:
    head = b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n"
    for said in answers(tmp_path / "sock", [[head, b"ZZ\r\n"], [head + b"ZZ\r\n"]]):
        assert said.startswith(b"HTTP/1.1 400 ") and said.count(b"HTTP/1.1 ") == 1


def test_which_requests_take_their_connection() -> None:
    for target in ("/containers/a/attach?x=/", "/v1.24/exec/a/start", "http://d/exec/a/start"):
        assert becomes_stream("POST", target) and not becomes_stream("GET", target)
    for target in ("/containers/a/start", "/v1.99/exec/a/start", "/containers/a/attach/ws", "*"):
        assert not becomes_stream("POST", target)
