"""One thread that waits for sockets and for times."""

from __future__ import annotations

import select
from collections.abc import Callable

from cove.linux.timers import Call, Timer, Timers


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[int], None]] = {}
        self._timers = Timers()
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
        return self._timers.after(seconds, call)

    def turn(self, *, wait: bool) -> None:
        """Everything that is ready; if nothing is, what comes first."""
        for fd, events in self._epoll.poll(self._timers.pause() if wait else 0):
            call = self._watched.get(fd)
            if call is not None:
                call(events)
        while (due := self._timers.due()) is not None:
            due()
