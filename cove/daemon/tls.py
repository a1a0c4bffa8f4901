"""Docker's API over TCP, for holders of a certificate: TLS ends here, and what is inside of it goes
to the unix socket. aiohttp's own TLS would not do: a client that has nothing more to say
(``echo x | docker run -i``) closes its half, which asyncio takes for the end of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import socket
import ssl
import stat
import threading
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from cove.daemon.ends import linger
from cove.engine.reactor import complain
from cove.errors import UsageError

SETTING = "COVE_DOCKER_TLS"
FORM = "address=HOST:PORT,ca=FILE,cert=FILE,key=FILE"
KEYS = ("address", "ca", "cert", "key")
CHUNK = 64 << 10
STRANGERS = 64
"""Connections of one address without a certificate so far; for one more one of them goes, any: were
it the oldest, who comes fast enough would let nobody end a handshake."""
CROWD = 256
"""Of all addresses."""
PATIENCE = 20.0
"""Seconds that a stranger has to show one."""
PLAIN = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Connection: close\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
)


@dataclass(frozen=True, slots=True)
class Settings:
    host: str
    port: int
    ca: str
    cert: str
    key: str


def _wrong(why: str, hint: str = "") -> NoReturn:
    raise UsageError(
        f"cannot serve Docker's API over TCP: {why}",
        origin=f"{SETTING} in the daemon's environment",
        hint=hint,
    )


def parse_settings(text: str) -> Settings:
    found: dict[str, str] = {}
    for pair in text.split(","):
        name, _, value = pair.partition("=")
        if name not in KEYS or not value or name in found:
            _wrong(f'"{pair}" is not one of {FORM}')
        found[name] = value
    if missing := [name for name in KEYS if name not in found]:
        _wrong(
            f"no {' and no '.join(missing)} given: without TLS on both sides it is not served",
            f"{SETTING}={FORM}",
        )
    host, colon, port = found["address"].removeprefix("tcp://").rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        _wrong(f'"{found["address"]}" is no address: HOST:PORT')
    for name in KEYS[1:]:
        if not found[name].startswith("/"):
            _wrong(f'"{found[name]}" is not an absolute path')
    host = host.removeprefix("[").removesuffix("]")
    return Settings(host, int(port), found["ca"], found["cert"], found["key"])


def make_context(settings: Settings) -> ssl.SSLContext:
    """Both sides show a certificate; only who has one of this authority comes in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # Who comes again shows the certificate again: it may have expired since.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    what = settings.key
    try:
        if os.stat(what).st_mode & stat.S_IROTH:
            _wrong(f"everybody may read {what}", f"chmod 600 {what}")
        context.load_cert_chain(settings.cert, settings.key)
        what = settings.ca
        context.load_verify_locations(what)
    except ssl.SSLError as error:
        reason = (error.reason or "it is no certificate").replace("_", " ").lower()
        _wrong(f"{what if what == settings.ca else settings.cert + ' and ' + what}: {reason}")
    except OSError as error:
        _wrong(f"{error.filename or what}: {(error.strerror or str(error)).lower()}")
    return context


def open_tls(target: str) -> TlsDoor | None:
    """The door that the setting asks for; ``target``: the socket behind it."""
    text = os.environ.get(SETTING, "")
    if not text:
        return None
    settings = parse_settings(text)
    context = make_context(settings)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host or None,
            settings.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST,
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        _wrong(f'"{settings.host}": {(error.strerror or str(error)).lower()}')
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        _wrong(f"{settings.host}:{settings.port}: {(error.strerror or str(error)).lower()}")
    return TlsDoor(listener, context, target)


