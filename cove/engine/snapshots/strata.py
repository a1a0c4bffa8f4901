"""What a container wrote, made into a layer that others can stand on: the half of snapshots, forks
and restores that is about file systems. That of virtual machines' disks has its place beside it.

A machine's record names its writable layer, and those below that it began with. One that does not
run gives its layer away by a change of records alone, and gets an empty one above it; of one that
runs a copy is made while it stands still. The records change in one transaction, with that of the
snapshot: a daemon that is killed leaves the machine as it was or as it is to be, and at most a
directory that no record names.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

from cove.engine import uppers
from cove.engine.calls import Call
from cove.engine.events import Cancelled
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines.stopping import running
from cove.engine.snapshots import disks
from cove.engine.visits.commit import frozen
from cove.engine.visits.visits import settled
from cove.errors import Conflict, HostError
from cove.linux.disk import free_space
from cove.roots import is_blank, prepare_root, usage
from cove.store.lock import ROOM
from cove.store.records import MachineRecord, SnapshotRecord, StratumRecord

DEPTH = 64
"""Layers that a machine may stand on above its image; more become one, by a copy."""
SPARE = 64 << 20
"""Bytes that a copy leaves free on the disk."""

Write = Callable[[tuple[int, ...]], None]
"""Writes who stands on these layers from now on, within the transaction that makes them layers."""


def take(
    home: Home, record: MachineRecord, call: Call, write: Write, *, pause: bool, what: str
) -> None:
    """Make layers of what the machine is now, and have it written who stands on them."""
    while True:
        live = settled(home, record)
        now = home.record(record.key)
        if call.cancelled is not None and call.cancelled.is_set():
            raise Cancelled("interrupted")
        with contextlib.suppress(_Changed), contextlib.ExitStack() as stack:
            below = now.strata
            if len(below) >= DEPTH:
                below = (
                    stack.enter_context(uppers.copied(home, below, _views(home, now), call, what)),
                )
            if live is not None:
                return _take_running(home, now, live, call, write, below, pause, what)
            return _take_stopped(home, now, write, below)


class _Changed(Exception):
    """It runs by now, or does not any more: what was begun is begun anew."""


def _record(home: Home, keys: tuple[int, ...], old: tuple[int, ...]) -> None:
    for key in keys:
        if key not in old:
            home.store.put_stratum(StratumRecord(key, time.time()))


# ---- one that does not run ----


def _take_stopped(home: Home, record: MachineRecord, write: Write, below: tuple[int, ...]) -> None:
    views, old = _views(home, record), record.upper
    with _alone(home, record):
        if _blank(home, record, views):
            with home.store.transaction():
                _record(home, below, record.strata)
                home.update(record.key, strata=below)
                write(below)
        else:
            strata = (*below, old)
            with _fresh(home, views, above=old) as fresh, home.store.transaction():
                _record(home, strata, record.strata)
                home.update(record.key, strata=strata, own=fresh)
                write(strata)
            _drop_work(home, old)
    if below != record.strata:
        uppers.prune(home)


@contextlib.contextmanager
def _alone(home: Home, record: MachineRecord) -> Iterator[None]:
    """It does not run, nobody is in its root, and so it stays: a layer that is mounted for writing
    is nobody's lower one. Who removes a machine waits for its visitors under ``home.lock``: nobody
    may wait for that lock as one of them.
    """
    while True:
        home.visits.end(record.key)
        with home.lock:
            lock = home.visits.alone(record.key)
            if not lock.acquire(blocking=False):
                continue
            try:
                now = home.record(record.key)
                unlike = (now.strata, now.own) != (record.strata, record.own)
                if record.key in home.lives or unlike:
                    raise _Changed
                yield
                return
            finally:
                lock.release()


@contextlib.contextmanager
def _fresh(home: Home, views: int, *, above: int) -> Iterator[int]:
    """An empty writable layer, which is gone again if the block fails."""
    key = home.store.new_key()
    try:
        prepare_root(home.root, key, views=views, above=above)
        yield key
    except BaseException:
        home.remover.remove(home.store.layout.upper(key))
        raise


def _drop_work(home: Home, key: int) -> None:
    """A layer that nobody writes needs no work directories."""
    upper = home.store.layout.upper(key)
    for name in os.listdir(upper):
        if name.startswith("w"):
            home.remover.remove(f"{upper}/{name}")


# ---- one that runs ----


def _take_running(
    home: Home,
    record: MachineRecord,
    live: Live,
    call: Call,
    write: Write,
    below: tuple[int, ...],
    pause: bool,
    what: str,
) -> None:
    views, strata = _views(home, record), below
    _check_room(home, record, what)
    with contextlib.ExitStack() as stack:
        with frozen(home, record, pause):
            if not _blank(home, record, views):
                made = uppers.copied(home, (record.upper,), views, call, what)
                strata = (*below, stack.enter_context(made))
        with home.lock:
            if home.lives.get(record.key) is not live or live.ended is not None:
                raise _Changed
            with home.store.transaction():
                _record(home, strata, record.strata)
                write(strata)


def _check_room(home: Home, record: MachineRecord, what: str) -> None:
    """What is full is full for everybody."""
    if usage(home.root, record.upper) + SPARE > free_space(home.store.layout.roots).free:
        raise HostError(f"cannot {what}: no space left for a copy of what it wrote", hint=ROOM)


# ---- back ----


def switch(home: Home, record: MachineRecord, snapshot: SnapshotRecord) -> None:
    """Put the machine, which does not run, on what the snapshot stands on."""
    key = record.key
    while True:
        if running(home, record) is not None:
            raise Conflict(f"cannot restore {record.name}: it was started meanwhile")
        home.events.wait_until(lambda: key not in home.lives)
        record = home.record(key)
        home.visits.end(record.key, removed=True)
        with contextlib.suppress(_Changed), _alone(home, record):
            views, above = _views(home, record), (snapshot.strata or (0,))[-1]
            with _fresh(home, views, above=above) as fresh, home.store.transaction():
                home.store.find_snapshot(snapshot.id)
                home.update(
                    record.key,
                    strata=snapshot.strata,
                    own=fresh,
                    snapshot=snapshot.id,
                    restoring="",
                )
            home.remover.remove(home.store.layout.upper(record.upper))
            uppers.prune(home)
            return


def finish_restore(home: Home, key: int) -> None:
    """Of a machine that was stopped for it: what its record says is to be done."""
    record = home.record(key)
    if record.restoring:
        snapshot = home.store.find_snapshot(record.restoring)
        one = disks.switch if record.spec.isolation == "vm" else switch
        one(home, record, snapshot)


def _views(home: Home, record: MachineRecord) -> int:
    return len(home.base_of_machine(record).views)


def _blank(home: Home, record: MachineRecord, views: int) -> bool:
    above = record.strata[-1] if record.strata else 0
    return is_blank(home.root, record.upper, views=views, above=above)
