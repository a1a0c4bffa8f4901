"""What serves a virtual machine's directories, while it runs: without it the guest waits for good
in what it does there, so that the machine is ended, with that cause.

It is found by its group and its name, by any daemon. That it has ended says nothing yet: it does
so whenever the emulator has. Only a machine that goes on without it has lost it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from cove.engine.home import Home
from cove.engine.live import Live
from cove.planner.virtual.file_server import PROGRAMS
from cove.spec.machine import MachineSpec
from cove.spec.volume import is_disk

LEAVING = 10.0
"""Seconds that a machine which ends may take to say so after its server has, if
``COVE_VM_LEAVING`` does not say otherwise."""
NAME_MAX = 15
"""Of a process, in procfs."""


def is_served(home: Home, spec: MachineSpec) -> bool:
    """Some of its mounts are directories that the host shares."""
    for mount in spec.mounts:
        held = home.store.volume(mount.source) if mount.type == "volume" else None
        if mount.type == "tmpfs" or mount.socket:
            continue
        if not (held is not None and is_disk(held.options)):
            return True
    return False


def watch(home: Home, live: Live, spec: MachineSpec, *, lost: Callable[[], None]) -> None:
    """``lost`` is called, by a worker, if the machine runs on when nobody serves it any more."""
    if not is_served(home, spec) or live.group is None:
        return
    servers = list(_servers(home.groups.pids(live.group)))
    gone = partial(_gone, home, live, lost)
    if not servers:
        gone()
    for fd in servers:
        home.reactor.watch(fd, live, partial(_ended, home, live, fd, gone))
        live.closers.append(partial(_close, home, live, fd))


def _servers(pids: list[int]) -> Iterator[int]:
    """Their pidfds."""
    names = {os.path.basename(path)[:NAME_MAX] for path in PROGRAMS}
    for pid in pids:
        with suppress(OSError):
            fd = os.pidfd_open(pid)
            try:
                found = Path(f"/proc/{pid}/comm").read_text().strip() in names
            except BaseException:
                os.close(fd)
                raise
            if found:
                yield fd
            else:
                os.close(fd)


def _ended(home: Home, live: Live, fd: int, gone: Callable[[], None], events: int) -> None:
    home.reactor.forget(fd, live)
    gone()


def _close(home: Home, live: Live, fd: int) -> None:
    home.reactor.forget(fd, live)
    os.close(fd)


def _gone(home: Home, live: Live, lost: Callable[[], None]) -> None:
    def decide() -> None:
        if not live.over and live.ended is None and not live.asked:
            lost()

    live.timers.append(home.reactor.after(_leaving(), partial(home.worker.do, decide)))


def _leaving() -> float:
    """What cannot be read is the default."""
    text = os.environ.get("COVE_VM_LEAVING", "")
    return float(text) if text.isdigit() and int(text) else LEAVING
