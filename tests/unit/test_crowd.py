"""Who connects and says nothing makes room for who comes after."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from cove.daemon import crowd
from cove.daemon.docker import hijack
from cove.daemon.raw import take_over


@pytest.mark.parametrize(
    "said", [b"", b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 9\r\n\r\nhalf"]
)
def test_one_more_than_may_sends_one_of_the_silent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(crowd, "CROWD", 4)
    there = crowd.Crowd()
    begun, end = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/long":
            begun.set()
            await end.wait()
        return web.Response(body=await there.body(request))

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(said)
        return reader, writer

    async def run() -> None:
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        there.bound(runner.server)
        await web.UnixSite(runner, path).start()
        served, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /long HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        await begun.wait()
        silent = [await connected() for _ in range(12)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in silent]
        for gone in range(1, 10):  # three are left beside the one that is being answered
            while sum(end.done() for end in ends) < gone:
                await asyncio.wait(
                    [end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED
                )
        assert sum(not end.done() for end in ends) == 3
        end.set()
        assert b" 200 OK" in await served.read()
        for _, each in (*silent, (served, writer)):
            each.close()
        await runner.cleanup()
        await asyncio.gather(*ends)

    path = str(tmp_path / "sock")
    asyncio.run(asyncio.wait_for(run(), 120))


def kept() -> int:
    """aiohttp's connections."""
    gc.collect()
    return sum(type(each) is RequestHandler for each in gc.get_objects())


def test_a_connection_that_was_taken_over_is_forgotten(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        taken = hijack.Taken(*take_over(request, hijack.CHUNK))
        await taken.begin("text/plain", upgrade=True)
        taken.close()
        crowd.left(request)
        return hijack.Done()

    async def run() -> None:
        application = web.Application()
        application.router.add_route("*", "/{rest:.*}", answer)
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=crowd.PATIENCE)
        await runner.setup()
        await web.UnixSite(runner, path).start()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
        assert b" 101 " in await reader.read()
        writer.close()
        while kept() > before:
            await asyncio.sleep(0)
        await runner.cleanup()

    path, before = str(tmp_path / "sock"), kept()
    asyncio.run(asyncio.wait_for(run(), 120))
