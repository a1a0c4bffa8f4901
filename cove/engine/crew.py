"""A few threads for work that waits, as starts by restart policies: a thousand pieces of work that
are due at once take no thousand threads, and none when nothing is to be done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from cove.engine.reactor import complain

Call = Callable[[], None]


class Crew:
    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._waiting: deque[Call] = deque()
        self._threads = 0
        self._lock = threading.Lock()
        self._closed = False

    def do(self, call: Call) -> None:
        """Soon, on a thread of the crew's."""
        with self._lock:
            if self._closed:
                return
            self._waiting.append(call)
            if self._threads >= self._most:
                return
            self._threads += 1
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        """What is not begun never is."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                call = self._waiting.popleft()
            try:
                call()
            except Exception:
                if not self._closed:
                    complain(f"the {self._name}")
