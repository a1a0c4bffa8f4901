"""Pages of browsers: one that somebody opened, who has a certificate of this daemon's authority,
could ask for machines in his name, and need not read the answer. Browsers say so: ``Origin``.

Only of what came by TLS: no page reaches a unix socket, and a program that serves pages there
(Portainer) hands their headers on.
"""

from __future__ import annotations

import os
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Mapping

from cove.errors import CoveError, printable

PEER = struct.Struct("=iII")


class FromPage(CoveError):
    """What a page in a browser asks for."""

    status = 403


def refuse_pages(headers: Mapping[str, str], transport: BaseTransport | None) -> None:
    origin = headers.get("Origin")
    if origin is not None and transport is not None and _by_tls(transport):
        raise FromPage(
            f"cannot serve a page of a browser: the request comes from {printable(origin[:200])}",
            hint="leave the header Origin out",
        )


def _by_tls(transport: BaseTransport) -> bool:
    """Its other end is this daemon's own: ``daemon/tls.py`` has it."""
    peer = transport.get_extra_info("socket")
    if peer is None:
        return True
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    return bool(PEER.unpack(data)[0] == os.getpid())
