"""Docker's Engine API over HTTP: routes, versions, errors, streams. The only file of this room that
knows aiohttp; handlers run in threads of a pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from aiohttp import HttpVersion11, web

from cove import __version__
from cove.daemon.crowd import Crowd, left
from cove.daemon.docker import hijack
from cove.daemon.docker.ask import (
    Answer,
    Ask,
    Hijack,
    Piped,
    Result,
    Stream,
    parse_query,
    readable,
)
from cove.daemon.docker.attach import look
from cove.daemon.docker.pages import refuse_pages
from cove.daemon.docker.pending import Changes, Execs, Pending
from cove.daemon.docker.routes import (
    ABSOLUTE,
    NEWEST,
    OLDEST,
    ROUTES,
    Route,
    Version,
    find,
    split_version,
    version_text,
)
from cove.daemon.docker.websocket import Websocket
from cove.daemon.docker.wording import in_docker_words
from cove.daemon.lasting import THREADS, Lasting
from cove.daemon.raw import take_over
from cove.engine.engine import Engine
from cove.engine.events import Cancel
from cove.engine.reactor import complain
from cove.errors import CoveError, NotFound, UsageError
from cove.linux.pump import write_all

T = TypeVar("T")
CHUNK = 256 << 10
LOOK = 1.0
"""Seconds after which a stream that says nothing finds that its reader has left."""
BODY_MAX = 16 << 20
"""Of parameters; what is larger is read as it comes."""
HEADERS = {
    "Api-Version": version_text(NEWEST),
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"cove/{__version__} (linux)",
}
PAGE = "page not found"

Handler = Callable[[Ask], Result]
Glance = Callable[[Ask], Answer | None]


def _named(text: str) -> Any:
    module, _, name = text.partition(".")
    return getattr(import_module(f"cove.daemon.docker.{module}"), name)


def handlers() -> dict[str, Handler]:
    """What the table names, looked up once."""
    return {route.handler: _named(route.handler) for route in ROUTES}


def glances() -> dict[str, Glance]:
    """Carried out where they are read: the way to another thread and back costs more than they."""
    return {r.handler: _named(f"{r.handler}_at_once") for r in ROUTES if r.kind == "glance"}


def status_of(error: CoveError) -> int:
    """A command that cannot be executed is the caller's mistake, as in Docker."""
    if error.exit_code in (126, 127):
        return 400
    return error.status if error.status >= 400 else 500


def problem(error: CoveError) -> Answer:
    return Answer({"message": readable(in_docker_words(error))}, status_of(error))


def bug(error: BaseException) -> Answer:
    complain("a request of Docker's API")
    return Answer({"message": f"bug: {type(error).__name__}: {error}; please report"}, 500)


def check_version(version: Version) -> None:
    if version < OLDEST:
        raise UsageError(
            f"client version {version_text(version)} is too old. Minimum supported API version is "
            f"{version_text(OLDEST)}, please upgrade your client to a newer version"
        )
    if version > NEWEST:
        raise UsageError(
            f"client version {version_text(version)} is too new. Maximum supported API version is "
            f"{version_text(NEWEST)}"
        )


def check_length(request: web.Request, route: Route) -> None:
    length = request.content_length or 0
    if route.kind != "body" and length > BODY_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_MAX, length)


