"""Who is at a machine's files from outside: cp, export, diff, commit.

A visit holds nothing that a machine needs: when it starts again or is removed, its visitors are
ended first. One that does not run has one visitor at a time, for whom its root is mounted.
"""

from __future__ import annotations

import os
import posixpath
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from cove.engine import uppers
from cove.engine.calls import Call
from cove.engine.descriptors import Descriptors
from cove.engine.events import Cancel, Cancelled
from cove.engine.home import Base, Home
from cove.engine.live import Live
from cove.engine.machines.stopping import running
from cove.engine.ranges import range_base
from cove.engine.slots import open_group
from cove.engine.visits.open_disks import (
    Beside,
    open_copy,
    open_disks,
    open_ground,
    open_root,
)
from cove.engine.visits.room import Room
from cove.engine.vms import virtual
from cove.engine.vms.ground import facts_inside
from cove.engine.vms.guests import tell_cut
from cove.engine.volumes.binds import open_binds
from cove.errors import BadArchive, Conflict, CoveError, HostError, Unsupported
from cove.executor.archiver import Archiver, run_archiver
from cove.linux.pump import Stopped, pump
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.files.archive import ends_with_daemon, plan_layer, plan_running, plan_stopped
from cove.planner.virtual.guest import guest_place
from cove.spec.machine import ExecSpec
from cove.store.records import MachineRecord

SETTLE = 20.0
"""Seconds that a machine may take to start or end, or another visit to leave one that does not run,
before its files can be reached.
"""


@contextmanager
def visit(
    home: Home,
    record: MachineRecord,
    call: Call,
    words: tuple[str, ...],
    *,
    what: str,
    bare: bool = False,
    reads: bool = False,
) -> Iterator[Archiver]:
    """The archiver in the machine's own root, whether it runs or not."""
    live = settled(home, record)
    if live is not None:
        running_one = _running(home, record, live, words, what, bare, reads)
        with running_one as archiver, _watched(home, record, archiver, call):
            yield archiver
        return
    if record.spec.isolation == "vm":
        _check_on_disk(record, words, what)
        inside = open_ground(home).inside
        guest = plan_running(record.spec, inside, _guest_place(record), words, bare=bare)
        with _at_disks(home, record, guest, call, what, reads=reads) as archiver:
            yield archiver
        return
    with _alone(home, record, call, what):
        stopped = _stopped(home, home.record(record.key), words, what, bare, reads)
        with stopped as archiver, _watched(home, record, archiver, call):
            yield archiver


def _check_on_disk(record: MachineRecord, words: tuple[str, ...], what: str) -> None:
    """The guest of a visit has the machine's own disk, and no volume."""
    path = posixpath.join("/", posixpath.normpath(words[1])) if len(words) > 1 else "/"
    for mount in record.spec.mounts:
        if mount.type != "tmpfs" and f"{path}/".startswith(f"{mount.target}/"):
            raise Unsupported(
                f"cannot {what}: {mount.target} is no part of the machine's own disk, and it does "
                "not run",
                origin=mount.origin,
                hint=f"start it first: cove start {record.name}",
                exit_code=1,
            )


@contextmanager
def _alone(home: Home, record: MachineRecord, call: Call, what: str) -> Iterator[None]:
    """The only visitor of a machine that does not run, until it is started."""
    lock = home.visits.alone(record.key)
    late = time.monotonic() + SETTLE
    while not lock.acquire(timeout=0.1):
        _check_wanted(call, late, what)
    try:
        while home.visits.any(record.key):
            _check_wanted(call, late, what)
            select.select([], [], [], 0.02)
        if record.key in home.lives:
            raise Conflict(f"cannot {what}: the machine was started meanwhile")
        yield
    finally:
        lock.release()


def settled(home: Home, record: MachineRecord) -> Live | None:
    """The machine that runs; None: it does not. What is between the two is waited for."""

    def is_settled() -> bool:
        live = running(home, record)
        return record.key not in home.lives or (live is not None and live.started)

    home.events.wait_until(is_settled, timeout=SETTLE)
    live = running(home, record)
    return live if live is not None and live.pidfd >= 0 else None


@contextmanager
def _running(
    home: Home,
    record: MachineRecord,
    live: Live,
    words: tuple[str, ...],
    what: str,
    bare: bool,
    reads: bool,
) -> Iterator[Archiver]:
    if record.spec.isolation == "vm":
        inside = facts_inside(home, home.base_of_machine(record))
        guest = plan_running(record.spec, inside, _guest_place(record), words, bare=bare)
        with _in_guest(home, record, live, guest, what, reads) as archiver:
            yield archiver
        return
    base = home.base_of_machine(record)
    place = Place(record.key, home.root, views=base.views)
    plan = plan_running(record.spec, home.facts, place, words, bare=bare)
    with run_archiver(plan, {"target": live.pidfd}, what=what, reads=reads) as archiver:
        yield archiver


