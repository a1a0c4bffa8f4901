"""Who connects to a socket in a guest (``listen`` of its plan), as the host takes him: each by a
channel of his own. What is behind that is a hostile machine's: bytes, within the channel's window.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections import deque

from cove.engine.home import Home
from cove.engine.vms.virtual import connect_hub
from cove.errors import HostError

HEAD = struct.Struct("<IiII")
"""``struct msg`` of ``init/cove.h``."""
ACCEPT, ACCEPTED = 104, 114
INPUT, INPUT_EOF, TAKEN = 33, 34, 120
FRAME_MAX, WINDOW = 7680, 16
AGAIN = 0.1
"""Seconds until one more is asked for by whom the guest had no channel for."""


class GuestSocket:
    """As a socket that listens, for one thread; another one may shut it down."""

    def __init__(self, home: Home, key: int, number: int) -> None:
        self._home, self._key, self._number = home, key, number
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._asking: socket.socket | None = None

    def accept(self) -> tuple[GuestVisitor, None]:
        """
        Raises:
            OSError: it was shut down.
        """
        while not self._over.is_set():
            sock = self._ask()
            if sock is not None and _is_accepted(sock):
                with self._lock:
                    self._asking = None
                return GuestVisitor(sock), None
            if sock is not None:
                with self._lock:
                    self._asking = None
                    sock.close()
            self._over.wait(AGAIN)
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def _ask(self) -> socket.socket | None:
        """None: the guest has ended, or it is busy."""
        try:
            sock = socket.socket(fileno=connect_hub(self._home, self._key))
        except HostError:
            return None
        with self._lock:
            if self._over.is_set():
                sock.close()
                return None
            self._asking = sock
        try:
            sock.send(HEAD.pack(ACCEPT, self._number, 0, 0))
        except OSError:
            pass  # it is found at once that nobody answers
        return sock

    def shutdown(self, how: int) -> None:
        with self._lock:
            self._over.set()
            if self._asking is not None:
                self._asking.shutdown(how)

    def close(self) -> None:
        """After the last ``accept``."""


def _is_accepted(sock: socket.socket) -> bool:
    try:
        message = sock.recv(HEAD.size)
    except OSError:
        return False
    return len(message) == HEAD.size and HEAD.unpack(message)[0] == ACCEPTED


class GuestVisitor:
    """A stream, as a connected socket is one. Each side sends no more than a window ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._came: deque[bytes] = deque()
        self._rest = b""
        self._ended = False
        self._room = WINDOW

    def recv(self, size: int) -> bytes:
        """
        Raises:
            EOFError: the guest does not keep to the rules, or has ended.
        """
        while not self._rest:
            if self._came:
                self._rest = self._came.popleft()
                self._say(TAKEN, 1)
            elif self._ended:
                return b""
            else:
                self._hear()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def sendall(self, data: bytes) -> None:
        for at in range(0, len(data), FRAME_MAX):
            while not self._room:
                self._hear()
            self._room -= 1
            self._say(INPUT, 0, data[at : at + FRAME_MAX])

    def _say(self, kind: int, value: int, data: bytes = b"") -> None:
        self._sock.send(HEAD.pack(kind, value, len(data), 0) + data)

    def _hear(self) -> None:
        message = self._sock.recv(HEAD.size + FRAME_MAX)
        if len(message) < HEAD.size:
            raise EOFError
        kind, value, _, _ = HEAD.unpack_from(message)
        if kind == INPUT and len(self._came) < WINDOW and not self._ended:
            self._came.append(message[HEAD.size :])
        elif kind == TAKEN and 0 <= value <= WINDOW - self._room:
            self._room += value
        elif kind == INPUT_EOF:
            self._ended = True
        else:
            raise EOFError

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()
