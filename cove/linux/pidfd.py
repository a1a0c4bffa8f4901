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


def pid_of(pidfd: int) -> int:
    """In this process's pid namespace; 0 when it has been reaped or is not visible from here."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        for line in file:
            if line.startswith(b"Pid:"):
                return max(int(line.split()[1]), 0)
    return 0


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
