"""What comes with a call besides its parameters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    """A caller's foreground: the engine hands it to a monitor, or gives it back by an error.

    ``front`` is a SEQPACKET socket that speaks the session messages of ``init/cove.h``; who hands
    the session over duplicates it. ``stdio`` are the caller's fds or -1 (then everything is
    relayed).
    """

    front: int
    stdio: tuple[int, int, int]
    terminals: int
    """Bits 1, 2, 4: fd 0, 1, 2 is a terminal."""
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Call:
    """Every method of the engine is ``method(params, call)``; most ignore ``call``."""

    session: Session | None = None
    body: int = -1
    """fd of the bytes sent along (load, import): a file, a pipe, or a directory for an OCI layout.
    """
    sink: int = -1
    """fd that the bytes of a raw verb are written to: a pipe, a file, a socket."""
    cancelled: threading.Event | None = None
    """Set when the caller gave up: streams and waits end soon after, without an error."""
    tell: Callable[[str], None] | None = None
    """Says something to a caller in the foreground, whose verb has no answer."""
