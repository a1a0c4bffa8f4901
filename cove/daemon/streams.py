"""Bytes in and out of a verb over HTTP, through a pipe: the verb waits for its client, and its
client for it. A client that goes is the end of the verb.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from typing import Any

import msgspec
from aiohttp import web

from cove.client.raw import ANSWER, DATA, ERROR, frame
from cove.engine.calls import Call
from cove.engine.events import Cancel
from cove.errors import CoveError, error_to_json
from cove.linux.pump import write_all

CHUNK = 256 << 10
Method = Callable[[Any, Call], Any]
encode = msgspec.json.Encoder().encode


def _run(method: Method, params: Any, call: Call, fd: int) -> Any:
    """The verb, in a thread of the pool; its end of the pipe is closed with it."""
    try:
        return method(params, call)
    finally:
        os.close(fd)


async def answer_raw(
    request: web.Request, pool: Executor, method: Method, params: Any, body: int = -1
) -> web.StreamResponse:
    """What the verb writes as frames; an error before the first byte is an answer of its own."""
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    cancel = Cancel()
    call = Call(body=body, sink=writer, cancelled=cancel)
    run = pool.submit(_run, method, params, call, writer)
    reading: asyncio.Future[bytes] | None = None
    response: web.StreamResponse | None = None
    try:
        while True:
            reading = loop.run_in_executor(pool, os.read, reader, CHUNK)
            data = await asyncio.shield(reading)
            if not data:
                break
            response = response or await _begin(request)
            await response.write(frame(DATA, data))
        try:
            last = frame(ANSWER, encode(await asyncio.wrap_future(run)))
        except CoveError as error:
            if response is None:
                raise
            last = frame(ERROR, encode(error_to_json(error)))
        response = response or await _begin(request)
        await response.write(last)
    finally:
        cancel.set()
        await asyncio.shield(_close(reader, run, reading))
    await response.write_eof()
    return response


async def _close(reader: int, run: Future[Any], reading: asyncio.Future[bytes] | None) -> None:
    """Once nobody reads it: the verb has ended, and with it the last look."""
    await asyncio.wait([asyncio.wrap_future(run), *((reading,) if reading is not None else ())])
    os.close(reader)


async def with_piped_body(
    request: web.Request, pool: Executor, method: Method, params: Any
) -> web.StreamResponse:
    """The request's body is read as the verb reads it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    cancel = Cancel()
    call = Call(body=reader, cancelled=cancel)
    run = pool.submit(_run, method, params, call, reader)
    await _feed(request, pool, writer, cancel)
    try:
        result = await asyncio.shield(asyncio.wrap_future(run))
    except asyncio.CancelledError:
        cancel.set()
        raise
    return web.Response(body=encode(result), content_type="application/json")


@contextlib.asynccontextmanager
async def piped_body(request: web.Request, pool: Executor, cancel: Cancel) -> AsyncIterator[int]:
    """The request's body to read from while the block lasts; of a client that goes, ``cancel`` is
    set before the end is seen.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    loop = asyncio.get_running_loop()
    feeding = asyncio.ensure_future(_feed(request, pool, writer, cancel))

    def end() -> None:
        loop.call_soon_threadsafe(feeding.cancel)

    try:
        with cancel.then(end):  # who waits for the rest in vain sees an end
            yield reader
    finally:
        os.close(reader)  # a writer that waits for room sees that nobody reads
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(request: web.Request, pool: Executor, writer: int, cancel: Cancel) -> None:
    loop = asyncio.get_running_loop()
    writing: asyncio.Future[None] | None = None
    try:
        async for chunk in request.content.iter_chunked(CHUNK):
            writing = loop.run_in_executor(pool, write_all, writer, chunk)
            await asyncio.shield(writing)
    except BrokenPipeError:
        pass  # the verb has ended before its input, and says why
    except BaseException:
        cancel.set()  # before it sees the end of its input
        raise
    finally:
        while writing is not None and not writing.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([writing])
        os.close(writer)


async def _begin(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-cove-frames"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response