class Door:
    """The application for one listening socket."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._handlers, self._glances = handlers(), glances()
        self._pending, self._execs = Pending(), Execs()
        self._lasting = Lasting()
        self.crowd = Crowd()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=BODY_MAX, middlewares=[self._anything])
        everything = "/{rest:(?s:.*)}"
        application.router.add_route("*", everything, self._answer, expect_handler=self._expected)
        application.cleanup_ctx.append(self._listening)
        return application

    @web.middleware
    async def _anything(self, request: web.Request, handler: object) -> web.StreamResponse:
        """Also ``OPTIONS *``, which is no path to aiohttp's own router."""
        return await self._answer(request)

    async def _listening(self, application: web.Application) -> AsyncIterator[None]:
        """A machine may be started by others than its clients: who attached before hears it too."""
        changes = Changes(self._pending, self._look)
        with self._engine.home.events.subscribe(changes):
            yield

    def _look(self, machine: str) -> None:
        with contextlib.suppress(RuntimeError):  # the daemon ends, and so does every connection
            self._pool.submit(_safely, partial(look, self._engine, self._pending, machine))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            refuse_pages(request.headers, request.transport)
            route, ask = self._asked(request)
            if route.kind == "hijack":
                return await self._hijack(request, route, ask)
            if route.kind == "websocket":
                return await self._websocket(request, route, ask)
            if route.kind in ("plain", "glance"):
                return await self._carry_out(request, route, ask)
            with self._lasting.one():
                return await self._carry_out(request, route, ask)
        except CoveError as error:
            return self._plain(problem(error))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except web.HTTPException as error:  # a body that is too large, or ends too soon
            answer = Answer({"message": f"cannot read the request: {error.reason}"}, error.status)
            return self._plain(answer)
        except web.RequestPayloadError:
            wrong = "its body is not what Content-Encoding says, or ends too soon"
            return self._plain(Answer({"message": f"cannot read the request: {wrong}"}, 400))
        except Exception as error:
            return self._plain(bug(error))

    async def _expected(self, request: web.Request) -> web.StreamResponse | None:
        """A client that sends its body once it is told to: not where it is refused without."""
        if request.version < HttpVersion11:
            return None
        try:
            refuse_pages(request.headers, request.transport)
            route, _ = self._asked(request)
            check_length(request, route)
        except (CoveError, web.HTTPException):
            return await self._answer(request)
        if request.headers.get("Expect", "").lower() != "100-continue":
            return self._plain(Answer({"message": "cannot do what Expect asks for"}, 417))
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
        return None

    def _asked(self, request: web.Request) -> tuple[Route, Ask]:
        raw, _, query = ABSOLUTE.sub("", request.raw_path).partition("?")
        version, path = split_version(raw)
        if version is not None:
            check_version(version)
        found = find(request.method, "/*" if path == "*" else path)
        if found is None:
            raise NotFound(PAGE)
        route, names = found
        if version is not None and version < route.since:
            raise NotFound(PAGE)
        ask = Ask(
            self._engine,
            names,
            parse_query(query.partition("#")[0]),
            version or NEWEST,
            headers=request.headers,
            pending=self._pending,
            execs=self._execs,
        )
        return route, ask

    def _plain(self, answer: Answer) -> web.Response:
        headers = HEADERS | answer.headers
        body = answer.encoded()
        if body:
            headers["Content-Type"] = answer.type
        return web.Response(body=body or None, status=answer.status, headers=headers)

    async def _carry_out(self, request: web.Request, route: Route, ask: Ask) -> web.StreamResponse:
        handler = self._handlers[route.handler]
        check_length(request, route)
        if route.kind == "body":
            result = await self._with_body(request, handler, ask)
        else:
            ask.body = await self.crowd.body(request)
            glance = self._glances.get(route.handler)
            result = (glance(ask) if glance else None) or await self._run(handler, ask)
        if isinstance(result, Answer):
            return self._plain(result)
        if isinstance(result, Stream):
            return await self._stream(request, ask, result)
        if isinstance(result, Piped):
            return await self._piped(request, ask, result)
        raise TypeError(f"{route.handler} hijacks a connection that is none of a machine's")

    async def _run(self, handler: Handler, ask: Ask) -> Result:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, _encoded, handler, ask)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            ask.cancel.set()
            future.add_done_callback(_forget)
            raise

    # ---- bytes in ----

    async def _with_body(self, request: web.Request, handler: Handler, ask: Ask) -> Result:
        """The request's body is read as the handler reads it."""
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        ask.fd = reader
        run = loop.run_in_executor(self._pool, _closing, handler, ask)
        writing: asyncio.Future[None] | None = None
        try:
            try:
                async for chunk in request.content.iter_chunked(CHUNK):
                    writing = loop.run_in_executor(self._pool, write_all, writer, chunk)
                    await _attended(writing, request, ask.cancel)
            except BrokenPipeError:
                pass  # it has ended before its input, and says why
        except BaseException:
            ask.cancel.set()  # before it sees the end of its input
            run.add_done_callback(asyncio.Future.exception)  # nobody is there to hear of it
            raise
        finally:
            if writing is not None:
                await asyncio.wait([writing])
            os.close(writer)
        try:
            return await _attended(run, request, ask.cancel)
        except asyncio.CancelledError:
            ask.cancel.set()
            run.add_done_callback(_forget)
            raise

    # ---- bytes out ----

    async def _stream(self, request: web.Request, ask: Ask, stream: Stream) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        loop = asyncio.get_running_loop()
        try:
            if stream.early:
                response = await self._begin(request, stream)
            while (chunk := await self._next(stream.chunks, request, ask.cancel)) is not None:
                response = response or await self._begin(request, stream)
                await response.write(chunk)
            response = response or await self._begin(request, stream)
        except CoveError as error:
            if response is None:
                raise
            await response.write(problem(error).encoded())
        finally:
            ask.cancel.set()
            await asyncio.shield(loop.run_in_executor(self._pool, hijack.close, stream.chunks))
        await response.write_eof()
        return response

    async def _begin(self, request: web.Request, result: Stream | Piped) -> web.StreamResponse:
        headers = HEADERS | {"Content-Type": result.type} | result.headers
        response = web.StreamResponse(headers=headers)
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:  # the end of the connection is its end, whoever asked to keep that
            response.force_close()
        await response.prepare(request)
        return response

    async def _next(
        self, items: Iterator[bytes], request: web.Request, cancel: Cancel
    ) -> bytes | None:
        """The next piece."""
        loop = asyncio.get_running_loop()
        coming: asyncio.Future[Any] = loop.run_in_executor(self._pool, next, items, None)
        found: bytes | None = await _attended(coming, request, cancel)
        return found

    async def _piped(self, request: web.Request, ask: Ask, piped: Piped) -> web.StreamResponse:
        """An error before the first byte is an answer; after it the connection just ends, so that
        nobody takes what came for all of it.
        """
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe2(os.O_CLOEXEC)
        run = loop.run_in_executor(self._pool, _into, piped.write, writer)
        response: web.StreamResponse | None = None
        reading: asyncio.Future[bytes] | None = None
        try:
            while True:
                reading = loop.run_in_executor(self._pool, os.read, reader, CHUNK)
                data = await asyncio.shield(reading)
                if not data:
                    break
                response = response or await self._begin(request, piped)
                await response.write(data)
            await asyncio.shield(run)
        except CoveError as error:
            if response is None:
                raise
            raise ConnectionResetError from error
        finally:
            ask.cancel.set()
            waiting = [run] if reading is None else [run, reading]
            await asyncio.shield(_finish(waiting, reader))
        response = response or await self._begin(request, piped)
        await response.write_eof()
        return response

    # ---- connections that become streams ----

    async def _hijack(self, request: web.Request, route: Route, ask: Ask) -> web.StreamResponse:
        """From here on the connection is ours: what is to be said is said by hand."""
        upgrade = "upgrade" in request.headers.get("Connection", "").lower()
        hijack.check_body(request)
        ask.body = await self.crowd.body(request)
        taken = hijack.Taken(*take_over(request, hijack.CHUNK))
        try:
            result = await self._run(self._handlers[route.handler], ask)
            if isinstance(result, Hijack):
                await hijack.serve(taken, self._pool, ask, result, upgrade=upgrade)
            elif isinstance(result, Answer):
                await taken.say(result, HEADERS)
        except CoveError as error:
            await taken.say(problem(error), HEADERS)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:
            await taken.say(bug(error), HEADERS)
        finally:
            ask.cancel.set()
            taken.close()
            left(request)
        return hijack.Done()

    async def _websocket(self, request: web.Request, route: Route, ask: Ask) -> web.StreamResponse:
        """The same over a websocket. Before its handshake an error is an answer like others."""
        taken = Websocket(request)
        try:
            result = await self._run(self._handlers[route.handler], ask)
            if not isinstance(result, Hijack):
                raise TypeError(f"{route.handler} is no machine's streams")
            await hijack.serve(taken, self._pool, ask, result, upgrade=True)
        except ConnectionError:
            pass
        except Exception as error:
            if not taken.response.prepared:
                raise
            await taken.fail(
                in_docker_words(error) if isinstance(error, CoveError) else str(bug(error).body)
            )
        finally:
            ask.cancel.set()
        return taken.response


