"""How long somebody's file may keep the daemon thinking."""

from __future__ import annotations

import threading
import time

from cove.errors import CoveError, UsageError

SECONDS = 20.0
"""Of processor time, so that a busy host changes nothing; the longest of real files takes 0.05."""


class Patience:
    """Called again and again by who thinks; raises once it took too long, or nobody waits."""

    def __init__(self, what: str, cancelled: threading.Event | None) -> None:
        self._what, self._cancelled = what, cancelled
        self._until = time.thread_time() + SECONDS

    def __call__(self) -> None:
        if self._cancelled is not None and self._cancelled.is_set():
            raise CoveError("interrupted", exit_code=130)
        if time.thread_time() > self._until:
            raise UsageError(
                f"{self._what}: it takes more than {SECONDS:.0f} s to find out what it means",
                exit_code=1,
            )
