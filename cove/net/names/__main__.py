"""``python -m cove.net.names ROOT``: 3 is the daemon's socket, 4 is where the next one comes."""

from __future__ import annotations

import os
import socket

from cove.net.names.server import Server, drop_rights, raise_limit

DAEMON_FD, LISTENER_FD = 3, 4


def main() -> None:
    os.chdir("/")
    daemon, listener = (socket.socket(fileno=fd) for fd in (DAEMON_FD, LISTENER_FD))
    for sock in (daemon, listener):
        sock.set_inheritable(False)
    listener.setblocking(False)
    server = Server(daemon, listener)
    raise_limit()
    if os.geteuid() == 0:
        drop_rights()
    server.run()


main()
