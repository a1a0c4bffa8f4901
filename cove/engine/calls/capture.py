"""Packets of a network, or of a machine's links."""

from __future__ import annotations

import msgspec

SNAPLEN = 262144


class NetworkCapture(msgspec.Struct, frozen=True):
    target: str
    """Name or id of a network or a machine."""
    count: int = 0
    """So many packets; 0: until the caller has enough."""
    snaplen: int = SNAPLEN
    """Bytes that are kept of each."""
    only_look: bool = False
    """Say what would be captured."""


class Captured(msgspec.Struct, frozen=True):
    name: str
    links: tuple[str, ...]
    """Names of the host's links that were looked at."""
    packets: int = 0
    drops: int = 0
    """Packets that came faster than they were written."""
    ended: str = ""
    """``link``: what was looked at is gone."""