def _safely(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        complain("a client that waits for a machine")


def _encoded(handler: Handler, ask: Ask) -> Result:
    """A long answer is written in the handler's thread: others' requests do not wait for it."""
    result = handler(ask)
    if isinstance(result, Answer):
        result.body = result.encoded() or None
    return result


async def _attended(coming: asyncio.Future[T], request: web.Request, cancel: Cancel) -> T:
    """Its outcome; a caller who has left cancels the wait for it."""
    while not (await asyncio.wait({coming}, timeout=LOOK))[0]:
        if request.transport is None:
            cancel.set()
    return coming.result()


def _forget(future: asyncio.Future[Result]) -> None:
    """What was to be answered to one who has left meanwhile: what it holds is let go."""
    if not future.cancelled() and future.exception() is None:
        result = future.result()
        if isinstance(result, Stream):
            hijack.close(result.chunks)


def _closing(handler: Handler, ask: Ask) -> Result:
    try:
        return handler(ask)
    finally:
        os.close(ask.fd)


def _into(write: Callable[[int], object], fd: int) -> None:
    try:
        write(fd)
    finally:
        os.close(fd)


async def _finish(waiting: list[Any], reader: int) -> None:
    """Once nobody reads it: the handler has ended, and with it the last look."""
    await asyncio.gather(*waiting, return_exceptions=True)
    os.close(reader)
