"""What a daemon holds of a machine's published ports while it lives. Only memory."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field

from cove.executor.relay import Relay


@dataclass(slots=True, eq=False)
class Served:
    lock: threading.RLock = field(default_factory=threading.RLock)
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    """Those that listen and that no relay has yet, by the port's id."""
    relay: Relay | None = None
    over: bool = False
    """The machine is put away: nothing is opened any more."""
    losses: int = 0
    """Relays that went before the machine did."""

    def close_sockets(self) -> None:
        while self.sockets:
            self.sockets.popitem()[1].close()
