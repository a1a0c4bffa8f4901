"""Which machine a refused system call belongs to, and its name."""

from __future__ import annotations

from functools import partial

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.ranges import RANGE_BASE, RANGE_SIZE
from cove.planner.seccomp.numbers import name_of

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
        home.reactor.watch(home.audit.fileno(), home, lambda events: drain(home))


def _one_of(lives: list[Live], pid: int) -> Live | None:
    """Of machines that share their ids, the one that the process is in, if it is still there."""
    if len(lives) < 2:
        return lives[0] if lives else None
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            groups = {line.rpartition("/")[2].rstrip() for line in file}
    except OSError:
        return None
    found = (live for live in lives if live.group is not None and live.group.name in groups)
    return next(found, None)


def drain(home: Home) -> None:
    """Note what the kernel has told since the last call."""
    if home.audit is None:
        return
    found = home.audit.read(FLOOD)
    if not found:
        return
    if len(found) == FLOOD:
        home.reactor.forget(home.audit.fileno(), home)
        home.reactor.after(REST, partial(listen, home))
    by_range: dict[int, list[Live]] = {}
    for one in home.lives.values():
        by_range.setdefault(one.id_range, []).append(one)
    for refusal in found:
        index = (refusal.uid - RANGE_BASE) // RANGE_SIZE
        live = _one_of(by_range.get(index, []) if index >= 0 else [], refusal.pid)
        if live is not None and len(live.refused) < MOST:
            live.refused[name_of(refusal.arch, refusal.syscall)] = None