def _guest_place(record: MachineRecord) -> Place:
    """In a guest: of the machine itself, or one that has its disks."""
    return guest_place(record.spec, hostname="")


def check_awake(home: Home, record: MachineRecord, what: str) -> None:
    """Of a virtual machine that runs."""
    if home.record(record.key).state == "paused":
        raise Conflict(
            f"cannot {what}: it is paused, and its guest with it",
            hint=f"unpause it first: cove unpause {record.name}",
        )


@contextmanager
def _in_guest(
    home: Home, record: MachineRecord, live: Live, guest: Plan, what: str, reads: bool
) -> Iterator[Archiver]:
    check_awake(home, record, what)
    assert live.group is not None
    there = Beside(record, live.group, live.pidfd)
    with _beside(home, there, guest, what, reads=reads) as archiver:
        yield archiver


@contextmanager
def _at_disks(
    home: Home, record: MachineRecord, guest: Plan, call: Call, what: str, *, reads: bool
) -> Iterator[Archiver]:
    """In a guest of its own, which has the disks alone."""
    with (
        open_root(home, record) as root,
        _alone(home, record, call, what),
        open_disks(home, home.record(record.key), root, call, what) as there,
        _beside(home, there, guest, what, reads=reads, sync=True) as archiver,
        _watched(home, record, archiver, call),
    ):
        yield archiver


@contextmanager
def _beside(
    home: Home, there: Beside, guest: Plan, what: str, *, reads: bool, sync: bool = False
) -> Iterator[Archiver]:
    """The archiver runs in a guest; who carries its streams is in the jail, as for an exec."""
    with Descriptors() as fds:
        fds["target"] = there.pidfd
        if (cgroup := open_group(there.group)) >= 0:
            fds.mine("cgroup", cgroup)
        spec = ExecSpec(command=("archive",), stdin_open=True)
        record, group = there.record, there.group
        plan = virtual.plan_beside(home, record, spec, guest, group, fds, None, sync=sync)
        began = time.time()
        with run_archiver(ends_with_daemon(plan), fds, what=what, reads=reads) as archiver:
            try:
                yield archiver
            finally:
                if archiver.lost:
                    tell_cut(home.store.layout.machine(record.key), record.name, began)


@contextmanager
def _stopped(
    home: Home,
    record: MachineRecord,
    words: tuple[str, ...],
    what: str,
    bare: bool,
    reads: bool,
) -> Iterator[Archiver]:
    """Under an id range of this visit's own, which no record needs: it ends with the daemon."""
    base = home.base_of_machine(record)
    guest = home.store.new_key()
    try:
        place = _place(home, record, base, range_base(home.store.take_range(guest)))
        uppers.prepare(home, record, len(base.views))
        with Descriptors() as fds:
            binds = () if bare else open_binds(home, fds, record.spec)
            place = replace(place, binds=binds)
            plan = plan_stopped(record.spec, home.facts, place, words, bare=bare)
            with run_archiver(plan, fds, what=what, reads=reads) as archiver:
                room = Room(home, record)
                archiver.room = room
                yield archiver
                if reads:
                    room.check_all()
    finally:
        home.store.free_range(guest)


def _place(home: Home, record: MachineRecord, base: Base, ids: int) -> Place:
    return Place(
        record.key, home.root, ids, base.layers, record.strata, record.own, views=base.views
    )


@contextmanager
def visit_layer(
    home: Home, record: MachineRecord, call: Call, action: str, *, what: str
) -> Iterator[Archiver]:
    """What it wrote, also before its snapshots, beside the image's layers."""
    if record.spec.isolation == "vm":
        with _guest_layer(home, record, call, action, what) as archiver:
            yield archiver
        return
    base = home.base_of_machine(record)
    if not record.started and record.key not in home.lives:
        with home.visits.alone(record.key):
            uppers.prepare(home, record, len(base.views))
    place, every = _place(home, record, base, 0), (*record.strata, record.upper)
    hollow = action != "layer"
    with uppers.one_upper(home, every, len(base.views), call, what, hollow=hollow) as own:
        plan = plan_layer(replace(place, strata=(), own=own), action)
        run = run_archiver(plan, {}, what=what)
        with run as archiver, _watched(home, record, archiver, call, layer=True):
            yield archiver


