"""The files of a machine's log, as its monitor writes and renames them: ``log`` is the newest,
``log.1`` the one before it, and so on.

The format is ``init/session.h``'s log_record. A reader holds one file open at a time and finds the
next by what it is, not by its name, so a rotation neither hides a record from it nor shows one
twice. Nothing here needs the monitor: a dead machine's log reads the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from cove.engine.calls import LogEntry
from cove.executor.messages import LOG_RECORD

RECORD_MAX = 1 << 20
"""No record is longer; one that says so is the torn end of a file."""
BLOCK = 256 << 10
LENGTH = 4
"""Bytes of a record's length at its end; records of cove 0.1 have none."""
TAIL_AT = 13
"""In a record: how many bytes its length takes at its end."""
COARSE = 1 << 30
"""Nanoseconds that a file's time of change may be behind the clock its records are stamped by."""
NAME = re.compile(r"log(?:\.([1-9][0-9]{0,3}))?")
NOTE = 0
"""The stream of what the log says about itself."""
LOST = b"lines are missing here: the log was turned faster than it was read\n"

Identity = tuple[int, int]


class LogFile:
    """One file of a log. ``offset`` is where the next record begins; the end may still grow."""

    def __init__(self, path: str, offset: int = 0) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        status = os.fstat(self._fd)
        self.identity: Identity = (status.st_dev, status.st_ino)
        self.offset = offset

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def batch(self) -> list[LogEntry]:
        """The next whole records, of about ``BLOCK`` bytes; none: there are no more now."""
        data = os.pread(self._fd, BLOCK, self.offset)
        found, end = parse(data)
        if not found and len(data) == BLOCK:  # one record that is larger than a block
            found, end = parse(os.pread(self._fd, RECORD_MAX + BLOCK, self.offset))
        self.offset += end
        return found

    def backwards(self) -> Iterator[tuple[int, bytes]]:
        """Offset and data of the records before ``offset``, the last first."""
        end = self.offset
        while end > 0:
            begin = max(0, end - BLOCK)
            block = os.pread(self._fd, end - begin, begin)
            at = len(block)
            while (start := _start(block, at)) is not None:
                yield begin + start, block[start + LOG_RECORD.size : at - LENGTH]
                at = start
            if at == len(block):
                yield from reversed(self._before(end))
                return
            end = begin + at

    def _before(self, end: int) -> list[tuple[int, bytes]]:
        """Records from the beginning: where one does not say its length, or the end is torn."""
        found, offset = [], 0
        while offset < end:
            data = os.pread(self._fd, BLOCK, offset)
            entries, used = parse(data)
            at = 0
            for entry in entries:
                found.append((offset + at, entry.data))
                at += LOG_RECORD.size + len(entry.data) + data[at + TAIL_AT]
            if not used:
                break
            offset += used
        return [record for record in found if record[0] < end]

    def seek_end(self) -> None:
        """Behind the last whole record."""
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, BLOCK, max(0, size - BLOCK))
        if _start(tail, len(tail)) is not None:
            self.offset = size
            return
        self.offset = 0
        while self.batch():
            pass


def _start(block: bytes, end: int) -> int | None:
    """Where the record begins that ends at ``end``; None: before the block, or it is not one."""
    if end < LOG_RECORD.size + LENGTH:
        return None
    length = int.from_bytes(block[end - LENGTH : end], "little")
    start = end - LENGTH - length - LOG_RECORD.size
    if start < 0:
        return None
    _, said, stream, tail = LOG_RECORD.unpack_from(block, start)
    return start if said == length and tail == LENGTH and stream <= 2 else None


def parse(data: bytes) -> tuple[list[LogEntry], int]:
    """The whole records at the beginning of ``data``, and where they end."""
    found, at, end = [], 0, len(data)
    head, unpack = LOG_RECORD.size, LOG_RECORD.unpack_from
    while end - at >= head:
        time_ns, length, stream, tail = unpack(data, at)
        begin = at + head
        if length > RECORD_MAX or begin + length + tail > end:
            break
        at = begin + length + tail
        found.append(LogEntry(time_ns, stream, data[begin : begin + length]))
    return found, at


