"""What runs in this daemon, and how it is given to another one: a daemon of an older build makes
way for the next when a newer front asks (SIGHUP), and nobody's command is lost by that.

Sessions are with their monitors already. Commands that can be begun again, or know where they are,
go on in the next daemon: their front is told so, with the place, and asks there. The others have a
bounded time to end.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cove.cli.terminal import Terminal
from cove.executor.messages import HEADER, Kind
from cove.linux.program import is_older

ELSEWHERE = -3
"""A front's exit code: ask another daemon, from where the text says. (The same as to a front whose
protocol is unknown here: then too another daemon has to be there first.)
"""
CUT = "cove: the daemon was replaced by a newer one in the middle of this command\n"


class Running:
    """Who waits for an answer, by connection; None: a program's call."""

    def __init__(self, stamp: str) -> None:
        self._stamp = stamp
        self._leaving = False
        self._callers: dict[socket.socket, Terminal | None] = {}
        self._changed = threading.Condition()

    def refuses(self, stamp: str) -> bool:
        """Whether a caller of this build is sent to another daemon."""
        return self._leaving or is_older(self._stamp, stamp)

    @contextmanager
    def caller(self, conn: socket.socket, terminal: Terminal | None) -> Iterator[bool]:
        """While a command runs; False: none is begun any more."""
        with self._changed:
            if self._leaving:
                yield False
                return
            self._callers[conn] = terminal
        try:
            yield True
        finally:
            with self._changed:
                self._callers.pop(conn, None)
                self._changed.notify_all()

    def leave(self, listener: socket.socket, seconds: float) -> None:
        """The socket's path is gone: nobody comes any more."""
        with self._changed:
            self._leaving = True
        listener.setblocking(False)
        while True:  # whoever had connected before
            try:
                conn, _ = listener.accept()
            except OSError:
                break
            answer(conn, ELSEWHERE)
            conn.close()
        with self._changed:
            for terminal in self._callers.values():
                if terminal is not None:
                    terminal.leave()
            self._changed.wait_for(lambda: not self._callers, seconds)
            for conn, terminal in self._callers.items():
                if terminal is not None:
                    answer(conn, 125, CUT)


def answer(conn: socket.socket, code: int, text: str = "") -> None:
    """The exit code for a front, and what it writes to stderr or is to remember."""
    data = text.encode("utf-8", "replace")
    try:
        conn.send(HEADER.pack(Kind.EXIT, code, len(data), 0) + data)
    except OSError:
        pass  # the front is gone
