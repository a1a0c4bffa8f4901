"""What lies between two snapshots, or a snapshot and a machine as it is now.

Each is compared with what both stand on, by cove's archiver, which lists what is there; the lists
are compared here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cove.engine import uppers
from cove.engine.calls import Call, Change
from cove.engine.calls.snapshots import SnapshotDiff
from cove.engine.home import Base, Home
from cove.engine.snapshots import disks
from cove.engine.visits.visits import visit_copy, visit_layer
from cove.errors import Conflict, HostError, NotFound
from cove.executor.archiver import Archiver, run_archiver
from cove.planner import Place
from cove.planner.files.archive import plan_layer
from cove.store.records import MachineRecord, SnapshotRecord
from cove.store.snapshots import pin

KINDS = ("A", "C", "D")
PATH_MAX = 1 << 14
"""Of a name that is compared with those of the directories above it."""


class Entry(NamedTuple):
    """What one of the two did to a path."""

    kind: str
    """A added, C changed, D deleted."""
    sign: bytes
    """What is there: the same bytes, the same file."""


Entries = Mapping[bytes, Entry]


class _Side(NamedTuple):
    name: str
    image: str
    is_vm: bool
    layers: tuple[int, ...] = ()
    """Of a container."""
    machine: int = 0
    """Key of the machine that is meant as it is now, whose own layer is the highest."""
    disk: SnapshotRecord | None = None
    """Of a virtual machine: the snapshot."""


def between(home: Home, params: SnapshotDiff, call: Call) -> tuple[Change, ...]:
    first = home.store.find_snapshot(params.snapshot)
    one = _kept(first)
    other = _other(home, first, params.other)
    if one.image != other.image:
        raise Conflict(f"cannot compare {one.name} with {other.name}: they stand on two images")
    if one.is_vm != other.is_vm:
        raise Conflict(
            f"cannot compare {one.name} with {other.name}: one is of a container, the other of a "
            "virtual machine"
        )
    image = home.store.image(one.image)
    if image is None:
        raise NotFound(f"cannot compare {one.name}: its image is gone")
    if one.is_vm:
        found = combine(*(_of_disk(home, side, call) for side in (one, other)))
    else:
        base, common = home.base_of(image), _common(one.layers, other.layers)
        with home.store.pinned(*map(pin, {*one.layers, *other.layers})):
            found = combine(
                _entries(home, base, one, common, call), _entries(home, base, other, common, call)
            )
    return tuple(Change(kind, path) for path, kind in sorted(found.items()))


def _kept(snapshot: SnapshotRecord) -> _Side:
    if snapshot.kind == "file system":
        return _Side(snapshot.name, snapshot.image, is_vm=False, layers=snapshot.strata)
    return _Side(snapshot.name, snapshot.image, is_vm=True, disk=snapshot)


def _other(home: Home, first: SnapshotRecord, text: str) -> _Side:
    """The snapshot or machine that was named; else the machine that the first one was taken of."""
    try:
        if text:
            return _kept(home.store.find_snapshot(text))
    except NotFound as missing:
        try:
            return _now(home, home.store.find_machine(text))
        except NotFound:
            raise missing from None
    try:
        return _now(home, home.store.find_machine(first.machine))
    except NotFound:
        raise NotFound(
            f"cannot compare {first.name}: machine {first.machine_name} is gone",
            hint=f"name another snapshot: cove snapshot diff {first.name} SNAPSHOT",
        ) from None


def _now(home: Home, record: MachineRecord) -> _Side:
    if record.spec.isolation == "vm":
        return _Side(record.name, record.image, is_vm=True, machine=record.key)
    if not os.path.isdir(f"{home.store.layout.upper(record.upper)}/fs"):  # it has never run
        uppers.prepare(home, record, len(home.base_of_machine(record).views))
    layers = (*record.strata, record.upper)
    return _Side(record.name, record.image, is_vm=False, layers=layers, machine=record.key)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return one[:count]


def _entries(
    home: Home, base: Base, side: _Side, common: tuple[int, ...], call: Call
) -> dict[bytes, Entry]:
    rest, what = side.layers[len(common) :], f"compare {side.name}"
    if not rest:
        return {}
    with uppers.one_upper(home, rest, len(base.views), call, what) as own:
        place = Place(own, home.root, 0, base.layers, common, own, views=base.views)
        run = run_archiver(plan_layer(place, "signs"), {}, what=what)
        with run as archiver, home.visits.entered(side.machine, archiver, layer=True):
            return _read(archiver)


def _of_disk(home: Home, side: _Side, call: Call) -> dict[bytes, Entry]:
    """All that is on it above the image: disks have nothing else in common."""
    what = f"compare {side.name}"
    if side.disk is None:
        record = home.record(side.machine)
        with visit_layer(home, record, call, "signs", what=what) as archiver:
            return _read(archiver)
    with (
        disks.copy_of(home, side.disk, what) as (record, disk),
        visit_copy(home, record, disk, call, "signs", what=what) as archiver,
    ):
        return _read(archiver)


def _read(archiver: Archiver) -> dict[bytes, Entry]:
    """Of a guest it is a hostile machine's word."""
    said = archiver.read_result()
    archiver.finish()
    *words, rest = said.split(b"\0")
    found = {
        name[1:]: Entry(name[:1].decode("latin-1"), sign)
        for name, sign in zip(words[::2], words[1::2], strict=False)
    }
    sound = all(
        entry.kind in KINDS and path[:1] == b"/" and len(path) <= PATH_MAX
        for path, entry in found.items()
    )
    if rest or len(words) % 2 or not sound:
        raise HostError(
            f"cannot {archiver.what}: what the guest says of it makes no sense", exit_code=1
        )
    return found


# ---- pure ----


def combine(one: Entries, other: Entries) -> dict[bytes, str]:
    """What the second has added, changed and deleted, given what each did to the same tree."""
    found: dict[bytes, str] = {}
    for path in sorted({*one, *other}):
        kind = _kind(one, other, path)
        if kind == "D" and any(found.get(above) == "D" for above in _above(path)):
            continue  # it went with its directory
        if kind:
            found[path] = kind
    for path in tuple(found):
        for above in _above(path):
            found.setdefault(above, "C")
    return found


def _kind(one: Entries, other: Entries, path: bytes) -> str:
    a, b = one.get(path), other.get(path)
    if a is None and b is not None:
        if _gone(one, path):
            return "" if b.kind == "D" else "A"
        return b.kind
    if a is not None and b is None:
        if _gone(other, path):
            return "" if a.kind == "D" else "D"
        return {"A": "D", "D": "A", "C": "C"}[a.kind]
    assert a is not None and b is not None
    if "D" in (a.kind, b.kind):
        return "" if a.kind == b.kind else "A" if a.kind == "D" else "D"
    return "" if a.sign == b.sign else "C"


def _gone(entries: Entries, path: bytes) -> bool:
    """Its directory was deleted as a whole."""
    return any(above in entries and entries[above].kind == "D" for above in _above(path))


def _above(path: bytes) -> Iterable[bytes]:
    """The directories that it is in, but for the root."""
    while (path := path.rpartition(b"/")[0]) not in (b"", b"/"):
        yield path
