"""The verbs of volumes: create, list, inspect, remove, prune; and what they take of the disk."""

from __future__ import annotations

from contextlib import suppress

from cove.engine.builds.caches import is_cache
from cove.engine.calls.disk import VolumeUsage
from cove.engine.calls.volumes import Volume, VolumePrune, VolumesPruned
from cove.engine.home import Home
from cove.engine.machines import stopping
from cove.engine.machines.prune import has_label, wait_for_ended
from cove.engine.volumes import making
from cove.engine.volumes.users import all_used, mountpoint, users_of
from cove.errors import Conflict, NotFound
from cove.linux.disk import trees_usage
from cove.spec.volume import VolumeSpec, is_plain
from cove.store.records import VolumeRecord


def create(home: Home, spec: VolumeSpec) -> VolumeRecord:
    return making.make(home, spec)


def _settle(home: Home) -> None:
    """Machines that have just ended and go by themselves have taken their own volumes along."""
    stopping.settle(home, tuple(home.lives))
    wait_for_ended(home)


def listed(home: Home) -> tuple[Volume, ...]:
    _settle(home)
    found = sorted(home.store.volumes(), key=lambda record: record.name)
    users: dict[str, list[str]] = {}
    for machine in home.store.machines():
        for mount in machine.spec.mounts:
            if mount.type == "volume":
                users.setdefault(mount.source, []).append(machine.name)
    return tuple(_shown(home, record, users.get(record.name, [])) for record in found)


def inspect(home: Home, name: str) -> Volume:
    _settle(home)
    record = home.store.find_volume(name)
    return _shown(home, record, [user.name for user in users_of(home, name)])


def _shown(home: Home, record: VolumeRecord, users: list[str]) -> Volume:
    return Volume(record, mountpoint(home, record), tuple(sorted(set(users))))


def remove(home: Home, name: str) -> VolumeRecord:
    _settle(home)
    return making.take_away(home, name)


def prune(home: Home, params: VolumePrune) -> VolumesPruned:
    _settle(home)
    used = all_used(home)
    wanted = [
        record
        for record in home.store.volumes()
        if record.name not in used and not record.loose and _wanted(record, params)
    ]
    paths = {record.name: home.store.layout.volume(record.name) for record in wanted}
    sizes = trees_usage(paths.values()) if paths else {}
    gone, reclaimed = [], 0
    for record in wanted:
        with suppress(Conflict, NotFound):  # somebody took it, or removed it, meanwhile
            making.take_away(home, record.name)
            gone.append(record.name)
            reclaimed += sizes.get(paths[record.name], 0)
    home.events.publish("prune", ("", "", ""), {"reclaimed": str(reclaimed)}, type="volume")
    return VolumesPruned(tuple(gone), reclaimed)


def _wanted(record: VolumeRecord, params: VolumePrune) -> bool:
    return (
        (params.all or record.anonymous)
        and all(has_label(record.labels, label) for label in params.labels)
        and not any(has_label(record.labels, label) for label in params.without)
    )


def usage(home: Home) -> tuple[VolumeUsage, ...]:
    """What a volume that is a directory of the host's own has in it is not counted."""
    records, used = home.store.volumes(), all_used(home)
    held = {record.name: record for record in records}
    layout = home.store.layout
    paths = {
        record.name: (layout.volume_data if is_plain(record.options) else layout.volume)(
            record.name
        )
        for record in records
    }
    sizes = trees_usage(paths.values()) if paths else {}
    return tuple(
        VolumeUsage(name, used.get(name, 0), sizes.get(path, 0), is_cache(held[name]))
        for name, path in paths.items()
    )
