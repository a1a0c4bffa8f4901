"""The host's ids of a machine's root, by the index of its range."""

from __future__ import annotations

RANGE_BASE = 1879048192
RANGE_SIZE = 65536
RELAY_ID = RANGE_BASE + RANGE_SIZE * 4096
"""Behind all ranges: nobody's but of those who carry for published ports."""


def range_base(index: int) -> int:
    """0 for a machine without a range: its ids are the host's."""
    return RANGE_BASE + RANGE_SIZE * index if index >= 0 else 0
