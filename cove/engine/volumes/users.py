"""Who has which volume."""

from __future__ import annotations

from collections.abc import Iterator

from cove.engine.home import Home
from cove.engine.live import Live
from cove.linux.pidfd import wait_exit
from cove.spec.machine import MachineSpec, Mount
from cove.spec.volume import device_of, is_disk, is_limited
from cove.store.records import MachineRecord, VolumeRecord


def volume_mounts(spec: MachineSpec) -> Iterator[Mount]:
    return (mount for mount in spec.mounts if mount.type == "volume" and mount.source)


def has_volume(spec: MachineSpec, name: str) -> bool:
    return any(mount.source == name for mount in volume_mounts(spec))


def users_of(home: Home, name: str) -> list[MachineRecord]:
    """Machines that have it, whether they run or not."""
    return [record for record in home.store.machines() if has_volume(record.spec, name)]


def all_used(home: Home) -> dict[str, int]:
    """Each volume that machines have, and how many do."""
    found: dict[str, int] = {}
    for record in home.store.machines():
        for name in {mount.source for mount in volume_mounts(record.spec)}:
            found[name] = found.get(name, 0) + 1
    return found


def holders(home: Home, name: str, *, but: int = 0) -> list[str]:
    """Names of the machines that have it and run or start."""
    return [
        home.record(key).name
        for key, live in list(home.lives.items())
        if key != but
        and _runs(live)
        and home.store.has_machine(key)
        and has_volume(home.record(key).spec, name)
    ]


def is_mounted(home: Home, name: str) -> bool:
    """Some machine that has it runs or starts. One whose first process has ended sees nothing any
    more, whoever knows of that.
    """
    return bool(holders(home, name))


def _runs(live: Live) -> bool:
    if live.over or live.ended is not None or live.failure is not None:
        return False
    return live.pidfd < 0 or not wait_exit(live.pidfd, 0)


def publish(home: Home, action: str, name: str, words: dict[str, str] | None = None) -> None:
    home.events.publish(action, (name, name, ""), {"driver": "local"} | (words or {}),
                        type="volume")  # fmt: skip


def publish_mounts(home: Home, record: MachineRecord) -> None:
    for mount in volume_mounts(record.spec):
        words = {
            "container": record.id,
            "destination": mount.target,
            "propagation": "",
            "read/write": str(not mount.read_only).lower(),
        }
        publish(home, "mount", mount.source, words)


def publish_unmounts(home: Home, record: MachineRecord) -> None:
    for mount in volume_mounts(record.spec):
        publish(home, "unmount", mount.source, {"container": record.id})


def mountpoint(home: Home, record: VolumeRecord) -> str:
    if is_disk(record.options):
        return home.store.layout.volume_disk(record.name)
    if is_limited(record.options):
        return home.store.layout.volume_image(record.name)
    return device_of(record.options) or home.store.layout.volume_data(record.name)
