"""One command line in a process of its own, over a daemon's HTTP socket: what ``cove-python`` does
when the fast way is not for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cove.cli.main import main as run_command
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.client.place import socket_path
from cove.client.transport import Http
from cove.errors import CoveError


def main(argv: Sequence[str], root: str) -> int:
    """Carry ``argv`` out against the daemon of ``root``, or that of ``COVE_HOST``."""
    try:
        client = Client(Http(socket_path(os.environ.get("COVE_HOST", ""), root)))
    except CoveError as error:
        os.write(2, error.render().encode())
        return error.exit_code
    try:
        return run_command(argv, own_terminal(), client) or 0
    except KeyboardInterrupt:
        return 130


def own_terminal() -> Terminal:
    """This process's own fds, directory and environment."""
    terminals, rows, columns = 0, 0, 0
    for fd in (0, 1, 2):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        terminals |= 1 << fd
        if not columns:
            rows, columns = size.lines, size.columns
    umask = os.umask(0o022)
    os.umask(umask)
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = ""
    return Terminal(
        fds=(0, 1, 2),
        terminals=terminals,
        rows=rows,
        columns=columns,
        cwd=cwd,
        env=dict(os.environ),
        umask=umask,
        ids=(os.geteuid(), os.getegid()),
    )
