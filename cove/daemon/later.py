"""The HTTP sockets before anybody connects to one: aiohttp costs 300 ms and 20 MiB, which most
daemons never need.
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
    """``run/api.sock``, and Docker's; the server behind them starts with the first connection."""

    def __init__(self, own: socket.socket, docker: socket.socket, engine: Engine) -> None:
        self._own, self._docker, self._engine = own, docker, engine
        self._server: Server | None = None
        self._lock = threading.Lock()
        self._begun = False

    def open(self) -> None:
        for listener in (self._own, self._docker):
            self._engine.home.reactor.watch(listener.fileno(), self, self._wanted)

    def close(self) -> None:
        self._forget()
        with self._lock:
            if self._server is not None:
                self._server.close()  # and the listeners with it
            else:
                self._own.close()
                self._docker.close()

    def _forget(self) -> None:
        for listener in (self._own, self._docker):
            self._engine.home.reactor.forget(listener.fileno(), self)

    def _wanted(self, events: int) -> None:
        self._forget()
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._serve, name="http", daemon=True).start()

    def _serve(self) -> None:
        try:
            from cove.daemon.http import Server

            server = Server(self._engine, self._own, self._docker)
            with self._lock:
                self._server = server
            server.run()
        except Exception:
            complain("the HTTP server")