def home_of(address: str) -> str:
    """Who has one IPv6 address has its /64."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.IPv6Network((found, 64), strict=False))


def check_age(certificate: dict[str, Any] | None, now: float) -> None:
    """Raises:
    OSError: it is too old by now, or there is none.
    """
    until = ssl.cert_time_to_seconds(certificate["notAfter"]) if certificate else 0.0
    if until < now:
        raise ssl.SSLCertVerificationError("certificate has expired")


class TlsDoor:
    """Serves its listener in a thread of its own, from ``open`` to ``close``."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext, target: str) -> None:
        directory, name = os.path.split(target)
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # Through the directory: its path may be longer than an address.
        self._target = f"/proc/self/fd/{self._directory}/{name}"
        self._listener, self._context = listener, context
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._strangers: dict[asyncio.Task[None], str] = {}
        """With where they come from."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="tls", daemon=True)

    def open(self) -> None:
        self._listener.setblocking(False)
        self._thread.start()

    def close(self) -> None:
        """Nobody comes any more, and whoever is there is gone."""
        with contextlib.suppress(RuntimeError):  # it ended by itself
            self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._serve())
        except Exception:
            complain("Docker's API over TCP")
        finally:
            self._listener.close()
            os.close(self._directory)

    async def _serve(self) -> None:
        accepting = self._loop.create_task(self._accept())
        await self._done.wait()
        self._tasks.add(accepting)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        while True:
            try:
                conn, address = await self._loop.sock_accept(self._listener)
            except OSError:  # no descriptor is left, or who came has gone
                await asyncio.sleep(0.05)
                continue
            home = home_of(address[0])
            self._make_room(home)
            task = self._loop.create_task(self._carry(conn))
            self._strangers[task] = home
            self._tasks.add(task)
            task.add_done_callback(self._ended)
            await asyncio.sleep(0)  # who is there already goes on, however many come

    def _make_room(self, home: str) -> None:
        neighbours = [task for task, where in self._strangers.items() if where == home]
        if len(neighbours) < STRANGERS:
            neighbours = list(self._strangers) if len(self._strangers) >= CROWD else []
        if neighbours:
            goes = random.choice(neighbours)
            del self._strangers[goes]
            goes.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # what a client did to its own connection is nobody's complaint

    async def _carry(self, conn: socket.socket) -> None:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = await asyncio.open_connection(sock=conn)
        try:
            tunnel = Tunnel(self._context, reader, writer)
            async with asyncio.timeout(PATIENCE):
                await tunnel.greet()
            task = asyncio.current_task()
            if task is not None:
                self._strangers.pop(task, None)
            inner = await asyncio.open_unix_connection(self._target, limit=CHUNK)
            try:
                await tunnel.carry(*inner)
            finally:
                inner[1].close()
        finally:
            writer.close()


class Tunnel:
    """One connection: what is encrypted at one end of it and not at the other."""

    def __init__(
        self,
        context: ssl.SSLContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            self._writer.write(data)
            await self._writer.drain()

    async def _more(self) -> bool:
        """Whether more has come; without it the client is gone."""
        data = await self._reader.read(CHUNK)
        self._incoming.write(data)
        return bool(data)

    async def greet(self) -> None:
        """Both have shown their certificates.

        Raises:
            OSError: one has not, or it is none of the authority's, or none that is valid now.
        """
        while True:
            try:
                self._tls.do_handshake()
                if self._tls.session_reused:  # by its number, as TLS 1.2 has it
                    check_age(self._tls.getpeercert(), time.time())
                return await self._flush()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._more():
                    raise ConnectionResetError from None
            except ssl.SSLError as error:
                await self._flush()  # the alert that says why
                if error.reason == "HTTP_REQUEST":
                    self._writer.write(PLAIN)
                    await self._writer.drain()
                raise

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client is gone, or nothing more comes for it."""
        tasks = (
            asyncio.ensure_future(self._inward(writer)),
            asyncio.ensure_future(self._outward(reader)),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await linger(self._reader, self._writer)

    async def _inward(self, writer: asyncio.StreamWriter) -> None:
        """Who only has nothing more to say says so inside of TLS; the end of TCP is the end."""
        ended = False
        while True:
            try:
                data = b"" if ended else self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()  # keys may be renewed
                if not await self._more():
                    return
                continue
            if data:
                writer.write(data)
                await writer.drain()
            elif not ended:
                ended = True
                writer.write_eof()
            elif not await self._reader.read(CHUNK):
                return

    async def _outward(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            self._tls.write(data)
            await self._flush()
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._flush()