class Log:
    """A machine's log from its oldest record on, and whatever follows."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._file: LogFile | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def position(self) -> str:
        """Where reading goes on, for ``seek``; empty: nothing was read yet."""
        if self._file is None:
            return ""
        return ":".join(map(str, (*self._file.identity, self._file.offset)))

    def seek(self, position: str) -> None:
        """Go on where another reader was; from the oldest record where that file is gone."""
        device, inode, offset = map(int, position.split(":"))
        for number in reversed(self._numbers()):
            file = self._open(number)
            if file is not None and file.identity == (device, inode):
                self.close()
                file.offset = offset
                self._file = file
                return
            if file is not None:
                file.close()

    def batches(self) -> Iterator[list[LogEntry]]:
        """All records so far. Called again: those that came since, also after a rotation."""
        if self._file is None:
            self._file = self._oldest()
        while self._file is not None:
            while entries := self._file.batch():
                yield entries
            following = self._next(self._file.identity)
            if following is None:
                return
            newer, lost = following
            # What was written between the last read and the rotation is still in the old file.
            while entries := self._file.batch():
                yield entries
            self._file.close()
            self._file = newer
            if lost:
                yield [LogEntry(0, NOTE, LOST)]

    def since(self, first_ns: int) -> None:
        """Pass over files that were finished before that moment."""
        for number in reversed(self._numbers()):
            file = self._open(number)
            if file is None:
                continue
            self.close()
            self._file = file
            if self._changed(number) + COARSE >= first_ns:
                return

    def tail(self, count: int) -> int:
        """Go to where the last ``count`` lines begin; how many bytes of the first record belong to
        a line before them.
        """
        file = self._file = self._newest()
        if file is None:
            return 0
        file.seek_end()
        breaks_wanted = 0
        while count:
            for at, data in file.backwards():
                if not breaks_wanted and data:
                    # A last line that is not finished is one all the same.
                    breaks_wanted = count + data.endswith(b"\n")
                breaks = data.count(b"\n")
                if data and breaks >= breaks_wanted:
                    file.offset = at
                    return _after_break(data, breaks - breaks_wanted + 1)
                breaks_wanted -= breaks
            file.offset = 0
            older = self._older(file.identity)
            if older is None:
                break
            file.close()
            file = self._file = older
            file.seek_end()
        return 0

    # ---- names ----

    def _numbers(self) -> list[int]:
        """Of the files that are there, the newest (0) first."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted(int(m[1] or 0) for name in names if (m := NAME.fullmatch(name)))

    def _path(self, number: int) -> str:
        return f"{self._directory}/log.{number}" if number else f"{self._directory}/log"

    def _open(self, number: int) -> LogFile | None:
        try:
            return LogFile(self._path(number))
        except FileNotFoundError:
            return None

    def _identity(self, number: int) -> Identity | None:
        try:
            status = os.lstat(self._path(number))
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _changed(self, number: int) -> int:
        try:
            return os.lstat(self._path(number)).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _oldest(self) -> LogFile | None:
        return next(filter(None, map(self._open, reversed(self._numbers()))), None)

    def _newest(self) -> LogFile | None:
        return next(filter(None, map(self._open, self._numbers())), None)

    def _find(self, identity: Identity) -> int | None:
        """What the file is called now. Names only grow, and so does ``number``: a file that is
        being renamed is met all the same.
        """
        if self._identity(0) == identity:
            return 0
        number = 1
        last = max(self._numbers(), default=0) + 2
        while number <= last:
            if self._identity(number) == identity:
                return number
            number += 1
        return None

    def _next(self, identity: Identity) -> tuple[LogFile, bool] | None:
        """The file after this one, and whether some between were removed; None: it is the last."""
        while True:
            number = self._find(identity)
            if number == 0:
                return None
            if number is None:
                file = self._oldest()
                return None if file is None else (file, True)
            file = None
            for newer in range(number - 1, -1, -1):  # one is missing while it is being renamed
                if (file := self._open(newer)) is not None:
                    break
            # Still called that: nothing was renamed meanwhile, and the file is the one meant.
            if self._identity(number) == identity:
                return None if file is None else (file, False)
            if file is not None:
                file.close()

    def _older(self, identity: Identity) -> LogFile | None:
        while True:
            number = self._find(identity)
            if number is None:
                return None
            file = None
            for older in self._numbers():
                if older > number and (file := self._open(older)) is not None:
                    break
            if self._identity(number) == identity:
                return file
            if file is not None:
                file.close()


def _after_break(data: bytes, count: int) -> int:
    """Behind the ``count``-th line break."""
    at = 0
    for _ in range(count):
        at = data.index(b"\n", at) + 1
    return at
