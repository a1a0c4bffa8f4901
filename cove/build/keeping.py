"""What of the build cache goes when there is too much of it. Pure.

The words and their sum are BuildKit's: at most so much, less where the disk is nearly full, but
never less than what is reserved.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that only the cache has, or a cache mount."""

    name: str
    size: int
    used: float
    created: float
    held: bool = False
    """A build that runs has it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes; 0: none."""

    reserved: int = 0
    """What the cache may always keep."""
    most: int = 0
    """What it may keep at most."""
    free: int = 0
    """What shall be free on the disk."""
    older: float = 0.0
    """Seconds for which something has not been used, before it goes."""

    def __bool__(self) -> bool:
        """It may keep something."""
        return bool(self.reserved or self.most or self.free)

    def keep(self, total: int, free: int) -> int:
        """How many bytes of ``total`` stay when so many are ``free``."""
        if not self:
            return 0
        keep = self.most or total
        if self.free > free:
            keep = min(keep, total - (self.free - free))
        return max(keep, self.reserved)


def doomed(things: Iterable[Kept], limits: Limits, *, now: float, free: int) -> list[Kept]:
    """What was used longest ago goes first; of one build's, what stands on others."""
    every = list(things)
    total = sum(one.size for one in every)
    keep = limits.keep(total, free)
    found = []
    for one in sorted(every, key=lambda one: (one.used, -one.created, one.name)):
        if limits and total <= keep:
            break
        # Without an age even what a clock that was set back has used in the future.
        if not one.held and (not limits.older or now - one.used >= limits.older):
            found.append(one)
            total -= one.size
    return found
