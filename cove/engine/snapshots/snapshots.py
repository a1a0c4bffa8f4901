"""Snapshots: taken, listed, removed, gone back to, and machines begun from them.

What a snapshot is of depends on the machine's isolation: of a container it is the file system
(``strata``), and its process starts anew; of a virtual machine it is the disk, and of one that runs
its memory (``disks``), with which its processes go on.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

import msgspec

from cove.engine import uppers
from cove.engine.calls import Call
from cove.engine.calls.snapshots import (
    Fork,
    Restore,
    Restored,
    Snapshot,
    SnapshotCreate,
    SnapshotInspect,
    SnapshotList,
)
from cove.engine.home import Home
from cove.engine.machines import life, restart, stopping
from cove.engine.machines.life import Ground
from cove.engine.snapshots import disks, strata
from cove.engine.visits.visits import settled
from cove.errors import Conflict, NotFound, Unsupported, UsageError
from cove.planner import argv_of
from cove.spec.inherit import of_fork
from cove.spec.resume import check_resumable
from cove.spec.values import parse_name
from cove.store.records import MachineRecord, SnapshotRecord
from cove.store.snapshots import pin

FORKS = 1000
"""At most, in one verb."""


def _is_vm(record: MachineRecord) -> bool:
    return record.spec.isolation == "vm"


def _check_pause(record: MachineRecord, *, pause: bool) -> None:
    if _is_vm(record) and not pause:
        raise Unsupported(
            f"cannot copy {record.name} while it goes on: memory and disk of a virtual machine are "
            "of one moment",
            origin="--pause=false",
        )


# ---- taking ----


def create(home: Home, record: MachineRecord, params: SnapshotCreate, call: Call) -> SnapshotRecord:
    _check_pause(record, pause=params.pause)
    name = parse_name(params.name) if params.name else ""
    taken = [other for other in home.store.snapshots() if other.name == name]
    if taken:
        raise Conflict(
            f'cannot use the name "{name}": a snapshot of {taken[0].machine_name} has it',
            origin=params.name,
            hint=f"cove snapshot rm {name}, or choose another name",
        )
    made: list[SnapshotRecord] = []

    def write(
        layers: tuple[int, ...] = (),
        own_id: str = "",
        kind: str = "file system",
        pause: float = 0.0,
    ) -> None:
        now = home.record(record.key)
        snapshot = SnapshotRecord(
            id=own_id or secrets.token_hex(32),
            name=name or _free_name(now.name, (s.name for s in home.store.snapshots())),
            machine=now.id,
            machine_name=now.name,
            spec=now.spec,
            image=now.image,
            created=time.time(),
            argv=now.argv or argv_of(now.spec, home.base_of_machine(now).config),
            strata=layers,
            parent=now.snapshot,
            kind=kind,
            pause=pause,
        )
        home.store.put_snapshot(snapshot)
        home.update(now.key, snapshot=snapshot.id)
        made[:] = [snapshot]

    what = f"snapshot {record.name}"
    if _is_vm(record):
        disks.take(home, record, call, partial(write, ()), what=what)
    else:
        strata.take(home, record, call, write, pause=params.pause, what=what)
    home.publish("snapshot", record, {"snapshot": made[0].name, "snapshotID": made[0].id})
    return made[0]


def _free_name(stem: str, taken: Iterable[str]) -> str:
    """The stem with the lowest number above all that are taken."""
    head = f"{stem}-"
    numbers = [name.removeprefix(head) for name in taken if name.startswith(head)]
    return f"{head}{max((int(n) for n in numbers if n.isdecimal()), default=0) + 1}"


# ---- looking ----


def listed(home: Home, params: SnapshotList) -> tuple[Snapshot, ...]:
    records = home.store.snapshots()
    if params.machine:
        wanted = _machine_meant(home, params.machine, records)
        shown = [record for record in records if record.machine == wanted]
    else:
        shown = records
    return _as_shown(home, shown, sizes=params.sizes)


def _machine_meant(home: Home, text: str, records: list[SnapshotRecord]) -> str:
    """The id; of one that is gone the snapshots still know it."""
    try:
        return home.store.find_machine(text).id
    except NotFound:
        for record in reversed(records):
            if text == record.machine_name or (text and record.machine.startswith(text)):
                return record.machine
        raise


def inspect(home: Home, params: SnapshotInspect) -> Snapshot:
    (found,) = _as_shown(home, [home.store.find_snapshot(params.snapshot)], sizes=params.sizes)
    layers = tuple(f"{home.store.layout.upper(key)}/fs" for key in found.record.strata)
    return msgspec.structs.replace(found, layers=layers)


def _as_shown(home: Home, records: list[SnapshotRecord], *, sizes: bool) -> tuple[Snapshot, ...]:
    keys = {key for record in records for key in record.strata}
    own = {r.id: disks.size_of(home, r) if sizes else 0 for r in records}
    size_of = uppers.strata_sizes(home, keys) if sizes else dict.fromkeys(keys, 0)
    machines = home.store.machines()
    users = Counter(key for s in home.store.snapshots() for key in s.strata)
    users.update(key for machine in machines for key in machine.strata)
    return tuple(
        Snapshot(
            record,
            size=own[record.id] + sum(size_of[key] for key in record.strata),
            unique=own[record.id] + sum(size_of[key] for key in record.strata if users[key] == 1),
            machines=tuple(m.name for m in machines if m.snapshot == record.id),
        )
        for record in records
    )


def remove(home: Home, text: str) -> SnapshotRecord:
    """What stood on it stands on what it stood on."""
    with home.lock:
        record = home.store.find_snapshot(text)
        for machine in home.store.machines():
            if record.id in (machine.restoring, machine.resume):
                doing = "is being restored to it" if machine.restoring else "is to go on from it"
                raise Conflict(f"cannot remove snapshot {record.name}: {machine.name} {doing}")
        with home.store.transaction():
            for machine in home.store.machines():
                if machine.snapshot == record.id:
                    home.update(machine.key, snapshot=record.parent)
            for other in home.store.snapshots():
                if other.parent == record.id:
                    child = msgspec.structs.replace(other, parent=record.parent)
                    home.store.put_snapshot(child)
            home.store.remove_snapshot(record.id)
    uppers.prune(home)
    disks.remove(home, record)
    names = (record.machine, record.machine_name, record.spec.image)
    home.events.publish("snapshot-rm", names, {"snapshot": record.name, "snapshotID": record.id})
    return record


# ---- going back ----


def restore(home: Home, record: MachineRecord, params: Restore) -> Restored:
    snapshot = _to_restore(home, record, params.snapshot)
    live = settled(home, record)
    if live is None:
        (disks if _is_vm(record) else strata).switch(home, record, snapshot)
    else:
        restart.restart(home, record, params.timeout, "", restoring=snapshot.id)
    home.publish("restore", record, {"snapshot": snapshot.name, "snapshotID": snapshot.id})
    goes_on = snapshot.kind == "disk and memory"
    return Restored(record.id, record.name, snapshot.name, live is not None, goes_on)


def _to_restore(home: Home, record: MachineRecord, text: str) -> SnapshotRecord:
    if not text:
        own = [s for s in home.store.snapshots() if s.machine == record.id]
        if not own:
            raise NotFound(
                f"cannot restore {record.name}: it has no snapshot",
                hint=f"cove snapshot create {record.name}, before it is needed",
            )
        return own[-1]
    snapshot = home.store.find_snapshot(text)
    other = ""
    if snapshot.spec.isolation != record.spec.isolation:
        other = f"that is of a machine with isolation {snapshot.spec.isolation}"
    elif snapshot.image != record.image:
        other = f"that stands on another image, {snapshot.spec.image}"
    if other:
        raise Conflict(
            f"cannot restore {record.name} to {snapshot.name}: {other}",
            origin=text,
            hint=f"begin a machine from it: cove run --from-snapshot {snapshot.name}",
        )
    if _is_vm(record):
        warm = snapshot.kind != "disk"
        check_resumable(record.spec, snapshot.spec, snapshot.name, warm=warm)
    return snapshot


# ---- forking ----


def fork(
    home: Home, record: MachineRecord, params: Fork, call: Call
) -> tuple[list[MachineRecord], float]:
    """All of them run, or none is there; also for how long a virtual machine stood still."""
    _check_pause(record, pause=params.pause)
    names = _fork_names(home, record, params)
    if _is_vm(record):
        made, pause = disks.fork(home, record, names, call)
    else:
        pause = 0.0
        made = _fork_container(home, record, names, params, call)
    home.publish("fork", record, {"count": str(len(made)), "forks": ",".join(m.id for m in made)})
    return made, pause


def _fork_container(
    home: Home, record: MachineRecord, names: list[str], params: Fork, call: Call
) -> list[MachineRecord]:
    with contextlib.ExitStack() as stack:
        layers: list[int] = []

        def write(strata: tuple[int, ...]) -> None:
            stack.enter_context(home.store.pinned(*map(pin, strata)))
            layers[:] = strata

        strata.take(home, record, call, write, pause=params.pause, what=f"fork {record.name}")
        now = home.record(record.key) if home.store.has_machine(record.key) else record
        ground = Ground(home.base_of_machine(now), tuple(layers), now.snapshot)
        made: list[MachineRecord] = []
        try:
            for name in names:
                spec = of_fork(now.spec, name)
                made.append(life.run(home, spec, None, ground))
        except BaseException:
            for other in made:
                with contextlib.suppress(NotFound):
                    stopping.remove(home, other, force=True)
            stack.close()
            uppers.prune(home)
            raise
    return made


def _fork_names(home: Home, record: MachineRecord, params: Fork) -> list[str]:
    if not 1 <= params.count <= FORKS:
        raise UsageError(f"cannot fork {record.name} {params.count} times: 1 to {FORKS} at once")
    if params.name and params.count == 1:
        return [parse_name(params.name)]
    if params.name:
        return [parse_name(f"{params.name}-{number}") for number in range(1, params.count + 1)]
    taken = {machine.name for machine in home.store.machines()}
    first = int(_free_name(record.name, taken).rpartition("-")[2])
    return [f"{record.name}-{number}" for number in range(first, first + params.count)]
