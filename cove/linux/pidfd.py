"""Processes by descriptor, so that a number used again is never signalled."""

from __future__ import annotations

import os
import select
import signal


def open_pidfd(pid: int) -> int | None:
    """None: no such process."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def send_signal(pidfd: int, number: int) -> bool:
    """False: it has ended."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def wait_exit(pidfd: int, timeout: float | None) -> bool:
    """Whether the process ended within ``timeout`` seconds; None waits without end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))
