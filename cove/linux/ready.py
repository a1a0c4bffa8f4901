"""Whether a descriptor is ready, by poll(2): select(2) knows no number above 1023, and a daemon has
thousands.
"""

from __future__ import annotations

import select


def readable(fd: int, seconds: float | None) -> bool:
    """Whether there is something to be read, or the end, within ``seconds``; None waits without
    end.
    """
    return _ready(fd, select.POLLIN, seconds)


def wait_writable(fd: int) -> None:
    _ready(fd, select.POLLOUT, None)


def _ready(fd: int, events: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
