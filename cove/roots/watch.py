"""Limits on writable layers: measure, and say who is over. Ending the machine is the engine's.

Measuring every tree again and again would cost more than the machines do. The free space of the
whole file system costs a microsecond: a root is measured only when the file system has grown by
what that root still had left, or after ``RESCAN`` seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cove.linux.disk import deleted_usage, free_space, overlay_devices, tree_usage, usage

RESCAN = 60.0
SPEED = 2 << 30
"""Bytes a second a disk is assumed to take at most."""
SOONEST, LATEST = 0.25, 5.0


@dataclass(frozen=True, slots=True)
class Over:
    """A machine that wrote more than it may."""

    key: int
    used: int
    limit: int


@dataclass(slots=True)
class _Root:
    key: int
    path: str
    limit: int
    pids: Callable[[], Iterable[int]]
    beside: tuple[str, ...]
    used: int = 0
    free: int = 0
    measured: float = 0.0
    """Monotonic time of the last measurement; 0: never."""


class StorageWatch:
    """The limits of all running machines of one state directory."""

    def __init__(
        self,
        directory: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        free: Callable[[str], int] = lambda path: free_space(path).free,
    ) -> None:
        self._directory = directory
        self._clock, self._free = clock, free
        self._lock = threading.Lock()
        self._roots: dict[int, _Root] = {}

    def watch(
        self,
        key: int,
        path: str,
        *,
        limit: int,
        pids: Callable[[], Iterable[int]] = tuple,
        beside: tuple[str, ...] = (),
    ) -> None:
        """From now on. ``pids`` are the machine's processes: what they hold open and unlinked
        counts too, and so do files and trees ``beside`` the root that the machine may write.
        """
        root = _Root(key, path, limit, pids, beside, free=self._free(self._directory))
        with self._lock:
            self._roots[key] = root

    def forget(self, key: int) -> None:
        with self._lock:
            self._roots.pop(key, None)

    def check(self) -> list[Over]:
        """Measure what may have grown over its limit. For a thread: it may wait for the disk."""
        free, now = self._free(self._directory), self._clock()
        with self._lock:
            roots = list(self._roots.values())
        over = []
        for root in roots:
            grown = root.free - free
            due = now - root.measured > RESCAN if root.measured else True
            if not due and root.used + grown <= root.limit:
                continue
            root.used, root.free, root.measured = _measure(root), free, now
            if root.used > root.limit:
                over.append(Over(root.key, root.used, root.limit))
        return over

    def wait_time(self) -> float | None:
        """Seconds until ``check`` is worth calling again; None: nothing is watched."""
        free = self._free(self._directory)
        with self._lock:
            left = [r.limit - r.used - (r.free - free) for r in self._roots.values()]
        if not left:
            return None
        return min(max(min(left) / SPEED, SOONEST), LATEST)

    def used(self, key: int) -> int:
        """As last measured."""
        with self._lock:
            root = self._roots.get(key)
        return root.used if root else 0


def _measure(root: _Root) -> int:
    pids = tuple(root.pids())
    hidden = 0
    if pids:
        devices = overlay_devices(pids[0])
        hidden = deleted_usage(pids, devices) if devices else 0
    return tree_usage(os.fspath(root.path)) + sum(map(usage, root.beside)) + hidden
