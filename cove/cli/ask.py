"""A question before something is removed, in Docker's words and with its answers.

A daemon must not read its caller's terminal: that eats what is typed after Ctrl-Z. So where the
answer would come from one, the front is told to carry the command out itself (``ELSEWHERE``).
"""

from __future__ import annotations

import os
import select

from cove.cli.terminal import Gone, Terminal

ELSEWHERE = -2
"""The exit code that sends a front to HTTP: the same command, in a process of the caller's own."""


def must_go_elsewhere(terminal: Terminal) -> bool:
    """Whether the answer would be read from a terminal that is not this process's own. Then the
    command does nothing but return ``ELSEWHERE``.
    """
    return terminal.session is not None and terminal.is_terminal(0)


def confirmed(terminal: Terminal, warning: str) -> bool:
    """Whether the caller says yes; the end of the input is a no."""
    terminal.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    return _line(terminal).strip().lower() == "y"


def _line(terminal: Terminal) -> str:
    """One line of the caller's input, without the bytes after it, which may be for others."""
    fd, data = terminal.fds[0], bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not data.endswith(b"\n") and len(data) < 1024:
        if terminal.cancelled.is_set():
            raise Gone(130)
        if poll.poll(250):
            try:
                byte = os.read(fd, 1)
            except BlockingIOError:
                continue
            if not byte:
                break
            data += byte
    return data.decode("utf-8", "replace")