@contextmanager
def _guest_layer(
    home: Home, record: MachineRecord, call: Call, action: str, what: str
) -> Iterator[Archiver]:
    """On a disk, which one guest has at a time: who reads it is ended by a start, too."""
    live = settled(home, record)
    plan = plan_layer(_guest_place(record), action)
    if live is not None:
        beside = _in_guest(home, record, live, plan, what, reads=False)
        with beside as archiver, _watched(home, record, archiver, call, layer=True):
            yield archiver
        return
    with _at_disks(home, record, plan, call, what, reads=False) as archiver:
        yield archiver


@contextmanager
def visit_copy(
    home: Home, record: MachineRecord, disk: int, call: Call, action: str, *, what: str
) -> Iterator[Archiver]:
    """What is on a virtual machine's disk that no machine has: ``disk``, a file of the visit's own.
    ``record``: of a machine as the disk's was.
    """
    plan = plan_layer(_guest_place(record), action)
    with (
        open_root(home, record) as root,
        open_copy(home, record, root, disk, call, what) as there,
        _beside(home, there, plan, what, reads=False) as archiver,
        _watched(home, record, archiver, call, layer=True),
    ):
        yield archiver


@contextmanager
def _watched(
    home: Home, record: MachineRecord, archiver: Archiver, call: Call, *, layer: bool = False
) -> Iterator[None]:
    """Ended by the machine's next start or removal, and with the caller."""
    with home.visits.entered(record.key, archiver, layer=layer):
        if isinstance(call.cancelled, Cancel):
            with call.cancelled.then(partial(archiver.stop)):
                yield from _told(archiver, call)
        else:
            yield from _told(archiver, call)


def _told(archiver: Archiver, call: Call) -> Iterator[None]:
    try:
        yield
    except (Stopped, Conflict, BrokenPipeError):
        _check_cancelled(call)
        raise


def _check_wanted(call: Call, late: float, what: str) -> None:
    _check_cancelled(call)
    if time.monotonic() > late:
        raise Conflict(
            f"cannot {what}: another copy of the same machine does not come to its end",
            hint="end that command, or start the machine, which ends it",
        )


def _check_cancelled(call: Call) -> None:
    if call.cancelled is not None and call.cancelled.is_set():
        raise Cancelled("interrupted")


def send_out(archiver: Archiver, call: Call) -> None:
    """Its tar to the caller's sink; raises what kept it from being whole."""

    def gone() -> bool:
        asked = call.cancelled is not None and call.cancelled.is_set()
        return asked or archiver.stopped.is_set()

    try:
        pump(archiver.stdout, call.sink, gone)
    except Stopped:
        archiver.stop()
    except BrokenPipeError:
        archiver.stop()
        raise
    except OSError as error:  # the caller's file is on a full disk
        archiver.stop()
        raise HostError(
            f"cannot {archiver.what}: cannot write it: {(error.strerror or '').lower()}",
            exit_code=1,
        ) from error
    archiver.finish()


def take_in(archiver: Archiver, call: Call, *, coded: bool = False) -> bytes:
    """The caller's tar into it; what it says in the end."""
    if coded:
        with _decoded(archiver) as target:
            return _take(archiver, call, target, coded=True)
    return _take(archiver, call, archiver.stdin, coded=False)


@contextmanager
def _decoded(archiver: Archiver) -> Iterator[int]:
    """A pipe whose bytes arrive in the archiver without their compression."""
    from cove.image.pipeline import BYTES_MAX, TooLarge, spool
    from cove.oci.archive import Span

    reader, writer = os.pipe2(os.O_CLOEXEC)
    failed: list[CoveError] = []
    room = archiver.room

    def decode() -> None:
        try:
            most = BYTES_MAX if room is None else min(BYTES_MAX, room.most)
            spool(Span(reader, -1, -1), archiver.stdin, what="the archive", limit=most)
        except TooLarge as error:
            failed.append(error if room is None else room.full())
        except CoveError as error:
            failed.append(error)
        finally:
            archiver.close_stdin()
            os.close(reader)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        yield writer
    except BadArchive:
        if failed:
            raise failed[0] from None
        raise
    finally:
        thread.join()


def _take(archiver: Archiver, call: Call, target: int, *, coded: bool) -> bytes:
    def gone() -> bool:
        asked = call.cancelled is not None and call.cancelled.is_set()
        return asked or archiver.stopped.is_set()

    try:
        # It ended before its input did: it says why.
        with suppress(BrokenPipeError, Stopped):
            plain = None if coded or archiver.room is None else archiver.room.check
            pump(call.body, target, gone, plain)
        if call.cancelled is not None and call.cancelled.is_set():
            archiver.stop()  # before it takes the end for the end of the archive
    finally:
        if coded:
            os.close(target)
        else:
            archiver.close_stdin()
    said = archiver.read_result()
    archiver.finish()
    return said
