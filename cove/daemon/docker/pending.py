"""Clients that attached to a machine before its start, as ``docker run`` does; and what exec was
asked for and has not begun, or has ended. Only memory, and no more of it than is told here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cove.engine.calls import Session, Streams
from cove.errors import Conflict

MOST = 16
"""That wait for one machine; the monitor serves as many."""
MACHINES = 4096
"""That somebody waits for: the oldest are given up."""


@dataclass(slots=True)
class Waiting:
    session: Session
    streams: Streams
    detach_keys: str
    give_up: Callable[[], None]


@dataclass(slots=True)
class Pending:
    _of: OrderedDict[str, list[Waiting]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, machine: str, waiting: Waiting) -> None:
        dropped: list[Waiting] = []
        with self._lock:
            held = self._of.setdefault(machine, [])
            if len(held) >= MOST:
                raise Conflict(f"cannot attach: {MOST} others wait for its start already")
            held.append(waiting)
            while len(self._of) > MACHINES:
                dropped += self._of.popitem(last=False)[1]
        for each in dropped:
            each.give_up()

    def take(self, machine: str) -> list[Waiting]:
        with self._lock:
            return self._of.pop(machine, [])

    def drop(self, machine: str, waiting: Waiting) -> None:
        """Its client has left; it may have been taken already."""
        with self._lock:
            held = [each for each in self._of.get(machine, []) if each is not waiting]
            if held:
                self._of[machine] = held
            else:
                self._of.pop(machine, None)
        waiting.give_up()
