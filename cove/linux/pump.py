"""Bytes from one descriptor to another, by the kernel where it can, while somebody may change their
mind: a reader that stopped reading holds up nothing but this call.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable

PIECE = 1 << 20
SMALL = 4096
"""What a pipe takes without blocking once it polls writable (PIPE_BUF)."""
LOOK = 100
"""Milliseconds between two looks whether anybody still wants this."""


class Stopped(Exception):
    """``stopped()`` said so."""


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) may take less than all: a signal came, a pipe or a disk is nearly full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def pump(
    source: int,
    target: int,
    stopped: Callable[[], bool],
    tell: Callable[[int], None] | None = None,
) -> int:
    """Everything from ``source``, of which or ``target`` one is a pipe; the number of bytes, of
    which ``tell`` hears now and then, and may raise.

    BrokenPipeError: nobody reads ``target`` any more.
    """
    done = 0
    by_hand = False
    ready = _is_file(target)
    while True:
        _wait(source, select.POLLIN, stopped)
        if not ready:
            _wait(target, select.POLLOUT, stopped)
        try:
            if by_hand:
                moved = _copy(source, target, whole=ready)
            else:
                moved = os.splice(source, target, PIECE, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            # A pipe that polls writable may have no room for another piece of its source.
            if stopped():
                raise Stopped from None
            by_hand = by_hand or not _is_pipe(source)
            select.select([], [], [], 0.001)
            continue
        except OSError as error:
            if by_hand or error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            by_hand = True  # a terminal, or a file that is appended to
            continue
        if not moved:
            return done
        done += moved
        if tell is not None:
            tell(done)


def _copy(source: int, target: int, *, whole: bool) -> int:
    data = os.read(source, PIECE if whole else SMALL)
    write_all(target, data)
    return len(data)


def _wait(fd: int, events: int, stopped: Callable[[], bool]) -> None:
    poll = select.poll()
    poll.register(fd, events)
    while not poll.poll(LOOK):
        if stopped():
            raise Stopped


def _is_file(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _is_pipe(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)
