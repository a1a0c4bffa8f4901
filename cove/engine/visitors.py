"""Who is at the files of which machine. Only memory: a visitor ends with the daemon, and so does a
guest that was started for one.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cove.engine.slots import Slot
from cove.executor.archiver import Archiver


class Visits:
    """The visitors of every machine, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: dict[int, list[Archiver]] = {}
        self._at_layers: dict[int, list[Archiver]] = {}
        self._alone: dict[int, threading.Lock] = {}
        self._ending: Counter[int] = Counter()
        self.slots: dict[int, Slot] = {}
        """Of guests that were started for visits, by key: no record names what is theirs."""
        self.guests: dict[int, Any] = {}
        """``visits.open_disks``: those that stay a moment, by the machine's key."""

    @contextmanager
    def entered(self, key: int, archiver: Archiver, *, layer: bool = False) -> Iterator[None]:
        """``layer``: it is at what the machine wrote, not in its root; only a removal ends it."""
        where = self._at_layers if layer else self._of
        with self._lock:
            where.setdefault(key, []).append(archiver)
            late = bool(self._ending[key]) and not layer
        try:
            if late:
                archiver.stop()
            yield
        finally:
            with self._lock:
                where[key].remove(archiver)
                if not where[key]:
                    del where[key]

    def any(self, key: int) -> bool:
        """Somebody is in its root, which may be that of its last run."""
        with self._lock:
            return key in self._of

    def alone(self, key: int) -> threading.Lock:
        """Held by the one visitor of a machine that does not run."""
        with self._lock:
            return self._alone.setdefault(key, threading.Lock())

    def end(self, key: int, *, removed: bool = False) -> None:
        """Everybody is told to leave; who had the machine alone has left when this returns."""
        with self._lock:
            visitors = list(self._of.get(key, ()))
            if removed:
                visitors += self._at_layers.get(key, ())
            alone = self._alone.pop(key, None) if removed else self._alone.get(key)
            self._ending[key] += 1
        for visitor in visitors:
            visitor.stop()
        if alone is not None:
            with alone:
                self._end_guest(key)
        with self._lock:
            self._ending[key] -= 1
            if not self._ending[key]:
                del self._ending[key]

    def close(self) -> None:
        """With the daemon."""
        for key in list(self.guests):
            self._end_guest(key)

    def _end_guest(self, key: int) -> None:
        guest = self.guests.pop(key, None)
        if guest is not None:
            guest.close()
