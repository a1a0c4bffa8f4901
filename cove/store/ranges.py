"""Who has which range of ids: a machine of its own, or several that share one (``--network
container:NAME``). Only memory: records say it.
"""

from __future__ import annotations

RANGES = 4096
"""Of 64 Ki ids each, from ``engine.ranges.RANGE_BASE`` on."""


class Ranges:
    def __init__(self) -> None:
        self._holders: dict[int, list[int]] = {}
        """By index, keys of machines; the first one took it."""
        self._next = 0

    def hold(self, index: int, key: int) -> None:
        holders = self._holders.setdefault(index, [])
        if key not in holders:
            holders.append(key)

    def take(self, key: int) -> int:
        """One that nobody holds; -1: there is none. The least recently tried one is next, so that
        ids are not given to a new machine at once.
        """
        for step in range(RANGES):
            index = (self._next + step) % RANGES
            if index not in self._holders:
                self._holders[index] = [key]
                self._next = index + 1
                return index
        return -1

    def share(self, index: int, key: int, *, of: int) -> bool:
        """False: that machine has it no more."""
        if of not in self._holders.get(index, ()):
            return False
        self.hold(index, key)
        return True

    def free(self, key: int) -> None:
        """It is somebody else's only when the last one has given it back."""
        for index in [i for i, holders in self._holders.items() if key in holders]:
            self._holders[index].remove(key)
            if not self._holders[index]:
                del self._holders[index]

    def held(self) -> dict[int, int]:
        """Those that are held, with the first of their machines."""
        return {index: holders[0] for index, holders in self._holders.items()}
