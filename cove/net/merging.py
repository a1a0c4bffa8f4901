"""Packets of several links in the order of their times: each link tells of its own in order, but
not at the same moment as the others. Pure: clocks are arguments.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

Packet = tuple[int, int, bytes]
"""Nanoseconds, length on the wire, its beginning."""

WINDOW = 20_000_000
"""Nanoseconds that a packet may take from its time to where it can be read."""
PATIENCE = 1_000_000_000
"""Nanoseconds that one is held at most, whatever the clock that gives times does meanwhile."""
MOST = 1024
"""Packets of a link that are held; what comes then stays with the kernel."""


class Merge:
    """What was read, until nothing older can come."""

    def __init__(self, links: Iterable[int]) -> None:
        self._known = dict.fromkeys(links, 0)
        """By link: nothing that comes from it is older."""
        self._held: list[tuple[Packet, int, int]] = []
        """Of which link, and since when."""
        self._count: Counter[int] = Counter()

    def wanted(self, link: int) -> bool:
        """Whether there is room for more of it."""
        return self._count[link] < MOST

    def waits(self) -> bool:
        return bool(self._held)

    def take(self, link: int, packets: Iterable[Packet], *, since: int) -> None:
        for packet in packets:
            heapq.heappush(self._held, (packet, link, since))
            self._count[link] += 1
            self._known[link] = max(self._known[link], packet[0])

    def drained(self, link: int, now: int) -> None:
        """It had no more at this time of its own clock."""
        self._known[link] = max(self._known[link], now - WINDOW)

    def end(self, link: int) -> None:
        del self._known[link]

    def ready(self, now: int) -> list[Packet]:
        """Those whose turn it is. ``now``: of the clock of ``since``."""
        found: list[Packet] = []
        known = min(self._known.values()) if len(self._known) > 1 else None
        while self._held:
            packet, link, since = self._held[0]
            if known is not None and packet[0] > known and now - since < PATIENCE:
                break
            heapq.heappop(self._held)
            self._count[link] -= 1
            found.append(packet)
        return found

    def rest(self) -> list[Packet]:
        """All that are held: nothing comes any more."""
        found = [packet for packet, _, _ in sorted(self._held)]
        self._held.clear()
        self._count.clear()
        return found
