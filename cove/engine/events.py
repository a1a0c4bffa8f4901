"""What happens to machines and images, published inside the daemon: ``wait``, ``events`` and the
API listen here.

Publishing never blocks; a listener that is slow keeps a queue of its own, and is told how much did
not fit into it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cove.engine.calls import MISSED, Event
from cove.errors import CoveError

KEPT = 1024
"""How many events of the past are kept for ``since``."""
WAITING = 1024
"""How many a listener may leave unread before it misses some."""
OF_IMAGES = frozenset(
    ("build", "delete", "import", "load", "pull", "push", "save", "tag", "untag")
)  # fmt: skip


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
    """One listener's queue of events. It holds ``WAITING`` of them, and a mark for the rest."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._missed = 0

    def put(self, event: Event) -> None:
        """Only one thread at a time does this (``Events.publish``)."""
        if self._queue.qsize() >= WAITING:
            with self._lock:
                self._missed += 1
            return
        mark = self._mark() if self._missed else None
        if mark is not None:
            self._queue.put(mark)
        self._queue.put(event)

    def _mark(self) -> Event | None:
        """What stands for the events that did not fit, told once."""
        with self._lock:
            count, self._missed = self._missed, 0
        if not count:
            return None
        return Event("listener", MISSED, "", {"count": str(count)}, time.time_ns())

    def wake(self) -> None:
        """Let ``get`` return None; whoever has events to read is awake."""
        if self._queue.qsize() < WAITING:
            self._queue.put(None)

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None: woken, or nothing in time."""
        if self._missed and self._queue.empty() and (mark := self._mark()) is not None:
            return mark
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
        self._order = threading.Lock()
        """Events are remembered, and reach every listener, in one order."""
        self.past: deque[Event] = deque(maxlen=KEPT)

    def publish(
        self,
        action: str,
        of: tuple[str, str, str],
        attributes: dict[str, str] | None = None,
        *,
        type: str = "",
    ) -> None:
        """``of``: the id, name and image the event is about. ``type`` goes without saying for
        machines, and for what is done to images only.
        """
        kind = type or ("image" if action in OF_IMAGES else "container")
        whole = dict(attributes or {}) | ({"name": of[1]} if of[1] else {})
        if kind == "container":
            whole["image"] = of[2]
        with self._order:
            event = Event(kind, action, of[0], whole, time.time_ns())
            self.past.append(event)
            for listener in self._listeners:
                listener.put(event)

    @contextmanager
    def follow(self) -> Iterator[tuple[Subscription, tuple[Event, ...]]]:
        """What is remembered, and a queue of all that happens from there on."""
        with self._order:
            mine, past = Subscription(), tuple(self.past)
            self._add(mine)
        try:
            yield mine, past
        finally:
            self._drop(mine)

    @contextmanager
    def subscribe(self, listener: Subscription | None = None) -> Iterator[Subscription]:
        """Hear everything published while inside."""
        mine = listener or Subscription()
        self._add(mine)
        try:
            yield mine
        finally:
            self._drop(mine)

    def _add(self, mine: Subscription) -> None:
        with self._lock:
            self._listeners = (*self._listeners, mine)

    def _drop(self, mine: Subscription) -> None:
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
