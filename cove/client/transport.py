"""How a verb reaches the engine: ``Direct`` calls it in this process, ``Http`` speaks to a daemon's
socket.

HTTP/1.1 is read here by hand, over one connection a call: the standard client costs 25 ms to
import, more than the rest of a command. Nothing here knows what the verbs mean.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from cove import errors
from cove.client.verbs import PREFIX, Verb
from cove.engine.calls import Call, Session
from cove.errors import Bug, CoveError, HostError

HEAD_MAX = 64 << 10
CHUNK = 128 << 10


class Unreachable(HostError):
    """Nobody answers at the daemon's socket."""


class Caller(Protocol):
    """What a session needs of the terminal; ``cove.cli.terminal.Terminal`` is one."""

    fds: tuple[int, int, int]
    terminals: int
    rows: int
    columns: int
    session: Session | None
    cancelled: threading.Event

    def error(self, text: str) -> None: ...


class Transport(Protocol):
    local: bool
    """The daemon sees the same files as this process: paths may be sent instead of bytes."""

    def call(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any: ...

    def stream(self, verb: Verb, params: msgspec.Struct, call: Call) -> Iterator[Any]: ...

    def raw(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        """Bytes to ``call.sink``, then the answer; an error may come after any of the bytes."""

    def session(self, verb: Verb, params: msgspec.Struct, caller: Caller) -> int | None:
        """Run the caller's foreground: its exit code, or None when a monitor has taken it over."""


class Direct:
    """Inside the daemon: the engine's own method, the caller's own session."""

    local = True

    def __init__(self, engine: object) -> None:
        self.engine = engine

    def _method(self, verb: Verb) -> Callable[[Any, Call], Any]:
        method: Callable[[Any, Call], Any] = getattr(self.engine, verb.method)
        return method

    def call(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        return self._method(verb)(params, call)

    def stream(self, verb: Verb, params: msgspec.Struct, call: Call) -> Iterator[Any]:
        items: Iterator[Any] = self._method(verb)(params, call)
        return items

    def raw(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        return self._method(verb)(params, call)

    def session(self, verb: Verb, params: msgspec.Struct, caller: Caller) -> int | None:
        if caller.session is None:
            raise Bug(f"bug: {verb.name} without a session inside the daemon")
        call = Call(session=caller.session, cancelled=caller.cancelled, tell=caller.error)
        self._method(verb)(params, call)
        return None


# ---- errors on the wire ----


def error_from_json(document: object) -> CoveError:
    """The error a daemon sent; what is not one is an error of its own."""
    body = document.get("error") if isinstance(document, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return HostError("cannot read the daemon's answer: it is not an error of cove")
    kind = getattr(errors, str(body.get("class")), None)
    if not (isinstance(kind, type) and issubclass(kind, CoveError)):
        kind = CoveError
    texts = {key: str(body.get(key) or "") for key in ("origin", "host", "hint")}
    code = body.get("exit_code")
    return kind(
        body["message"],
        origin=texts["origin"],
        host=texts["host"],
        hint=texts["hint"],
        exit_code=code if isinstance(code, int) else 0,
    )


# ---- HTTP ----


@dataclass(slots=True)
class Answer:
    """Status and headers of an answer, and what of its body has been read with them."""

    status: int
    headers: dict[str, str]
    socket: socket.socket
    rest: bytearray

    def fill(self) -> bool:
        data = self.socket.recv(CHUNK)
        self.rest += data
        return bool(data)

    def _line(self) -> bytes:
        while (end := self.rest.find(b"\r\n")) < 0:
            if len(self.rest) > HEAD_MAX or not self.fill():
                raise HostError("cannot read the daemon's answer: it ended in the middle")
        line = bytes(self.rest[:end])
        del self.rest[: end + 2]
        return line

    def _take(self, count: int) -> bytes:
        while len(self.rest) < count:
            if not self.fill():
                raise HostError("cannot read the daemon's answer: it ended in the middle")
        data = bytes(self.rest[:count])
        del self.rest[:count]
        return data

    def pieces(self) -> Iterator[bytes]:
        """The body, decoded, as it arrives."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := _size(self._line().split(b";")[0], 16):
                yield self._take(size)
                self._take(2)
        elif "content-length" in self.headers:
            left = _size(self.headers["content-length"].encode(), 10)
            while left > 0:
                if not self.rest and not self.fill():
                    raise HostError("cannot read the daemon's answer: it ended in the middle")
                piece = self._take(min(left, len(self.rest)))
                left -= len(piece)
                yield piece
        else:
            while self.rest or self.fill():
                yield self._take(len(self.rest))

    def lines(self) -> Iterator[bytes]:
        pending = b""
        for piece in self.pieces():
            *whole, pending = (pending + piece).split(b"\n")
            yield from (line for line in whole if line)
        if pending:
            yield pending


def _size(text: bytes, base: int) -> int:
    try:
        if not text.strip().isalnum():
            raise ValueError
        return int(text, base)
    except ValueError:
        shown = text[:20].decode("latin-1")
        raise HostError(f'cannot read the daemon\'s answer: "{shown}" is not a size') from None


class Http:
    """A daemon's API socket, from outside."""

    def __init__(self, path: str, *, local: bool = True) -> None:
        self.path = path
        self.local = local

    def call(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        with self._connect() as sock:
            answer = self._request(sock, verb, params, call)
            return _decode(b"".join(answer.pieces()), verb.result)

    def stream(self, verb: Verb, params: msgspec.Struct, call: Call) -> Iterator[Any]:
        with self._connect() as sock:
            answer = self._request(sock, verb, params, call)
            for line in answer.lines():
                if line.startswith(b'{"error"'):
                    raise error_from_json(json.loads(line))
                yield _decode(line, verb.result)

    def raw(self, verb: Verb, params: msgspec.Struct, call: Call) -> Any:
        from cove.client.raw import read_frames

        with self._connect() as sock:
            answer = self._request(sock, verb, params, call)
            return _decode(read_frames(answer.pieces(), call, error_from_json), verb.result)

    def session(self, verb: Verb, params: msgspec.Struct, caller: Caller) -> int | None:
        from cove.client.session import relay

        terminal = f"{caller.terminals} {caller.rows} {caller.columns}"
        sock, received = self.upgrade(verb, params, terminal)
        with sock:
            return int(relay(sock, caller, received))

    def upgrade(
        self, verb: Verb, params: msgspec.Struct, terminal: str = "0 0 0"
    ) -> tuple[socket.socket, bytes]:
        """A connection that carries a session, and what of it has been read already."""
        sock = self._connect()
        try:
            body = msgspec.json.encode(params)
            head = _head(verb, len(body)) + (
                f"Connection: Upgrade\r\nUpgrade: cove-session\r\nCove-Terminal: {terminal}\r\n\r\n"
            )
            sock.sendall(head.encode() + body)
            answer = _read_head(sock)
            if answer.status != 101:
                _raise_error(answer)
                raise HostError("cannot start a session: the daemon does not upgrade connections")
        except BaseException:
            sock.close()
            raise
        return sock, bytes(answer.rest)

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        directory = -1
        try:
            # an address has room for 107 bytes: go through the directory, however deep it is
            directory = os.open(os.path.dirname(self.path) or ".", os.O_PATH | os.O_DIRECTORY)
            sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(self.path)}")
        except OSError as error:
            sock.close()
            raise _unreachable(self.path, error) from error
        finally:
            if directory >= 0:
                os.close(directory)
        return sock

    def _request(
        self, sock: socket.socket, verb: Verb, params: msgspec.Struct, call: Call
    ) -> Answer:
        document = msgspec.json.encode(params)
        if not verb.body:
            sock.sendall((_head(verb, len(document)) + "\r\n").encode() + document)
        else:
            head = _head(verb, None) + f"Cove-Params: {_header_value(document)}\r\n\r\n"
            sock.sendall(head.encode())
            try:
                _send_body(sock, call)
            except BrokenPipeError:
                pass  # the daemon has answered already; its answer says why
        answer = _read_head(sock)
        if answer.status != 200:
            _raise_error(answer)
        return answer


def _head(verb: Verb, length: int | None) -> str:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {PREFIX}{verb.name} HTTP/1.1\r\nHost: cove\r\n"
        f"Content-Type: application/json\r\n{size}\r\n"
    )


def _header_value(document: bytes) -> str:
    """JSON without anything that is special in a header: msgspec leaves no newline, this no non-
    ASCII."""
    return json.dumps(json.loads(document))


def _read_head(sock: socket.socket) -> Answer:
    buffer = bytearray()
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        data = sock.recv(CHUNK)
        if not data or len(buffer) > HEAD_MAX:
            raise HostError("cannot read the daemon's answer: it is not HTTP")
        buffer += data
    first, *fields = buffer[:end].decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise HostError("cannot read the daemon's answer: it is not HTTP")
    headers = {}
    for field in fields:
        name, _, value = field.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Answer(int(words[1]), headers, sock, buffer[end + 4 :])


def _raise_error(answer: Answer) -> None:
    body = b"".join(answer.pieces())
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if answer.status == 404 and document is None:
        raise errors.Unsupported(
            "cannot carry out this command: the daemon does not know it",
            hint="the daemon is older than this command: cove daemon stop, then try again",
        )
    raise error_from_json(document)


def _decode(data: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise HostError(
            f"cannot read the daemon's answer: {error}",
            hint="daemon and command are of different versions: cove version",
        ) from error


def _send_body(sock: socket.socket, call: Call) -> None:
    if call.body < 0:
        pass  # this time there is none
    elif stat.S_ISDIR(os.fstat(call.body).st_mode):
        _send_directory(sock, call.body)
    else:
        while data := os.read(call.body, CHUNK):
            sock.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    sock.sendall(b"0\r\n\r\n")


class _Chunks:
    """A file to write to, whose bytes leave as HTTP chunks."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def write(self, data: bytes) -> int:
        if data:
            self.sock.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        return len(data)


def _send_directory(sock: socket.socket, fd: int) -> None:
    import tarfile

    sink: Any = _Chunks(sock)
    with tarfile.open(fileobj=sink, mode="w|", dereference=False) as archive:
        archive.add(f"/proc/self/fd/{fd}/.", arcname=".")


def _unreachable(path: str, error: OSError) -> CoveError:
    if isinstance(error, PermissionError):
        return HostError(
            f"cannot connect to the daemon at {path}: permission denied",
            hint="run cove as the user who runs the daemon, or with sudo",
        )
    reason = "nobody listens" if isinstance(error, ConnectionRefusedError) else str(error.strerror)
    return Unreachable(
        f"cannot connect to the daemon at {path}: {reason.lower()}",
        hint="start it: cove daemon start",
    )
