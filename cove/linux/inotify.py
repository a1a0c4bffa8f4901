"""inotify(7), which Python's library lacks: the daemon waits for changes of files with it."""

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
