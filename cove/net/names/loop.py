"""One thread that waits for sockets and for times."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

Call = Callable[[], None]


class Timer:
    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = itertools.count()
        self.stopped = False

    def watch(self, fd: int, call: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        known = fd in self._watched
        self._watched[fd] = call
        (self._epoll.modify if known else self._epoll.register)(fd, events)

    def forget(self, fd: int) -> None:
        """Before it is closed."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, call: Call) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._serial), timer))
        return timer

    def turn(self, *, wait: bool) -> None:
        """Everything that is ready; if nothing is, what comes first."""
        for fd, events in self._epoll.poll(self._pause() if wait else 0):
            call = self._watched.get(fd)
            if call is not None:
                call(events)
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            call_, timer.call = timer.call, None
            if call_ is not None:
                call_()

    def _pause(self) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())
