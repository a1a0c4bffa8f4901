"""The caller's terminal: three fds, size, directory, environment and umask of the process that
typed the command.

Commands print through it and read the caller's world from it; ``sys.stdout``, ``os.environ``,
``os.getcwd`` and ``os.umask`` belong to the process, which serves many callers at once.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cove.engine.calls import Session

CHUNK = 4096
"""PIPE_BUF: when poll(2) says a pipe is writable, this much goes in without blocking."""


class Gone(Exception):
    """The reader of the output left, or the caller cancelled: nothing more can be said."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(slots=True)
class Terminal:
    fds: tuple[int, int, int]
    terminals: int = 0
    """Bits 1, 2, 4: fd 0, 1, 2 is a terminal."""
    rows: int = 24
    columns: int = 80
    cwd: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    ids: tuple[int, int] = (0, 0)
    """Uid and gid of who typed the command."""
    session: Session | None = None
    """What the engine may hand to a monitor; None outside the daemon."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    debug: bool = False
    portable: bool = False
    """Another daemon can carry this command on: it changes nothing, or knows where it is."""
    left: bool = False
    """Another one does."""
    resume: str = ""
    """Where that has to go on."""
    written: int = 0
    """Bytes that were written so far."""

    def is_terminal(self, fd: int) -> bool:
        return bool(self.terminals & (1 << fd))

    @property
    def width(self) -> int:
        """Columns to fit output into; 0: do not fit, it goes to a file or a pipe."""
        return (self.columns or 80) if self.is_terminal(1) else 0

    def path(self, path: str) -> str:
        """``path`` as the caller means it, absolute."""
        return os.path.normpath(os.path.join(self.cwd, path))

    def write(self, text: str | bytes, fd: int = 1) -> None:
        """All of ``text`` to fd 1 or 2 of the caller.

        A stopped terminal or a full pipe must not hold this thread for ever: it waits in poll(2),
        where a cancel is seen, and then writes no more than fits.
        """
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        target = self.fds[fd]
        view = memoryview(data)
        while view:
            self._wait_writable(target)
            try:
                count = os.write(target, view[:CHUNK])
                self.written += count
                view = view[count:]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Gone(141) from None  # as a shell sees a program that died of SIGPIPE
            except OSError as error:
                raise Gone(1) from error

    def error(self, text: str) -> None:
        if not self.left:
            self.write(text, 2)

    def leave(self) -> None:
        """Stop here, if the command can go on in another daemon."""
        if self.portable:
            self.left = True
            self.cancelled.set()

    def _wait_writable(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while not poll.poll(250):
            if self.cancelled.is_set():
                raise Gone(130)

    @contextmanager
    def open_input(self, path: str) -> Iterator[int]:
        """An fd of the caller's ``path`` for reading; ``-`` is the caller's stdin."""
        if path == "-":
            yield self.fds[0]
            return
        fd = os.open(self.path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            yield fd
        finally:
            os.close(fd)

    def read_text(self, path: str, *, limit: int = 1 << 20) -> str:
        """The caller's file, which must be a regular file or a pipe of at most ``limit`` bytes."""
        with self.open_input(path) as fd:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise IsADirectoryError(21, "is a directory", path)
            chunks: list[bytes] = []
            size = 0
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise OSError(27, f"larger than {limit} bytes", path)
        return b"".join(chunks).decode("utf-8", "surrogateescape")

    def create_file(self, path: str, text: str) -> None:
        """A new file of the caller's, with the caller's umask; FileExistsError if it is there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(self.path(path), flags, 0o666 & ~self.umask)
        try:
            os.fchmod(fd, 0o666 & ~self.umask)
            os.write(fd, text.encode())
        finally:
            os.close(fd)
