"""Waiting for the end of a machine."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Self

from cove.engine.events import Cancel, Cancelled, Subscription
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.looking.watching import woken
from cove.engine.machines.stopping import has_ended
from cove.store.records import Cause, MachineRecord

LOOK = 0.1


class Waiter:
    """Whoever waits, from the moment that this is made: an end that comes before ``wait``, or comes
    and goes between two looks, is seen.

    The live machine is held on to: an ephemeral one's record may be gone before this thread looks.
    """

    def __init__(self, home: Home, record: MachineRecord, condition: str) -> None:
        self._home, self._record, self._condition = home, record, condition
        self._stack = ExitStack()
        self._mine = self._stack.enter_context(home.events.subscribe(Subscription()))
        first = home.lives.get(record.key)
        self._over = first if first is not None and has_ended(home, first) else None
        self._seen: Live | None = None
        self._died: int | None = None
        self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._stack.close()

    def wait(self, cancelled: threading.Event | None) -> tuple[int, Cause]:
        """The exit code, once the machine does not run, has ended once more, or is gone."""
        patience = None if cancelled is None or isinstance(cancelled, Cancel) else LOOK
        with woken(cancelled, self._mine):
            while not self._done():
                if cancelled is not None and cancelled.is_set():
                    raise Cancelled("interrupted")
                event = self._mine.get(patience)
                if event is not None and event.id == self._record.id and event.action == "die":
                    self._died = int(event.attributes.get("exitCode", "0"))
        return self._end()

    def _look(self) -> Live | None:
        live = self._home.lives.get(self._record.key)
        if live is not None and live is not self._over:
            self._seen = live
        return live

    def _done(self) -> bool:
        home, key = self._home, self._record.key
        live = self._look()
        ended = self._seen is not None and has_ended(home, self._seen)
        if self._condition == "removed":
            return not home.store.has_machine(key)
        if self._condition == "next-exit":
            return ended or self._ended_since() or not home.store.has_machine(key)
        return ended or live is self._over or (live is None and not self._starts_again())

    def _starts_again(self) -> bool:
        """Its restart policy says so."""
        home, key = self._home, self._record.key
        return home.store.has_machine(key) and home.record(key).state == "restarting"

    def _ended_since(self) -> bool:
        """By its record: it may have come and gone between two looks."""
        home, key = self._home, self._record.key
        if not home.store.has_machine(key):
            return True
        now = home.record(key)
        return bool(now.finished) and now.finished != self._record.finished

    def _end(self) -> tuple[int, Cause]:
        last = self._seen if self._seen is not None else self._over
        if last is not None and last.ended is not None:
            return last.ended.code, last.cause
        if last is not None and last.failure is not None:
            return last.failure.exit_code, last.cause
        key = self._record.key
        now = self._home.record(key) if self._home.store.has_machine(key) else self._record
        return now.exit_code if self._died is None else self._died, now.cause


def wait(
    home: Home,
    record: MachineRecord,
    condition: str,
    cancelled: threading.Event | None = None,
) -> tuple[int, Cause]:
    with Waiter(home, record, condition) as waiter:
        return waiter.wait(cancelled)
