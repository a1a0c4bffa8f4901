"""The front's socket: takes a command line with the caller's fds, and runs the CLI in a thread.

Only for callers that see the same system as the daemon: same uid, user and mount namespace and
root. Everybody else is sent to HTTP. A session that was handed to a monitor is no longer this
room's.
"""

from __future__ import annotations

import errno
import mmap
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cove.cli.terminal import Terminal
from cove.daemon import calls
from cove.daemon.leaving import ELSEWHERE, Running, answer
from cove.engine.calls import Session
from cove.engine.engine import Engine
from cove.engine.events import Cancel
from cove.engine.reactor import Reactor, complain
from cove.errors import Bug, CoveError, HostError, UsageError, printable
from cove.executor.messages import HEADER, Kind, Message, Request, decode_request, receive
from cove.linux.pidfd import wait_exit

FRONT_PROTOCOL = 1
REQUEST_MAX = 16 << 20
NOT_HERE, OTHER_PROTOCOL = -2, -3
SO_PEERPIDFD = 77
"""Linux 6.5; Python 3.11 has no name for it."""

CREDENTIALS = (socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
"""The pid, uid and gid of who connected."""

FIRST_THREADS, IDLE_THREADS, MOST_THREADS = 4, 2, 512
NULL_DEVICE = os.makedev(1, 3)
ROLES = ("standard input", "standard output", "standard error")

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
SHORTAGE = 0.1
"""Seconds until a door that could let nobody in opens again."""

PATIENCE = struct.pack("ll", 10, 0)
"""Seconds in which a front must say what it wants."""

Main = Callable[[list[str], Terminal], int | None]


class Refused(Exception):
    """The caller is not one of this socket's: the value of its EXIT message, and a text."""

    def __init__(self, value: int, text: str = "") -> None:
        super().__init__(value, text)
        self.value, self.text = value, text


@dataclass(frozen=True, slots=True)
class World:
    """What makes two processes see the same system."""

    uid: int
    user: int
    mounts: int
    root: tuple[int, int]

    @classmethod
    def of(cls, process: str, uid: int) -> World:
        """``process``: a directory of procfs."""
        root = os.stat(f"{process}/root")
        return cls(
            uid,
            os.stat(f"{process}/ns/user").st_ino,
            os.stat(f"{process}/ns/mnt").st_ino,
            (root.st_dev, root.st_ino),
        )


def peer_is_of(conn: socket.socket, world: World) -> bool:
    """Whether the process that connected lives in ``world``. Its pidfd holds the pid still
    meanwhile.
    """
    pid, uid, _ = struct.unpack("iII", conn.getsockopt(*CREDENTIALS))
    if uid != world.uid:
        return False
    try:
        try:
            pidfd = conn.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        except OSError:
            pidfd = os.pidfd_open(pid)
        try:
            same = World.of(f"/proc/{pid}", uid) == world
            return same and not wait_exit(pidfd, 0)
        finally:
            os.close(pidfd)
    except OSError:
        return False


class CallerGone(Cancel):
    """The caller's ``cancelled``: looks at the front's socket only when somebody asks."""

    def __init__(self, conn: socket.socket, reactor: Reactor) -> None:
        super().__init__()
        self._conn, self._reactor = conn, reactor
        self._watching, self._turn = 0, threading.Lock()

    def is_set(self) -> bool:
        if not super().is_set():
            self._look()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        with self.then(lambda: None):
            return super().wait(timeout)

    @contextmanager
    def then(self, callback: Callable[[], None]) -> Iterator[None]:
        with super().then(callback):
            self._watch(1)
            try:
                yield
            finally:
                self._watch(-1)

    def _watch(self, more: int) -> None:
        """The reactor looks while anybody waits; several may at once."""
        with self._turn:
            self._watching += more
            if more > 0 and self._watching == 1:
                self._reactor.watch(self._conn.fileno(), self, lambda events: self._look())
            elif self._watching == 0:
                self._reactor.forget(self._conn.fileno(), self)

    def _look(self) -> None:
        """A signal or the end of the front cancels; what else it sends before a session says
        nothing.
        """
        try:
            data = self._conn.recv(HEADER.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if len(data) < HEADER.size or HEADER.unpack(data)[0] == Kind.SIGNAL:
            self._reactor.forget(self._conn.fileno(), self)
            self.set()


def take_request(conn: socket.socket, fds: list[int]) -> Request | Message:
    """The request, or a CALL; its fds are appended to ``fds``, which the caller closes. Raises
    Refused.
    """
    try:
        message = receive(conn)
    except (BlockingIOError, ConnectionError) as error:
        raise Refused(OTHER_PROTOCOL, "the front said nothing\n") from error
    except Bug as error:
        # Descriptors that no room is left for do not come.
        if _full():
            raise HostError(
                "cannot take the command: the daemon has as many files open as it may",
                hint="fewer clients at once, or a daemon with more: ulimit -n",
            ) from error
        raise Refused(OTHER_PROTOCOL, f"{error.message}\n") from error
    if message is None:
        raise Refused(OTHER_PROTOCOL, "the front said nothing\n")
    fds += message.fds
    if message.kind == Kind.CALL:
        return message
    if message.kind != Kind.REQUEST or message.reserved != FRONT_PROTOCOL or len(fds) < 3:
        raise Refused(OTHER_PROTOCOL, "front and daemon are of different versions\n")
    payload = message.payload
    if not payload:
        if len(fds) != 4 or not 0 < os.fstat(fds[3]).st_size <= REQUEST_MAX:
            raise Refused(OTHER_PROTOCOL, "the front's request is too large\n")
        with mmap.mmap(fds[3], 0, prot=mmap.PROT_READ) as memory:
            payload = bytes(memory)
    try:
        return decode_request(payload)
    except (ValueError, struct.error) as error:
        raise Refused(OTHER_PROTOCOL, f"the front sent {error}\n") from error


def _full() -> bool:
    try:
        pair = os.dup(0), os.dup(0), os.dup(0), os.dup(0)
    except OSError:
        return True
    for fd in pair:
        os.close(fd)
    return False


def check_stdio(fds: list[int], terminals: int) -> int:
    """Refuse fds through which a machine or this daemon could be led astray; the terminals among
    them.
    """
    found = 0
    for index in range(3):
        status = os.fstat(fds[index])
        kind = stat.S_IFMT(status.st_mode)
        if kind in (stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK):
            continue
        if kind == stat.S_IFCHR and status.st_rdev == NULL_DEVICE:
            continue
        if kind == stat.S_IFCHR and os.isatty(fds[index]):
            found |= 1 << index & terminals
            continue
        names = {stat.S_IFDIR: "a directory", stat.S_IFBLK: "a block device"}
        raise UsageError(
            f"cannot use {ROLES[index]}: it is {names.get(kind, 'a device')}",
            hint="a file, a pipe, a socket, a terminal or /dev/null",
        )
    return found


class Door:
    """Threads that accept the front's connections; more of them while callers wait."""

    def __init__(
        self, listener: socket.socket, engine: Engine, main: Main, *, stamp: str = ""
    ) -> None:
        self._listener, self._engine, self._main = listener, engine, main
        self._running = Running(stamp)
        self._reactor = engine.home.reactor
        self._world = World.of("/proc/self", os.geteuid())
        self._lock = threading.Lock()
        self._idle = self._threads = 0

    def open(self) -> None:
        for _ in range(FIRST_THREADS):
            self._add()

    def close(self) -> None:
        """Accept nobody any more; running commands go on."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def make_way(self, seconds: float) -> None:
        """For another daemon: what runs goes on there, or has so long to end."""
        self._running.leave(self._listener, seconds)
        self.close()

    def _add(self) -> None:
        with self._lock:
            self._idle += 1
            self._threads += 1
        threading.Thread(target=self._work, name="front", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in SHORTAGES:
                    return
                time.sleep(SHORTAGE)
                continue
            with self._lock:
                self._idle -= 1
                more = self._idle < IDLE_THREADS and self._threads < MOST_THREADS
            if more:
                self._add()
            try:
                self._serve(conn)
            except Exception:
                complain("the front's socket")
            finally:
                conn.close()
            with self._lock:
                if self._idle >= FIRST_THREADS:
                    self._threads -= 1
                    return
                self._idle += 1

    def _serve(self, conn: socket.socket) -> None:
        fds: list[int] = []
        code: int | None = 125
        text = ""
        try:
            # Not settimeout(): the monitor's copy of the socket would become non-blocking too.
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, PATIENCE)
            request = take_request(conn, fds)
            if not peer_is_of(conn, self._world):
                raise Refused(NOT_HERE)
            if isinstance(request, Message):
                with self._running.caller(conn, None) as may:
                    if not may:
                        raise Refused(ELSEWHERE)
                    calls.answer(self._engine, conn, request, fds, CallerGone(conn, self._reactor))
                code = None
            else:
                code = self._command(conn, request, fds)
        except Refused as refused:
            code, text = refused.value, refused.text
        except CoveError as error:
            code, text = error.exit_code, error.render()
        except Exception as error:
            complain("a command")
            text = f"cove: bug: {type(error).__name__}: {printable(str(error))}\n"
        finally:
            for fd in fds:
                os.close(fd)
        if code is not None:
            answer(conn, code, text)

    def _command(self, conn: socket.socket, request: Request, fds: list[int]) -> int | None:
        terminals = check_stdio(fds, request.terminals)
        stdio = (fds[0], fds[1], fds[2])
        terminal = Terminal(
            fds=stdio,
            terminals=terminals,
            rows=request.rows,
            columns=request.columns,
            cwd=request.cwd,
            env=dict(word.partition("=")[::2] for word in request.env),
            umask=request.umask,
            ids=struct.unpack("iII", conn.getsockopt(*CREDENTIALS))[1:],
            session=Session(conn.fileno(), stdio, terminals, request.rows, request.columns),
            cancelled=CallerGone(conn, self._reactor),
        )
        with self._running.caller(conn, terminal) as may:
            if not may or self._running.refuses(terminal.env.pop("COVE_STAMP", "")):
                raise Refused(ELSEWHERE)
            code = self._main(list(request.argv[1:]), terminal)
        if code is not None and terminal.left:
            raise Refused(ELSEWHERE, terminal.resume)
        return code
