"""cove's own HTTP API: ``POST /cove/v1/<verb>`` for every verb of the client's table.

aiohttp lives in this room and in one thread; verbs are synchronous and run in a pool of their own.
Streams are JSON lines; a session upgrades the connection to framed session messages.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from aiohttp import web

from cove.client.verbs import PREFIX, VERBS, Verb
from cove.daemon import streams
from cove.daemon.crowd import PATIENCE, Crowd
from cove.daemon.docker.server import Door
from cove.daemon.half import Site
from cove.daemon.lasting import THREADS, Lasting
from cove.daemon.params import parse_params
from cove.daemon.sockets import BACKLOG
from cove.daemon.upgrade import SessionBridge
from cove.engine.calls import Call
from cove.engine.engine import Engine
from cove.engine.events import Cancel
from cove.engine.reactor import complain
from cove.errors import CoveError, NotFound, UsageError, error_to_json

LOOK = 1.0
"""Seconds after which a stream that says nothing finds that its reader has left."""
WAITS = frozenset(("machine.wait",))
BODY_MAX = 16 << 20
"""Of parameters; bodies of images are streamed."""
CHUNK = 256 << 10

encode = msgspec.json.Encoder().encode


def error_answer(error: CoveError) -> web.Response:
    return web.json_response(error_to_json(error), status=max(400, error.status))


def bug_answer(error: BaseException) -> web.Response:
    complain("an HTTP request")
    text = f"bug: {type(error).__name__}: {error}; please report"
    return web.json_response(error_to_json(CoveError(text)), status=500)


class Server:
    """The applications on their listening sockets, in the calling thread until ``close``."""

    def __init__(self, engine: Engine, own: socket.socket, docker: socket.socket) -> None:
        self._engine, self._own, self._docker = engine, own, docker
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="api")
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._lasting = Lasting()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    def close(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._done.set)
        except RuntimeError:
            pass  # it ended by itself

    async def _serve(self) -> None:
        own = web.Application(client_max_size=BODY_MAX)
        own.router.add_post(PREFIX + "{verb}", self._answer)
        door = Door(self._engine)
        # Of clients that go, or send what is no HTTP, aiohttp would write a page each.
        quiet = logging.getLogger("cove.http")
        quiet.disabled = True
        runners = []
        for application, listener, crowd, site in (
            (own, self._own, Crowd(), web.SockSite),
            (door.application(), self._docker, door.crowd, Site),
        ):
            runner = web.AppRunner(
                application,
                access_log=None,
                handle_signals=False,
                logger=quiet,
                keepalive_timeout=PATIENCE,
            )
            await runner.setup()
            crowd.bound(runner.server)
            await site(runner, listener, backlog=BACKLOG).start()
            runners.append(runner)
        await self._done.wait()
        await asyncio.gather(*(runner.cleanup() for runner in runners))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            name = request.match_info["verb"]
            verb = VERBS.get(name)
            if verb is None:
                raise NotFound(f'cannot carry out "{name}": the daemon has no such verb')
            if verb.body or verb.raw or verb.stream or name in WAITS:
                with self._lasting.one():
                    return await self._carry_out(request, verb)
            return await self._carry_out(request, verb)
        except CoveError as error:
            return error_answer(error)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except web.HTTPException as error:  # a body that is too large, or ends too soon
            return error_answer(UsageError(f"cannot read the request: {error.reason.lower()}"))
        except Exception as error:
            return bug_answer(error)

    async def _carry_out(self, request: web.Request, verb: Verb) -> web.StreamResponse:
        method = getattr(self._engine, verb.method)
        if verb.body and not verb.stream and not verb.raw:
            params = parse_params(verb, request.headers.get("Cove-Params", "{}").encode())
            return await streams.with_piped_body(request, self._pool, method, params)
        if verb.body:
            return await self._with_body(request, verb)
        params = parse_params(verb, await request.read())
        if verb.raw:
            return await streams.answer_raw(request, self._pool, method, params)
        if verb.stream:
            return await self._stream(request, verb, params, -1, Cancel())
        if verb.session and request.headers.get("Upgrade", "") == "cove-session":
            return await self._session(request, verb, params)
        return await self._plain(request, verb, params)

    async def _plain(self, request: web.Request, verb: Verb, params: Any) -> web.StreamResponse:
        cancel = Cancel()
        method = getattr(self._engine, verb.method)
        future = self._loop.run_in_executor(self._pool, method, params, Call(cancelled=cancel))
        try:
            result = await asyncio.shield(future)
        except asyncio.CancelledError:
            cancel.set()
            raise
        return web.Response(body=encode(result), content_type="application/json")

    async def _with_body(self, request: web.Request, verb: Verb) -> web.StreamResponse:
        """The bytes go through a file: the verb reads them at its own pace, and may seek."""
        params = parse_params(verb, request.headers.get("Cove-Params", "{}").encode())
        if verb.secret:
            cancel = Cancel()
            async with streams.piped_body(request, self._pool, cancel) as reader:
                return await self._stream(request, verb, params, reader, cancel)
        with tempfile.TemporaryFile(dir=self._engine.home.store.layout.tmp) as file:
            async for chunk in request.content.iter_chunked(CHUNK):
                await self._loop.run_in_executor(self._pool, file.write, chunk)
            file.flush()
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            if verb.raw:
                method = getattr(self._engine, verb.method)
                return await streams.answer_raw(request, self._pool, method, params, file.fileno())
            return await self._stream(request, verb, params, file.fileno(), Cancel())

    async def _stream(
        self, request: web.Request, verb: Verb, params: Any, body: int, cancel: Cancel
    ) -> web.StreamResponse:
        """One JSON document a line; an error before the first line is an answer of its own."""
        items: Iterator[Any] = getattr(self._engine, verb.method)(
            params, Call(body=body, cancelled=cancel)
        )
        response: web.StreamResponse | None = None
        try:
            while (item := await self._next(items, request, cancel)) is not None:
                if response is None:
                    response = await _begin_stream(request)
                await response.write(encode(item) + b"\n")
            response = response or await _begin_stream(request)
        except CoveError as error:
            if response is None:
                raise
            await response.write(encode(error_to_json(error)) + b"\n")
        finally:
            cancel.set()
            await asyncio.shield(self._loop.run_in_executor(self._pool, _close, items))
        await response.write_eof()
        return response

    async def _next(self, items: Iterator[Any], request: web.Request, cancel: Cancel) -> Any:
        """The next item; a caller who has left cancels the wait for it."""
        coming = self._loop.run_in_executor(self._pool, next, items, None)
        while not (await asyncio.wait({coming}, timeout=LOOK))[0]:
            if request.transport is None:
                cancel.set()
        return coming.result()

    async def _session(self, request: web.Request, verb: Verb, params: Any) -> web.StreamResponse:
        terminals, rows, columns = terminal_header(request.headers.get("Cove-Terminal", "0 0 0"))
        bridge = SessionBridge(terminals, rows, columns)
        try:
            method = getattr(self._engine, verb.method)
            call = Call(session=bridge.session)
            await self._loop.run_in_executor(self._pool, method, params, call)
        except BaseException:
            bridge.close()
            raise
        bridge.handed_over()
        response = web.StreamResponse(
            status=101, headers={"Connection": "Upgrade", "Upgrade": "cove-session"}
        )
        response.force_close()
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            bridge.close()
            raise ConnectionResetError
        await bridge.relay(request, self._loop)
        return response


def _close(items: Iterator[Any]) -> None:
    """End a stream, once the thread that may still be in it has come out."""
    close = getattr(items, "close", None)
    while close is not None:
        try:
            close()
            return
        except ValueError:  # "generator already executing": its cancel is on the way
            time.sleep(0.01)


def terminal_header(text: str) -> tuple[int, int, int]:
    words = text.split()
    if len(words) != 3 or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        raise UsageError(f'cannot read Cove-Terminal "{text}": not three numbers')
    return int(words[0]) & 7, min(int(words[1]), 65535), min(int(words[2]), 65535)


async def _begin_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    return response
