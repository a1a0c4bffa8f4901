"""The HTTP socket before anybody connects to it: aiohttp costs 300 ms and 20 MiB, which most
daemons
never need.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from cove.engine.engine import Engine
from cove.engine.reactor import complain

if TYPE_CHECKING:
    from cove.daemon.http import Server


class Api:
    """``run/api.sock``; the server behind it starts with the first connection."""

    def __init__(self, listener: socket.socket, engine: Engine) -> None:
        self._listener, self._engine = listener, engine
        self._server: Server | None = None
        self._lock = threading.Lock()

    def open(self) -> None:
        self._engine.home.reactor.watch(self._listener.fileno(), self._wanted)

    def close(self) -> None:
        self._engine.home.reactor.forget(self._listener.fileno())
        with self._lock:
            if self._server is not None:
                self._server.close()  # and the listener with it
            else:
                self._listener.close()

    def _wanted(self, events: int) -> None:
        self._engine.home.reactor.forget(self._listener.fileno())
        threading.Thread(target=self._serve, name="http", daemon=True).start()

    def _serve(self) -> None:
        try:
            from cove.daemon.http import Server

            server = Server(self._engine, self._listener)
            with self._lock:
                self._server = server
            server.run()
        except Exception:
            complain("the HTTP server")
