"""One thread that waits for everything: monitors' sockets, the audit socket, cgroup events,
timers.

Callbacks must not block; what takes long is given to a worker (``Worker``). Knows nothing of
machines.
"""

from __future__ import annotations

import os
import queue
import select
import stat
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cove.linux.timers import Call, Timer, Timers

LOG_MAX = 4 << 20
"""Of the daemon's own log."""


def complain(where: str) -> None:
    """Write the exception that is being handled to the daemon's own log, which may be on a full
    disk.
    """
    text = f"cove: bug: in {where}\n{traceback.format_exc()}"
    try:
        if stat.S_ISREG((log := os.fstat(2)).st_mode) and log.st_size > LOG_MAX:
            os.ftruncate(2, 0)  # who makes it complain again and again must not fill the disk
        os.write(2, text.encode("utf-8", "replace"))
    except OSError:
        pass


class _Watched(NamedTuple):
    owner: object
    callback: Callable[[int], None]
    round: int
    """That of the reactor when this was asked for."""


class Reactor:
    """epoll, timers, and calls posted by other threads.

    The number of a descriptor is another's as soon as it is closed, and other threads open and
    close them all the time. So only who watches one may forget it, and what one round of
    epoll_wait(2) tells is nothing to whoever began to watch since.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._watched: dict[int, _Watched] = {}
        self._round = 0
        self._timers = Timers()
        self._posted: deque[Call] = deque()
        self._lock = threading.Lock()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="reactor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; watched fds stay their owners'."""
        self._stop = True
        self._poke()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def watch(
        self,
        fd: int,
        owner: object,
        callback: Callable[[int], None],
        events: int = select.EPOLLIN,
    ) -> None:
        """Call ``callback(events)`` whenever ``fd`` is ready, until ``owner`` forgets it."""
        with self._lock:
            self._watched[fd] = _Watched(owner, callback, self._round)
            try:
                self._epoll.register(fd, events)
            except FileExistsError:
                self._epoll.modify(fd, events)

    def forget(self, fd: int, owner: object) -> None:
        """Before ``fd`` is closed. Of no effect when ``owner`` does not watch it (any more)."""
        with self._lock:
            watched = self._watched.get(fd)
            if watched is None or watched.owner is not owner:
                return
            del self._watched[fd]
            try:
                self._epoll.unregister(fd)
            except (OSError, ValueError):
                pass

    def after(self, seconds: float, call: Call) -> Timer:
        """Run ``call`` on the reactor's thread in ``seconds``."""
        with self._lock:
            timer = self._timers.after(seconds, call)
            first = self._timers.is_first(timer)
        if first:
            self._poke()
        return timer

    def post(self, call: Call) -> None:
        """Run ``call`` soon on the reactor's thread."""
        self._posted.append(call)
        self._poke()

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        while not self._stop:
            self._round += 1
            for fd, events in self._epoll.poll(self._pause()):
                if fd == self._wake:
                    os.eventfd_read(self._wake)
                    continue
                watched = self._watched.get(fd)
                if watched is not None and watched.round < self._round:
                    self._safely(watched.callback, events)
            while self._posted:
                self._safely(self._posted.popleft())
            self._ring()

    def _pause(self) -> float | None:
        with self._lock:
            return self._timers.pause()

    def _ring(self) -> None:
        while True:
            with self._lock:
                call = self._timers.due()
            if call is None:
                return
            self._safely(call)

    @staticmethod
    def _safely(callback: Callable[..., None], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception:
            complain("the reactor")


class Worker:
    """One thread for what takes longer than the reactor may: removing trees, reading the kernel's
    log.
    """

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """After what is queued is done."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def do(self, call: Call) -> None:
        self._queue.put(call)

    def settle(self) -> None:
        """Return when everything queued before is done."""
        done = threading.Event()
        self._queue.put(done.set)
        done.wait()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except Exception:
                complain("a worker")
