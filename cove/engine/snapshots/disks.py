"""What a virtual machine is, kept and gone back to: the half of snapshots, forks and restores that
is about disks and memory.

A snapshot is made beside the others and renamed among them before its record is written. To go back
is one change of the machine's record: which disk is its own, and which snapshot its next start
copies it from and goes on with. A daemon that is killed leaves the machine as it was or as it is to
be, and at most files that no record names.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from cove.engine.calls import Call
from cove.engine.events import Cancelled
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import life, stopping
from cove.engine.machines.life import Ground
from cove.engine.visits.visits import settled
from cove.engine.vms import virtual
from cove.engine.vms.moments import capture
from cove.errors import Conflict, CoveError, HostError
from cove.linux.disk import free_space
from cove.planner.defaults import STORAGE
from cove.roots.scratch import copy_sparse, make_scratch
from cove.spec.inherit import of_fork
from cove.spec.machine import MachineSpec
from cove.store.lock import ROOM
from cove.store.records import MachineRecord, SnapshotRecord
from cove.vm import moments
from cove.vm.moments import Held

SPARE = 64 << 20
"""Bytes that a copy leaves free on the disk."""
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW

Write = Callable[[str, str, float], None]
"""Writes the record: id, kind, how long the machine stood still."""


class _Changed(Exception):
    """It runs by now, or does not any more: what was begun is begun anew."""


def take(home: Home, record: MachineRecord, call: Call, write: Write, *, what: str) -> None:
    while True:
        live = settled(home, record)
        now = home.record(record.key)
        if call.cancelled is not None and call.cancelled.is_set():
            raise Cancelled("interrupted")
        with contextlib.suppress(_Changed):
            _take(home, now, live, write, what)
            return


def _take(home: Home, record: MachineRecord, live: Live | None, write: Write, what: str) -> None:
    own_id = secrets.token_hex(32)
    layout = home.store.layout
    directory = f"{layout.tmp}/snapshot-{own_id}"
    os.mkdir(directory, 0o700)
    try:
        held = _moment(home, record, live, f"{directory}/disk", what, synced=True)
        try:
            moments.keep(directory, held)
        finally:
            held.close()
        with home.lock:
            os.rename(directory, layout.snapshot(own_id))
            directory = layout.snapshot(own_id)
            kind = "disk" if held.shape is None else "disk and memory"
            with home.store.transaction():
                write(own_id, kind, held.pause)
    except BaseException as error:
        home.remover.remove(directory)
        if isinstance(error, OSError):
            reason = (error.strerror or "i/o error").lower()
            raise HostError(f"cannot {what}: {reason}", hint=ROOM) from error
        raise


def _moment(
    home: Home, record: MachineRecord, live: Live | None, path: str, what: str, *, synced: bool
) -> Held:
    """``path``: where the copy of its disk is made; ``synced``: which can be read without the
    memory.
    """
    _check_room(home, record, what)
    if live is None and record.resume:
        raise Conflict(
            f"cannot {what}: it has not run since it was put on a snapshot, which is what it is",
            hint=f"start it first: cove start {record.name}",
        )
    if live is not None:
        return capture(home, record, live, os.open(path, NEW, 0o600), synced=synced)
    return Held(_stopped(home, record, path))


def _stopped(home: Home, record: MachineRecord, path: str) -> int:
    """A copy of the disk of one that does not run; one that never ran has an empty one."""
    home.visits.end(record.key)
    own = f"{home.store.layout.machine(record.key)}/{virtual.scratch_name(record)}"
    try:
        source = os.open(own, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        size, journal = record.spec.limits.storage or STORAGE, not record.spec.remove
        template = home.store.layout.scratch(size, journal=journal)
        return make_scratch(template, path, size, journal=journal)
    target = os.open(path, NEW, 0o600)
    try:
        before = os.fstat(source)
        copy_sparse(source, target)
        after = os.fstat(source)
        same = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
        if not same or record.key in home.lives or home.record(record.key).disk != record.disk:
            os.unlink(path)
            raise _Changed
    except BaseException:
        os.close(target)
        raise
    finally:
        os.close(source)
    return target


def _check_room(home: Home, record: MachineRecord, what: str) -> None:
    """What is full is full for everybody."""
    own = f"{home.store.layout.machine(record.key)}/{virtual.scratch_name(record)}"
    with contextlib.suppress(FileNotFoundError):
        needed = os.stat(own, follow_symlinks=False).st_blocks * 512 + SPARE
        if needed > free_space(home.store.layout.tmp).free:
            raise HostError(f"cannot {what}: no space left for a copy of its disk", hint=ROOM)


@contextlib.contextmanager
def copy_of(home: Home, snapshot: SnapshotRecord, what: str) -> Iterator[tuple[MachineRecord, int]]:
    """Its disk, in a file that goes with the block, and a machine that would have it."""
    path = f"{home.store.layout.tmp}/compare-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        try:
            target = os.open(path, NEW, 0o600)
            stack.callback(os.close, target)
            os.unlink(path)
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            source = os.open(f"{home.store.layout.snapshot(snapshot.id)}/disk", flags)
            stack.callback(os.close, source)
            copy_sparse(source, target)
        except OSError as error:
            reason = (error.strerror or "i/o error").lower()
            raise HostError(f"cannot {what}: {reason}", hint=ROOM) from error
        spec = msgspec.structs.replace(snapshot.spec, mounts=())
        record = MachineRecord(
            key=0, id=snapshot.machine, name=snapshot.name, spec=spec, image=snapshot.image,
            state="exited", created=snapshot.created,
        )  # fmt: skip
        yield record, target


# ---- back ----


def switch(home: Home, record: MachineRecord, snapshot: SnapshotRecord) -> None:
    """Put the machine, which does not run, on a snapshot: its next start goes on from there."""
    key = record.key
    while True:
        if stopping.running(home, record) is not None:
            raise Conflict(f"cannot restore {record.name}: it was started meanwhile")
        home.events.wait_until(lambda: key not in home.lives)
        home.visits.end(key, removed=True)
        with home.lock:
            if key in home.lives:
                continue
            record = home.record(key)
            home.store.find_snapshot(snapshot.id)
            home.update(
                key, disk=home.store.new_key(), resume=snapshot.id, snapshot=snapshot.id,
                restoring="",
            )  # fmt: skip
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{home.store.layout.machine(key)}/{virtual.scratch_name(record)}")
        return


def size_of(home: Home, record: SnapshotRecord) -> int:
    if record.kind == "file system":
        return 0
    return moments.size_of(home.store.layout.snapshot(record.id))


def remove(home: Home, record: SnapshotRecord) -> None:
    """Of one whose record is gone."""
    if record.kind != "file system":
        home.remover.remove(home.store.layout.snapshot(record.id))


# ---- and on ----


def fork(
    home: Home, record: MachineRecord, names: list[str], call: Call
) -> tuple[list[MachineRecord], float]:
    """All of them run, or none is there; and for how long the machine stood still."""
    held = _now(home, record, call)
    try:
        now = home.record(record.key) if home.store.has_machine(record.key) else record
        ground = Ground(
            home.base_of_machine(now), (), now.snapshot, moment=held, warm=held.shape is not None
        )
        specs = [of_fork(now.spec, name) for name in names]
        return _begin_all(home, specs, ground), held.pause
    finally:
        held.close()


def _now(home: Home, record: MachineRecord, call: Call) -> Held:
    """What it is now, in files that end with this verb."""
    while True:
        live = settled(home, record)
        now = home.record(record.key)
        if call.cancelled is not None and call.cancelled.is_set():
            raise Cancelled("interrupted")
        what = f"fork {record.name}"
        if live is None and now.resume:
            return moments.load(home.store.layout.snapshot(now.resume), what)
        path = f"{home.store.layout.tmp}/fork-{secrets.token_hex(8)}"
        try:
            with contextlib.suppress(_Changed):
                return _moment(home, now, live, path, what, synced=False)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _begin_all(home: Home, specs: list[MachineSpec], ground: Ground) -> list[MachineRecord]:
    """Several at a time: most of a start is waiting for an emulator."""
    made: list[MachineRecord] = []
    errors: list[BaseException] = []

    def begin(spec: MachineSpec) -> None:
        if errors:
            return
        try:
            made.append(life.run(home, spec, None, ground))
        except BaseException as error:
            errors.append(error)

    with ThreadPoolExecutor(min(len(specs), home.facts.cpus), "fork") as pool:
        list(pool.map(begin, specs))
    if errors:
        for other in made:
            with contextlib.suppress(CoveError):
                stopping.remove(home, other, force=True)
        raise errors[0]
    order = [spec.name for spec in specs]
    return sorted(made, key=lambda machine: order.index(machine.name))
