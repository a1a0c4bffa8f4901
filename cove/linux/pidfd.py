"""Processes by descriptor: a number may be used again."""

from __future__ import annotations

from cove.linux.ready import readable


def wait_exit(pidfd: int, timeout: float | None) -> bool:
    """Whether the process ended within ``timeout`` seconds; None waits without end."""
    return readable(pidfd, timeout)
