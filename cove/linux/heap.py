"""The C library's heap of this process. Each thread would get an arena of its own (eight for each
CPU), and what two hundred threads freed for a moment stays in them for ever.
"""

from __future__ import annotations

import contextlib

from cove.linux.syscalls import call

M_ARENA_MAX = -8
"""mallopt(3)."""
ARENAS = 2
"""The interpreter's lock lets one thread allocate at a time, mostly."""


def bound_arenas() -> None:
    """Before any thread is there: arenas only become more."""
    with contextlib.suppress(AttributeError):  # a C library without them
        call("mallopt", M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """What was freed goes to the kernel; for idle moments: milliseconds, in which all wait."""
    with contextlib.suppress(AttributeError):
        call("malloc_trim", 0)
