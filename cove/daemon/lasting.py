"""Room for requests that may go on for as long as somebody likes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cove.errors import Conflict

THREADS = 1024
"""Of a pool. A stream that waits holds one: listeners by the hundred leave room for others."""
LONG = 480
"""Requests of a door that last, of two threads at most each: they leave room for those that end
them.
"""


class Lasting:
    """Those of one door that are under way; used by the thread of its loop alone."""

    def __init__(self) -> None:
        self._count = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Raises Conflict where there is no room for another."""
        if self._count >= LONG:
            raise Conflict(
                f"cannot begin another one: {LONG} requests that wait or stream are under way"
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
