"""inotify(7), which Python's library lacks: waiting for changes of files and directories."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from cove.linux.syscalls import call

MODIFY = 0x2
MOVED_TO = 0x80
CREATE = 0x100

_EVENT = struct.Struct("iIII")


def init() -> int:
    """A descriptor that never blocks."""
    return call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)


def add(fd: int, path: str, mask: int) -> int:
    """The watch's number, which the events carry."""
    return call("inotify_add_watch", fd, os.fsencode(path), mask)


def remove(fd: int, watch: int) -> None:
    """End a watch; one that went with its file is no error."""
    try:
        call("inotify_rm_watch", fd, watch)
    except OSError as error:
        if error.errno != 22:
            raise


def read(fd: int) -> Iterator[tuple[int, int]]:
    """Watch and mask of what happened since the last call."""
    while True:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            yield watch, mask


class Changes:
    """Readable whenever something in ``directory`` was written, made or moved into it."""

    def __init__(self, directory: str) -> None:
        self._fd = init()
        try:
            add(self._fd, directory, MODIFY | MOVED_TO | CREATE)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        return self._fd

    def drain(self) -> None:
        """Forget what has been told so far."""
        for _ in read(self._fd):
            pass

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
