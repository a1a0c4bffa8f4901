"""The output of machines, read from the files their monitors write: record by record, across a
rotation, and on while a machine runs.

The format is ``init/session.h``'s log_record. Nothing here needs the monitor: a dead machine's log
reads the same.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from cove.engine.calls import LogEntry, Logs
from cove.engine.events import Bell, Cancel
from cove.engine.home import Home
from cove.executor.messages import LOG_RECORD
from cove.linux.inotify import Changes
from cove.store.records import MachineRecord

RECORD_MAX = 1 << 20
"""No record is longer; one that says so is the torn end of a file."""
BLOCK = 256 << 10
STREAMS = {"stdout": 1, "stderr": 2}


class LogFile:
    """One file of a log, read forward; the end may still grow."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._buffer = bytearray()
        status = os.fstat(self._fd)
        self.identity = (status.st_dev, status.st_ino)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def entries(self) -> Iterator[LogEntry]:
        """Every whole record that is there now; call again for what came since."""
        while True:
            data = os.read(self._fd, BLOCK)
            self._buffer += data
            at = 0
            while (entry := self._entry(at)) is not None:
                yield entry
                at += LOG_RECORD.size + len(entry.data)
            del self._buffer[:at]
            if not data:
                return

    def _entry(self, at: int) -> LogEntry | None:
        if len(self._buffer) - at < LOG_RECORD.size:
            return None
        time_ns, length, stream = LOG_RECORD.unpack_from(self._buffer, at)
        if length > RECORD_MAX:
            return None
        begin = at + LOG_RECORD.size
        if len(self._buffer) < begin + length:
            return None
        return LogEntry(time_ns, stream, bytes(memoryview(self._buffer)[begin : begin + length]))


class Log:
    """A machine's log: ``log.1`` first, then ``log``, then whatever follows it."""

    def __init__(self, directory: str) -> None:
        self._path = f"{directory}/log"
        self._files: list[LogFile] = []

    def close(self) -> None:
        for file in self._files:
            file.close()

    def entries(self) -> Iterator[LogEntry]:
        """All records so far. Called again: those that came since, also after a rotation."""
        if not self._files:
            self._open_first()
        while self._files:
            yield from self._files[0].entries()
            if len(self._files) == 1 and not self._rotated():
                return
            # What was written between the last read and the rotation is still in the old file.
            yield from self._files[0].entries()
            self._files.pop(0).close()

    def _open_first(self) -> None:
        """Both files by descriptor, and again when a rotation came in between."""
        while True:
            found = [f for f in (_open(f"{self._path}.1"), _open(self._path)) if f is not None]
            if len(found) < 2 or found[0].identity != found[1].identity:
                self._files = found
                return
            for file in found:
                file.close()

    def _rotated(self) -> bool:
        """Whether a newer file was begun; one between, if rotation came twice, is added too."""
        current = self._files[0].identity
        newer = [f for f in (_open(f"{self._path}.1"), _open(self._path)) if f is not None]
        for file in [f for f in newer if f.identity == current]:
            # The files are in order: what comes before the current one was read already.
            for done in newer[: newer.index(file) + 1]:
                done.close()
            del newer[: newer.index(file) + 1]
        self._files += newer
        return bool(newer)


def _open(path: str) -> LogFile | None:
    try:
        return LogFile(path)
    except FileNotFoundError:
        return None


def read_logs(
    directory: str,
    params: Logs,
    wait: Callable[[], bool] | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[LogEntry]:
    """The output that was asked for. ``wait`` blocks until there may be more; False: the end."""
    wanted = {STREAMS[name] for name in params.streams if name in STREAMS}
    first, last = int(params.since * 1e9), int(params.until * 1e9) or 1 << 63
    log = Log(directory)

    def chosen() -> Iterator[LogEntry]:
        for entry in log.entries():
            if entry.stream in wanted and first <= entry.time_ns <= last:
                yield entry

    try:
        yield from chosen() if params.tail < 0 else last_lines(chosen(), params.tail)
        more = wait is not None
        while more and not (cancelled is not None and cancelled.is_set()):
            more = wait is not None and wait()
            yield from chosen()
    finally:
        log.close()


def last_lines(entries: Iterator[LogEntry], count: int) -> Iterator[LogEntry]:
    """The pieces that hold the last ``count`` lines, the first cut where its line begins."""
    kept: deque[tuple[LogEntry, int]] = deque()
    lines = 0
    for entry in entries:
        if not entry.data:
            continue
        breaks = entry.data.count(b"\n")
        kept.append((entry, breaks))
        lines += breaks
        # One more than asked: the line before the first wanted one ends where that begins.
        while kept and lines - kept[0][1] > count:
            lines -= kept.popleft()[1]
    if not kept or count == 0:
        return
    open_end = not kept[-1][0].data.endswith(b"\n")
    surplus = max(0, lines + open_end - count)
    for entry, breaks in kept:
        data = entry.data
        if breaks < surplus:
            surplus -= breaks
            continue
        for _ in range(surplus):
            data = data[data.index(b"\n") + 1 :]
        surplus = 0
        if data:
            yield LogEntry(entry.time_ns, entry.stream, data)


def follow_logs(
    home: Home, record: MachineRecord, params: Logs, cancelled: threading.Event | None
) -> Iterator[LogEntry]:
    """What ``cove logs`` shows; with ``follow``, until the machine ends or the caller leaves."""
    directory = home.store.layout.machine(record.key)
    live = home.lives.get(record.key)
    if not params.follow or live is None or not os.path.isdir(directory):
        yield from read_logs(directory, params)
        return
    bell, changes = Bell(), Changes(directory)
    try:
        with home.events.subscribe(bell), _woken(cancelled, bell):
            poll = select.poll()
            poll.register(bell, select.POLLIN)
            poll.register(changes, select.POLLIN)

            def wait() -> bool:
                """Block until there may be more; False: nothing will follow."""
                over = live.ended is not None or live.failure is not None
                if not over and not (cancelled is not None and cancelled.is_set()):
                    poll.poll()
                bell.clear()
                changes.drain()
                return not over

            yield from read_logs(directory, params, wait, cancelled)
    finally:
        changes.close()
        bell.close()


def _woken(cancelled: threading.Event | None, bell: Bell) -> AbstractContextManager[None]:
    return cancelled.then(bell.wake) if isinstance(cancelled, Cancel) else nullcontext()
