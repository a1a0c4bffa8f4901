"""The thread that measures writable layers, and ends machines that wrote more than they may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from cove.engine.reactor import complain
from cove.roots import StorageWatch
from cove.roots.watch import LATEST, SOONEST, SPEED


class StorageGuard:
    """Sleeps while nothing can have grown over its limit; ``over(key)`` is called for what has."""

    def __init__(self, directory: str, over: Callable[[int], None]) -> None:
        self._watch = StorageWatch(directory)
        self._over = over
        self._wake = threading.Event()
        self._until = 0.0
        """Monotonic time at which the thread looks again; infinite when nothing is watched."""
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def watch(
        self,
        key: int,
        path: str,
        *,
        limit: int,
        pids: Callable[[], Iterable[int]],
        beside: tuple[str, ...] = (),
    ) -> None:
        """From now on; the thread is woken only when it would otherwise look too late."""
        self._watch.watch(key, path, limit=limit, pids=pids, beside=beside)
        if time.monotonic() + min(max(limit / SPEED, SOONEST), LATEST) < self._until:
            self._wake.set()

    def forget(self, key: int) -> None:
        self._watch.forget(key)

    def _run(self) -> None:
        while not self._stop:
            pause = self._watch.wait_time()
            self._until = time.monotonic() + (float("inf") if pause is None else pause)
            self._wake.wait(pause)
            self._wake.clear()
            try:
                for over in self._watch.check():
                    self._over(over.key)
            except Exception:
                complain("the storage watch")
