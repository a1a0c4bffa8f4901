"""Who wants to hear when a log grows: one inotify(7) descriptor for all of them, since the kernel
gives a user 128, and two hundred may follow at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cove.engine.events import Bell
from cove.engine.reactor import Reactor
from cove.linux import inotify

MASK = inotify.MODIFY | inotify.MOVED_TO | inotify.CREATE


class LogWatch:
    """``watch`` rings a bell whenever something in a machine's directory was written or renamed."""

    def __init__(self) -> None:
        self._fd = -1
        self._bells: dict[int, set[Bell]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, reactor: Reactor, directory: str, bell: Bell) -> Iterator[None]:
        with self._lock:
            if self._fd < 0:
                self._fd = inotify.init()
                reactor.watch(self._fd, self, self._ready)
            try:
                number = inotify.add(self._fd, directory, MASK)
                self._bells.setdefault(number, set()).add(bell)
            except FileNotFoundError:  # the machine was removed just now: its end rings the bell
                number = -1
        try:
            yield
        finally:
            with self._lock:
                self._forget(number, bell)

    def _forget(self, number: int, bell: Bell) -> None:
        bells = self._bells.get(number, set())
        bells.discard(bell)
        if not bells and self._bells.pop(number, None) is not None and self._fd >= 0:
            inotify.remove(self._fd, number)

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _ready(self, events: int) -> None:
        with self._lock:
            if self._fd < 0:
                return
            numbers = {number for number, _ in inotify.read(self._fd)}
            if -1 in numbers:  # more happened than the kernel kept
                numbers = set(self._bells)
            for number in numbers:
                for bell in self._bells.get(number, ()):
                    bell.wake()
