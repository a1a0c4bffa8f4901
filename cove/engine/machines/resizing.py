"""The size of a terminal that nobody of the caller's is attached to by a front."""

from __future__ import annotations

import socket
import struct

from cove.engine.home import Home
from cove.engine.machines.stopping import running
from cove.errors import Conflict, HostError, UsageError
from cove.executor.messages import Kind, send
from cove.store.records import MachineRecord

SIZE = struct.Struct("<HH")
MOST = 65535


def resize(home: Home, record: MachineRecord, rows: int, columns: int) -> None:
    live = running(home, record)
    if live is None or live.ctl is None or not live.started:
        raise Conflict(f"cannot resize the terminal of {record.name}: it is not running")
    tell_size(live.ctl, record.name, rows, columns)


def tell_size(ctl: socket.socket, name: str, rows: int, columns: int) -> None:
    if not (0 <= rows <= MOST and 0 <= columns <= MOST):
        raise UsageError(f"cannot resize the terminal of {name} to {columns}x{rows}")
    try:
        send(ctl, Kind.RESIZE, payload=SIZE.pack(rows, columns))
    except OSError as error:
        raise HostError(f"cannot resize the terminal of {name}: its monitor is gone") from error
