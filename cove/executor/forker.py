"""The forker: one small resident process, of the static program, that makes monitors.

Spawning from a large Python process costs twice as much as a fork of a small one. It runs from a
sealed copy in memory, so that nothing a machine could reach is ever executed, and an upgrade on
disk does not change what runs. Monitors outlive it and the daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence

from cove.errors import HostError
from cove.executor.messages import Kind, sealed_memory, send
from cove.linux.program import init_program

MONITOR, RELAY = 0, 1

BUFFER = 1 << 20
"""Of a monitor's socket: one datagram of MSG_MAX must fit also where the host's default is low."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A channel for messages of up to MSG_MAX bytes."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    return pair


class Forker:
    """Makes monitors, and makes itself anew if it was killed.

    ``restart`` is the command line a monitor brings a vanished daemon back with, ``environment``
    what that daemon sees.
    """

    def __init__(self, restart: Sequence[str], *, environment: Mapping[str, str]) -> None:
        self._restart = tuple(restart)
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._program = _program()
        self._sock: socket.socket | None = None
        self._pid = 0

    def fork(self, kind: int = MONITOR) -> socket.socket:
        """The daemon's end of the socket of a new monitor, or relay."""
        ours, theirs = socket_pair()
        with theirs:
            try:
                with self._lock:
                    self._ask(theirs, kind)
            except BaseException:
                ours.close()
                raise
        return ours

    def start(self) -> None:
        """Have it ready before the first machine needs it."""
        with self._lock:
            if self._sock is None:
                self._spawn()

    def close(self) -> None:
        """End it; the monitors it made stay."""
        with self._lock:
            self._drop()
            if self._program >= 0:
                os.close(self._program)
                self._program = -1

    def _ask(self, end: socket.socket, kind: int) -> None:
        for last in (False, True):
            if self._sock is None:
                self._spawn()
            assert self._sock is not None
            try:
                send(self._sock, Kind.FORK, value=kind, fds=(end.fileno(),))
                return
            except (BrokenPipeError, ConnectionResetError) as error:
                self._drop()
                if last:
                    raise HostError(
                        "cannot start a monitor: the forker ends at once", host=init_program()
                    ) from error

    def _spawn(self) -> None:
        ours, theirs = socket_pair()
        # Above 3, or the dup2 onto 3 in the child would close what it is about to execute.
        high = fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)
        theirs.close()
        try:
            self._pid = os.posix_spawn(
                f"/proc/self/fd/{self._program}",
                ("cove-init", "forker", *self._restart),
                self._environment,
                file_actions=(
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, high, 3),
                ),
                setsid=True,
                setsigmask=(),
                setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
            )
        except OSError as error:
            ours.close()
            raise HostError(
                f"cannot start the forker: {(error.strerror or str(error)).lower()}",
                host=init_program(),
                hint="vm.memfd_noexec must not be 2",
            ) from error
        finally:
            os.close(high)
        self._sock = ours

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0


def _program() -> int:
    path = init_program()
    try:
        with open(path, "rb") as file:
            program = sealed_memory("cove-init", (file.read(),), executable=True)
    except FileNotFoundError:
        raise HostError(
            f"cannot start machines: {path} is missing", hint="reinstall cove: pip install cove"
        ) from None
    high = fcntl.fcntl(program, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(program)
    return high
