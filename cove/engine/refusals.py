"""Which machine a refused system call belongs to, and its name."""

from __future__ import annotations

from cove.engine.home import RANGE_BASE, RANGE_SIZE, Home
from cove.planner.syscalls import name_of

MOST = 16
"""Names kept for one machine; a program that tries hundreds is not explained better by more."""


def drain(home: Home) -> None:
    """Note what the kernel has told since the last call."""
    if home.audit is None:
        return
    found = home.audit.read()
    if not found:
        return
    by_range = {live.id_range: live for live in home.lives.values() if live.id_range >= 0}
    for refusal in found:
        live = by_range.get((refusal.uid - RANGE_BASE) // RANGE_SIZE)
        if live is not None and len(live.refused) < MOST:
            live.refused[name_of(refusal.arch, refusal.syscall)] = None
