"""Calls in the future, in the order of their times. Who has several threads locks around it."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

Call = Callable[[], None]


class Timer:
    """A call in the future; ``cancel`` it or let it come."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class Timers:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = itertools.count()

    def after(self, seconds: float, call: Call) -> Timer:
        timer = Timer(call)
        due = time.monotonic() + max(0.0, seconds)
        heapq.heappush(self._heap, (due, next(self._serial), timer))
        return timer

    def is_first(self, timer: Timer) -> bool:
        return self._heap[0][2] is timer

    def pause(self) -> float | None:
        """Seconds until the next call; None: there is none."""
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        return max(0.0, self._heap[0][0] - time.monotonic())

    def due(self) -> Call | None:
        """The next call whose time has come, which is no timer's any more."""
        while self._heap and self._heap[0][0] <= time.monotonic():
            timer = heapq.heappop(self._heap)[2]
            call, timer.call = timer.call, None
            if call is not None:
                return call
        return None
