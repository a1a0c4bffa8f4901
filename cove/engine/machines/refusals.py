"""Which machine a refused system call belongs to, and its name."""

from __future__ import annotations

from functools import partial

from cove.engine.home import Home
from cove.engine.ranges import RANGE_BASE, RANGE_SIZE
from cove.planner.syscalls import name_of

MOST = 16
"""Names kept for one machine; a program that tries hundreds is not explained better by more."""


FLOOD = 1024
"""Records at once that only a program in a loop of refused calls makes."""
REST = 0.25
"""Seconds in which a flood is left to the kernel, which drops what finds no room: what is told in
it is known already, and other machines need the processor.
"""


def listen(home: Home) -> None:
    """Read records as they come."""
    if home.audit is not None and not home.closing:
        home.reactor.watch(home.audit.fileno(), lambda events: drain(home))


def drain(home: Home) -> None:
    """Note what the kernel has told since the last call."""
    if home.audit is None:
        return
    found = home.audit.read(FLOOD)
    if not found:
        return
    if len(found) == FLOOD:
        home.reactor.forget(home.audit.fileno())
        home.reactor.after(REST, partial(listen, home))
    by_range = {live.id_range: live for live in home.lives.values() if live.id_range >= 0}
    for refusal in found:
        live = by_range.get((refusal.uid - RANGE_BASE) // RANGE_SIZE)
        if live is not None and len(live.refused) < MOST:
            live.refused[name_of(refusal.arch, refusal.syscall)] = None
