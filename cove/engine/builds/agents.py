"""``RUN --mount=type=ssh``: the caller's agent, for the time of one step.

The agent's socket is opened once, when the build begins: what its path leads to later is nobody's
concern. A step may ask it for its keys and for signatures, and for nothing else: none is added,
removed or locked by what a Dockerfile runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from cove.errors import UsageError, printable

LIST, SIGN, FAILURE = 11, 13, 5
MESSAGE_MAX = 256 << 10
AT_ONCE = 16
REACH = 5.0
"""Seconds in which an agent has to take a visitor."""
LOOK = 0.05
HEAD = struct.Struct(">I")
NAME = "agent"
VISITOR = "agent's visitor"
"""Of threads."""


@contextlib.contextmanager
def opened(paths: Mapping[str, str]) -> Iterator[dict[str, int]]:
    """The agents of a build, by their ids, as descriptors of their sockets."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, path in paths.items():
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError as error:
                raise _bad(name, path, (error.strerror or "").lower()) from error
            stack.callback(os.close, fd)
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise _bad(name, path, "it is no socket of an agent")
            found[name] = fd
        yield found


def _bad(name: str, path: str, why: str) -> UsageError:
    return UsageError(
        f"cannot use agent {printable(name)}: {printable(path)}: {why}",
        origin=f"--ssh {name}={path}",
        hint="keys go into an agent first: ssh-add FILE",
        exit_code=1,
    )


class Visitor(Protocol):
    """Who has connected, as a socket has him."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class Listener(Protocol):
    def accept(self) -> tuple[Visitor, object]:
        """
        Raises:
            OSError: nobody comes any more; it was shut down.
        """

    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def served(agent: int, directory: str, mode: int, uid: int, gid: int) -> Iterator[str]:
    """The path of a socket in ``directory``, a new one, behind which the agent is."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        path = placed(listener, directory, mode, uid, gid)
        listener.listen(AT_ONCE)
    except BaseException:
        listener.close()
        raise
    with visited(listener, agent):
        yield path


def placed(listener: socket.socket, directory: str, mode: int, uid: int, gid: int) -> str:
    """Its path, in ``directory``, a new one."""
    os.mkdir(directory, 0o700)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{place}/{NAME}"  # paths of sockets are short
        listener.bind(path)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    finally:
        os.close(place)
    return f"{directory}/{NAME}"


@contextlib.contextmanager
def visited(listener: Listener, agent: int) -> Iterator[None]:
    """Who comes to ``listener`` asks the agent; it is closed then."""
    door = _Door(listener, agent)
    try:
        yield
    finally:
        door.close()


class _Door:
    """Who connects is one more visitor of the agent."""

    def __init__(self, listener: Listener, agent: int) -> None:
        self._listener, self._agent = listener, agent
        self._lock = threading.Lock()
        self._open: set[Visitor] = set()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server = threading.Thread(target=self._serve, name="agent", daemon=True)
        self._server.start()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            ends: tuple[Visitor | Listener, ...] = (self._listener, *self._open)
            for sock in ends:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        self._server.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._threads = [one for one in self._threads if one.is_alive()]
                if self._closed.is_set() or len(self._threads) >= AT_ONCE:
                    sock.close()
                    continue
                self._open.add(sock)
                thread = threading.Thread(target=self._one, args=(sock,), name=VISITOR, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _one(self, sock: Visitor) -> None:
        agent = socket.socket(socket.AF_UNIX)
        try:
            with contextlib.suppress(OSError, EOFError):
                self._reach(agent)
                with self._lock:
                    if self._closed.is_set():
                        return
                    self._open.add(agent)
                _answer(sock, agent)
        finally:
            with self._lock:
                self._open -= {sock, agent}
                sock.close()
                agent.close()

    def _reach(self, agent: socket.socket) -> None:
        """An agent that is stopped, with a full backlog, would hold connect(2) up without end, and
        nobody can end that from outside.
        """
        agent.setblocking(False)
        until = time.monotonic() + REACH
        while True:
            try:
                agent.connect(f"/proc/self/fd/{self._agent}")
                break
            except BlockingIOError:
                if self._closed.wait(LOOK) or time.monotonic() > until:
                    raise
        agent.setblocking(True)


def _answer(sock: Visitor, agent: socket.socket) -> None:
    """One question after another, each answered before the next one is read."""
    while True:
        asked = _message(sock)
        if not asked or asked[0] not in (LIST, SIGN):
            sock.sendall(HEAD.pack(1) + bytes([FAILURE]))
            continue
        agent.sendall(HEAD.pack(len(asked)) + asked)
        said = _message(agent)
        sock.sendall(HEAD.pack(len(said)) + said)


def _message(sock: Visitor) -> bytes:
    length = HEAD.unpack(_exactly(sock, HEAD.size))[0]
    if length > MESSAGE_MAX:
        raise EOFError
    return _exactly(sock, length)


def _exactly(sock: Visitor, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
