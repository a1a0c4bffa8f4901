"""What happens to machines, published inside the daemon: ``wait`` and the API listen here.

Publishing never blocks; a listener that is slow only keeps its own queue.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from cove.errors import CoveError

KEPT = 1024
"""How many events of the past are kept for ``since``."""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened, with the time in nanoseconds."""

    kind: str
    """create, start, die, kill, stop, oom, destroy, exec_start, exec_die, attach, import, load,
    delete.
    """
    id: str
    name: str
    image: str
    time_ns: int
    attributes: dict[str, str] = {}


class Cancelled(CoveError):
    """The caller went away or interrupted the command."""

    exit_code = 130
    status = 499


class Cancel(threading.Event):
    """Set when the caller goes away or interrupts; runs what waits for that."""

    def __init__(self) -> None:
        super().__init__()
        self._then: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock:
            super().set()
            waiting, self._then = self._then, []
        for callback in waiting:
            callback()

    @contextmanager
    def then(self, callback: Callable[[], None]) -> Iterator[None]:
        """While inside: run ``callback`` once when cancelled (at once when it already was)."""
        with self._lock:
            late = super().is_set()
            if not late:
                self._then.append(callback)
        if late:
            callback()
        try:
            yield
        finally:
            with self._lock:
                if callback in self._then:
                    self._then.remove(callback)


class Subscription:
    """One listener's queue of events."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        self._queue.put(event)

    def wake(self) -> None:
        """Let ``get`` return None."""
        self._queue.put(None)

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None: woken, or nothing in time."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None


class Bell(Subscription):
    """A listener that is waited for together with other descriptors: ``fileno`` is readable once
    something happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._open = threading.Lock()
        """A publisher may still have it in its list when it is closed, and the number be another
        file's by then.
        """

    def fileno(self) -> int:
        return self._fd

    def put(self, event: Event) -> None:
        self.wake()

    def wake(self) -> None:
        with self._open:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._open:
            os.close(self._fd)
            self._fd = -1


class Events:
    """Everything that happened lately, and who listens."""

    def __init__(self) -> None:
        self._listeners: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()
        self.past: deque[Event] = deque(maxlen=KEPT)

    def publish(
        self,
        kind: str,
        of: tuple[str, str, str],
        attributes: dict[str, str] | None = None,
    ) -> None:
        """``of``: the id, name and image the event is about."""
        event = Event(kind, of[0], of[1], of[2], time.time_ns(), attributes or {})
        self.past.append(event)
        for listener in self._listeners:
            listener.put(event)

    @contextmanager
    def subscribe(self, listener: Subscription | None = None) -> Iterator[Subscription]:
        """Hear everything published while inside."""
        mine = listener or Subscription()
        with self._lock:
            self._listeners = (*self._listeners, mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._listeners = tuple(s for s in self._listeners if s is not mine)

    def nudge(self) -> None:
        """Let every listener look again, although nothing is worth an event."""
        for listener in self._listeners:
            listener.wake()

    def wait_until(
        self,
        done: Callable[[], bool],
        *,
        cancelled: threading.Event | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Return True once ``done()`` holds, which is asked again after every event; False: too
        late.
        """
        if done():
            return True
        with self.subscribe() as mine:
            if isinstance(cancelled, Cancel):
                with cancelled.then(mine.wake):
                    return _until(done, mine, cancelled, timeout)
            return _until(done, mine, cancelled, timeout)


def _until(
    done: Callable[[], bool],
    mine: Subscription,
    cancelled: threading.Event | None,
    timeout: float | None,
) -> bool:
    late = None if timeout is None else time.monotonic() + timeout
    look = None if cancelled is None or isinstance(cancelled, Cancel) else 0.1
    while not done():
        if cancelled is not None and cancelled.is_set():
            raise Cancelled("interrupted")
        left = None if late is None else late - time.monotonic()
        if left is not None and left <= 0:
            return False
        mine.get(look if left is None else left if look is None else min(left, look))
    return True
