"""Conversations with a daemon, as ``steps``: one verb, a stream of items, a session.

The way is the front's socket, on which a verb takes no HTTP and a session goes straight to the
machine's monitor. Who does not see the same system as the daemon (another user or namespace, or
``COVE_HOST``) is sent to the API's socket and speaks HTTP there.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from cove.client.link import Link
from cove.client.place import chosen, socket_path, start_daemon
from cove.client.steps import Item, Ready, Steps, Work
from cove.client.transport import Http, error_from_json
from cove.client.verbs import VERBS
from cove.engine.calls import Call
from cove.errors import CoveError, HostError
from cove.executor.messages import HEADER, MSG_MAX, Kind, sealed_memory

WITH_SESSION, TELL_RESULT = 1, 2
WHOLE, PART, ITEM = 0, 1, 2
"""As in ``daemon.calls``."""

NOT_HERE, ELSEWHERE = -2, -3
ASKED = 3
"""Daemons that are asked one after the other, when each makes way; one that knows no calls gives
the same answer, and is asked over HTTP then."""
STARTS = 3
"""How often a daemon is started that is gone again."""
CROWDED = 0.003
"""Seconds until a full queue of the daemon's socket is tried again."""


@dataclass(slots=True)
class Daemon:
    """Where it is and how it is spoken to. Shared by threads."""

    root: str
    host: str
    http: Http | None = None
    """Once the front's socket is known not to be for us."""
    owner: int = field(default_factory=os.getpid)

    @classmethod
    def at(cls, root: str = "", host: str = "") -> Daemon:
        root, host = chosen(root, host)
        daemon = cls(root, host)
        if host:
            daemon.http = Http(socket_path(host, root))
        return daemon

    # ---- conversations ----

    def call(self, name: str, params: msgspec.Struct, fd: int = -1) -> Steps[Any]:
        """One verb: its result. ``fd``: the bytes that it takes or gives."""
        for _ in range(ASKED):
            if self.http is not None:
                break
            sock = yield from self._ask(name, params, 0, fd)
            with sock:
                answer = yield from self._answers(sock, name)
                if answer is not None:
                    return answer
        self._go_by_http()
        return (yield Work(partial(self._call_http, name, params, fd)))

    def stream(self, name: str, params: msgspec.Struct, fd: int = -1) -> Steps[None]:
        """A verb that gives items."""
        for _ in range(ASKED):
            if self.http is not None:
                break
            sock = yield from self._ask(name, params, 0, fd)
            with sock:
                if (yield from self._answers(sock, name)) is not None:
                    return
        items = self._go_by_http().stream(VERBS[name], params, Call(body=fd))
        end = object()
        try:
            while (item := (yield Work(partial(next, items, end)))) is not end:
                yield Item(item)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def session(self, name: str, params: msgspec.Struct, *, tell: bool = False) -> Steps[Link]:
        """A verb that gives a session. Its errors come over the link, as the end does."""
        for _ in range(ASKED):
            if self.http is not None:
                break
            value = WITH_SESSION | (TELL_RESULT if tell else 0)
            sock = yield from self._ask(name, params, value, -1)
            link = Link(sock, partial(_result_of, name))
            try:
                yield from link.hear()
            except BaseException:
                link.close()
                raise
            if not link.refused:
                return link
            link.close()
            self._refused(link.refused, b"")
        upgrade = partial(self._go_by_http().upgrade, VERBS[name], params)
        sock, received = yield Work(upgrade)
        return Link(sock, partial(_result_of, name), received)

    # ---- the front's socket ----

    def _ask(self, name: str, params: msgspec.Struct, value: int, fd: int) -> Steps[socket.socket]:
        data = msgspec.json.encode(params)
        sock = yield from self._connect()
        memory = -1
        try:
            fds = [fd] if fd >= 0 else []
            if len(name) + 1 + len(data) > MSG_MAX:
                memory = sealed_memory("call", (data,))
                fds, data = [memory, *fds], b""
            payload = name.encode() + b"\0" + data
            head = HEADER.pack(Kind.CALL, value, len(payload), 0)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg((head, payload), rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            sock.close()
            raise self._lost(name) from error
        except BaseException:
            sock.close()
            raise
        finally:
            if memory >= 0:
                os.close(memory)
        return sock

    def _connect(self) -> Steps[socket.socket]:
        started = 0
        while True:
            try:
                return connect(f"{self.root}/run", "front.sock")
            except BlockingIOError:
                yield Ready({}, CROWDED)
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                if started == STARTS:
                    raise self._unreachable("it was started and is gone again") from error
                started += 1
                yield Work(partial(start_daemon, self.root))
            except PermissionError as error:
                raise self._unreachable("permission denied") from error
            except OSError as error:
                raise _no_socket(self.root, error) from error

    def _answers(self, sock: socket.socket, name: str) -> Steps[Any]:
        """The result, or True after a stream's items; None: this daemon is to be asked by HTTP."""
        verb = VERBS[name]
        decode = _decoder(verb.result)
        parts: list[bytes] = []
        while True:
            yield Ready({sock.fileno(): select.POLLIN})
            while True:
                try:
                    data = sock.recv(HEADER.size + MSG_MAX)
                except BlockingIOError:
                    break
                except ConnectionResetError:
                    continue
                if len(data) < HEADER.size:
                    raise self._lost(name)
                kind, value, _, _ = HEADER.unpack_from(data)
                parts.append(data[HEADER.size :])
                if kind == Kind.ERROR:
                    raise error_from_json(_decoder(dict[str, Any])(parts[-1]))
                if kind == Kind.EXIT:
                    self._refused(value, parts[-1])
                    return None
                if kind != Kind.ANSWER or value == PART:
                    continue
                document, parts = b"".join(parts), []
                if value == WHOLE:
                    return True if verb.stream else decode(document)
                yield Item(decode(document))

    def _refused(self, value: int, text: bytes) -> None:
        """This one is not to be asked so: for good, or because it is making way for the next."""
        if value == NOT_HERE:
            self._go_by_http()
        elif value != ELSEWHERE:
            said = text.decode("utf-8", "replace").strip()
            raise HostError(f"cannot reach the daemon: {said or 'it refused the connection'}")

    def _go_by_http(self) -> Http:
        if self.http is None:
            self.http = Http(socket_path("", self.root))
        return self.http

    def _call_http(self, name: str, params: msgspec.Struct, fd: int) -> Any:
        verb = VERBS[name]
        assert self.http is not None
        if verb.raw:
            return self.http.raw(verb, params, Call(sink=fd))
        return self.http.call(verb, params, Call(body=fd))

    def _unreachable(self, reason: str) -> CoveError:
        return HostError(
            f"cannot connect to the daemon at {self.root}/run/front.sock: {reason}",
            hint=f"its last words are in {self.root}/run/daemon.log",
        )

    def _lost(self, name: str) -> CoveError:
        return HostError(
            f"cannot know how {name} went: the daemon ended before it answered",
            hint=f"its last words are in {self.root}/run/daemon.log",
        )


def connect(directory: str, name: str) -> socket.socket:
    """A SEQPACKET connection that never blocks; an address has room for 107 bytes, so it is named
    within its directory."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    place = -1
    try:
        place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(f"/proc/self/fd/{place}/{name}")
    except BaseException:
        sock.close()
        raise
    finally:
        if place >= 0:
            os.close(place)
    return sock


def _no_socket(root: str, error: OSError) -> CoveError:
    hint = ""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = "each run that is under way has a descriptor: fewer at once, or raise ulimit -n"
    reason = (error.strerror or str(error)).lower()
    return HostError(f"cannot connect to the daemon of {root}: {reason}", hint=hint)


_DECODERS: dict[Any, Callable[[bytes], Any]] = {}
_making = threading.Lock()
"""msgspec crashes when two threads make one type's decoder at once."""


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    with _making:
        found = _DECODERS.get(kind)
        if found is None:
            found = _DECODERS[kind] = partial(_decode, msgspec.json.Decoder(kind).decode)
        return found


def _decode(read: Callable[[bytes], Any], document: bytes) -> Any:
    try:
        return read(document)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise HostError(
            f"cannot read the daemon's answer: {error}",
            hint="daemon and caller are of different versions: cove version",
        ) from error


def _result_of(name: str, document: bytes) -> Any:
    return _decoder(VERBS[name].result)(document)
