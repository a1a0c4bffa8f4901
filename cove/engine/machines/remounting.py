"""Other mounts for a machine that exists: at once where it runs and is a container, else from its
next start on.

The record has them first, and what they were beside it. What the kernel refuses then is taken back,
there and in the kernel; what a daemon that is killed in between leaves the next one finishes.
"""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec

from cove.engine.calls.mounts import MountChange, MountsChanged
from cove.engine.descriptors import Descriptors
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import stopping
from cove.engine.ranges import range_base
from cove.engine.volumes import taking
from cove.engine.volumes.binds import check_binds, open_binds
from cove.errors import Conflict, CoveError, NotFound, Unsupported, UsageError
from cove.executor.archiver import run_archiver
from cove.linux.mounts import mount_points
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.files.remount import plan_attach, plan_detach
from cove.spec.check import check_machine
from cove.spec.machine import MachineSpec, Mount
from cove.store.records import MachineRecord


def change(home: Home, record: MachineRecord, params: MountChange) -> MountsChanged:
    if not params.add and not params.remove:
        raise UsageError("cannot change mounts: none is named")
    if record.resume and record.spec.isolation == "vm":
        raise Unsupported(
            f"cannot change the mounts of {record.name}: it goes on from a snapshot at its next "
            "start",
            hint=f"start it first: cove start {record.name}",
        )
    live = stopping.running(home, record)
    if live is not None and (not live.started or live.pidfd < 0):
        raise Conflict(f"cannot change the mounts of {record.name}: it is being started")
    base = home.base_of_machine(record)
    added = _added(record.spec, params)
    check_machine(_changed(record.spec, params.remove, added))
    check_binds(msgspec.structs.replace(record.spec, mounts=added))
    wish = msgspec.structs.replace(record.spec, mounts=added, volumes_from=())
    added = taking.take_mounts(home, wish, base, record.strata)
    try:
        if live is None:
            _write(home, record.key, params.remove, added)
        else:
            with live.changing:
                _change_live(home, record, live, params.remove, added)
    except BaseException:
        taking.give_up(home, added)
        raise
    home.publish("update", record)
    return MountsChanged(live is not None and not live.virtual)


def _added(spec: MachineSpec, params: MountChange) -> tuple[Mount, ...]:
    for target in params.remove:
        if not any(mount.target == target for mount in spec.mounts):
            raise NotFound(
                f"cannot unmount {target}: the machine has no such mount",
                origin=f"--mount-rm {target}",
                hint="cove inspect lists its mounts",
            )
    return params.add


def _changed(spec: MachineSpec, remove: tuple[str, ...], added: tuple[Mount, ...]) -> MachineSpec:
    left = tuple(mount for mount in spec.mounts if mount.target not in remove)
    return msgspec.structs.replace(spec, mounts=(*left, *added))


def _write(
    home: Home,
    key: int,
    remove: tuple[str, ...],
    added: tuple[Mount, ...],
    *,
    pending: bool = False,
) -> MachineSpec:
    """What its mounts were."""
    with home.lock:
        before = home.record(key)
        spec = _changed(before.spec, remove, added)
        check_machine(spec)
        now = msgspec.structs.replace(before, spec=spec)
        taking.check_there(home, now)
        mounts = before.spec.mounts if pending else None
        taking.settle(home, home.update(key, spec=spec, mounts_before=mounts))
        return before.spec


def _change_live(
    home: Home,
    record: MachineRecord,
    live: Live,
    remove: tuple[str, ...],
    added: tuple[Mount, ...],
) -> None:
    before = _write(home, record.key, remove, added, pending=not live.virtual)
    if live.virtual:
        return
    what = f"change the mounts of {record.name}"
    done: list[Mount] = []
    gone: list[Mount] = []
    try:
        for target in remove:
            _run(home, live, plan_detach(before, home.facts, (target,)), {}, what)
            gone += (mount for mount in before.mounts if mount.target == target)
        for mount in added:
            _attach(home, record, live, mount, what)
            done.append(mount)
    except BaseException:
        _take_back(home, record, live, done, gone, what)
        _settle(home, record.key, before.mounts)
        raise
    _settle(home, record.key, None)


def _settle(home: Home, key: int, mounts: tuple[Mount, ...] | None) -> None:
    """Record and kernel agree: on these, or on what the record has."""
    with home.lock:
        if home.store.has_machine(key):
            spec = home.record(key).spec
            if mounts is not None:
                spec = msgspec.structs.replace(spec, mounts=mounts)
            home.update(key, spec=spec, mounts_before=None)


def take_up(home: Home, live: Live) -> None:
    """The change that an earlier daemon was killed in, of a machine that runs: as far as the kernel
    does it. What it does not is recorded no more: nobody was told that it is so.
    """
    record = home.record(live.key)
    before, wanted = record.mounts_before, record.spec.mounts
    if before is None:
        return
    what = f"change the mounts of {record.name}"
    seen = mount_points(live.pid)
    left = list(before)
    for mount in (mount for mount in before if mount not in wanted):
        with suppress(CoveError):
            if mount.target in seen:
                plan = plan_detach(record.spec, home.facts, (mount.target,))
                _run(home, live, plan, {}, what)
            left.remove(mount)
    for mount in (mount for mount in wanted if mount not in before):
        # One in the place of one that is gone.
        there = mount.target in seen and not any(m.target == mount.target for m in before)
        with suppress(CoveError):
            if not there:
                _attach(home, record, live, mount, what)
            left.append(mount)
    lost = tuple(mount for mount in wanted if mount not in left)
    _settle(home, live.key, tuple(left))
    taking.give_up(home, lost)


def _take_back(
    home: Home,
    record: MachineRecord,
    live: Live,
    done: list[Mount],
    gone: list[Mount],
    what: str,
) -> None:
    if done:
        targets = tuple(mount.target for mount in reversed(done))
        _run(home, live, plan_detach(record.spec, home.facts, targets), {}, what)
    for mount in gone:
        _attach(home, record, live, mount, what)


def _attach(home: Home, record: MachineRecord, live: Live, mount: Mount, what: str) -> None:
    spec = msgspec.structs.replace(record.spec, mounts=(mount,))
    with Descriptors() as fds:
        binds = open_binds(home, fds, spec)
        fds.mine("userns", os.open(f"/proc/{live.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
        base = range_base(home.record(record.key).id_range)
        place = Place(record.key, home.root, base, binds=binds)
        _run(home, live, plan_attach(spec, home.facts, place), fds, what)


def _run(home: Home, live: Live, plan: Plan, fds: dict[str, int], what: str) -> None:
    with run_archiver(plan, {**fds, "target": live.pidfd}, what=what) as tool:
        tool.read_result()
        tool.finish()
