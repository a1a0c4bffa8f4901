"""``logs``: the output of machines, read from the files their monitors write, and on while they
run. Whoever reads slowly, or not at all, costs one open file: nothing is kept for them.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import msgspec

from cove.engine.calls import LogEntry, Logs
from cove.engine.events import Bell, Cancel
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.looking.logfile import NOTE, Log
from cove.errors import Unsupported
from cove.store.records import MachineRecord

STREAMS = {"stdout": 1, "stderr": 2}
RESTARTING = 200
"""Milliseconds between looks at a machine that is between two runs."""
FIRST = 1.0
"""Seconds of a moment."""
FLOAT = 256
"""Nanoseconds that a moment of today may lose as a float of seconds: what was printed with a time
is found by that time.
"""


def read_logs(
    directory: str,
    params: Logs,
    wait: Callable[[], bool] | None = None,
    cancelled: threading.Event | None = None,
) -> Iterator[LogEntry]:
    """The output that was asked for. ``wait`` blocks until there may be more; False: the end."""
    log = Log(directory)
    wanted = Wanted(params)
    try:
        skip = 0
        if params.position:
            log.seek(params.position)
        elif params.tail >= 0:
            skip = log.tail(params.tail)
        elif params.since:
            log.since(wanted.first)
        last = False
        if params.positions and log.position:
            yield LogEntry(0, NOTE, b"", log.position)
        while True:
            for batch in log.batches():
                if skip:
                    batch[0] = msgspec.structs.replace(batch[0], data=batch[0].data[skip:])
                    skip = 0
                found = wanted.of(batch)
                yield from _positioned(found, log.position) if params.positions else found
                if wanted.over:
                    return
            if last or wait is None or (cancelled is not None and cancelled.is_set()):
                return
            last = not wait()  # then once more: for what came between the last look and the end
    finally:
        log.close()


def _positioned(entries: list[LogEntry], position: str) -> list[LogEntry]:
    """The last of them says where reading goes on after it."""
    if entries:
        entries[-1] = msgspec.structs.replace(entries[-1], position=position)
    return entries


class Wanted:
    """The entries that were asked for, of those that are there."""

    def __init__(self, params: Logs) -> None:
        self.streams = {STREAMS[name] for name in params.streams if name in STREAMS}
        self.streams |= {NOTE} if params.notes else set()
        self.first = int(params.since * 1e9) - FLOAT if params.since else 0
        self.last = int(params.until * 1e9) + FLOAT if params.until else 1 << 63
        self.merged = params.merged
        self.over = False
        """What comes from now on is later than was asked for."""

    def of(self, batch: list[LogEntry]) -> list[LogEntry]:
        chosen = []
        for entry in batch:
            if entry.time_ns > self.last:
                self.over = True
                break
            late = entry.time_ns >= self.first or entry.stream == NOTE
            if late and entry.data and entry.stream in self.streams:
                chosen.append(entry)
        return _merged(chosen) if self.merged else chosen


def _merged(entries: list[LogEntry]) -> list[LogEntry]:
    """Neighbours of one stream as one: a write for each record would take most of the time."""
    found: list[LogEntry] = []
    run: list[bytes] = []
    for index, entry in enumerate(entries):
        run.append(entry.data)
        if index + 1 == len(entries) or entries[index + 1].stream != entry.stream:
            found.append(LogEntry(entry.time_ns, entry.stream, b"".join(run)))
            run.clear()
    return found


def follow_logs(
    home: Home, record: MachineRecord, params: Logs, cancelled: threading.Event | None
) -> Iterator[LogEntry]:
    """What ``cove logs`` shows; with ``follow``, until the machine ends or the caller leaves."""
    if record.spec.log_driver == "none":
        raise Unsupported(
            f"cannot read the log of {record.name}: its log driver is none, which keeps nothing",
            exit_code=1,
        )
    return _follow(home, record, params, cancelled)


def _follow(
    home: Home, record: MachineRecord, params: Logs, cancelled: threading.Event | None
) -> Iterator[LogEntry]:
    directory = home.store.layout.machine(record.key)
    live = home.lives.get(record.key)
    if not params.follow or live is None or not os.path.isdir(directory):
        if params.fresh and live is not None:
            _hear_first(home, record, live, directory, cancelled)
        yield from read_logs(directory, params)
        return
    bell = Bell()
    try:
        with (
            home.events.subscribe(bell),
            home.logs.watch(home.reactor, directory, bell),
            _woken(cancelled, bell),
        ):
            follower = Follower(home, live, bell, params.until, cancelled)
            yield from read_logs(directory, params, follower.wait, cancelled)
    finally:
        bell.close()


def _hear_first(
    home: Home, record: MachineRecord, live: Live, directory: str, cancelled: threading.Event | None
) -> None:
    """Until a program that began this moment says something, ends, or has had its moment. Scripts
    start a program and ask at once what it said: other starts take so long that it is there.
    """
    end = min(record.started, time.time()) + FIRST
    bell = Bell()
    try:
        with home.events.subscribe(bell), home.logs.watch(home.reactor, directory, bell):
            follower = Follower(home, live, bell, end, cancelled)
            everything = Logs(record.id)
            while next(read_logs(directory, everything), None) is None and follower.wait():
                if cancelled is not None and cancelled.is_set():
                    return
    finally:
        bell.close()


class Follower:
    """Waits for more of a machine's output."""

    def __init__(
        self, home: Home, live: Live, bell: Bell, until: float, cancelled: threading.Event | None
    ) -> None:
        self._home, self._live, self._bell = home, live, bell
        self._until, self._cancelled = until, cancelled
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)

    def wait(self) -> bool:
        """Block until there may be more; False: nothing will follow."""
        if self._over():
            return False
        patience: float | None = None
        if self._until:
            patience = (self._until - time.time()) * 1000
            if patience <= 0:
                return False
        if not (self._cancelled is not None and self._cancelled.is_set()):
            self._poll.poll(RESTARTING if patience is None and self._live.ended else patience)
        self._bell.clear()
        return True

    def _over(self) -> bool:
        """It ended, and is not being started again."""
        key, store = self._live.key, self._home.store
        # Asked first: where it is over already, the machine's next run is found below.
        restarting = False
        if store.has_machine(key):
            record = store.machine(key)
            restarting = record.restarting or record.state == "restarting"
        self._live = self._home.lives.get(key, self._live)
        return not restarting and (self._live.ended is not None or self._live.failure is not None)


def _woken(cancelled: threading.Event | None, bell: Bell) -> AbstractContextManager[None]:
    return cancelled.then(bell.wake) if isinstance(cancelled, Cancel) else nullcontext()
