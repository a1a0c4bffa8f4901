"""Which volumes a machine gets: named ones, made on first use; its own, for the image's VOLUMEs and
where nobody named one; those of other machines. After that the machine's spec names them all.
"""

from __future__ import annotations

import os

import msgspec

from cove.engine.home import Base, Home
from cove.engine.volumes import disks, limited, making
from cove.engine.volumes.filling import fill, is_empty
from cove.engine.volumes.opening import find_mounted, open_mount
from cove.engine.volumes.users import is_mounted
from cove.errors import Conflict, NotFound
from cove.spec.machine import MachineSpec, Mount
from cove.spec.volume import (
    VolumeSpec,
    image_mounts,
    is_disk,
    is_limited,
    no_driver,
    parse_volumes_from,
    shared_mounts,
)
from cove.store.records import MachineRecord


def take(home: Home, spec: MachineSpec, base: Base, strata: tuple[int, ...]) -> MachineSpec:
    """The spec with its volumes, which are there and filled. Those that nobody named are loose
    until ``settle``.
    """
    mounts = spec.mounts
    for text in spec.volumes_from:
        mounts += _of_other(home, mounts, text)
    if spec.isolation == "container":
        mounts += image_mounts(mounts, base.config.volumes, spec.image)
    if spec.volume_driver not in ("", "local") and any(m.type == "volume" for m in mounts):
        raise no_driver(spec.volume_driver)
    spec = spec if mounts is spec.mounts else msgspec.structs.replace(spec, mounts=mounts)
    taken = take_mounts(home, spec, base, strata)
    return spec if taken is spec.mounts else msgspec.structs.replace(spec, mounts=taken)


def take_mounts(
    home: Home, spec: MachineSpec, base: Base, strata: tuple[int, ...]
) -> tuple[Mount, ...]:
    """Those of the spec; what they say of volumes is so when this returns."""
    mounts = spec.mounts
    if not any(mount.type == "volume" for mount in mounts):
        return mounts
    taken: list[Mount] = []
    try:
        for mount in mounts:
            taken.append(_take(home, mount) if mount.type == "volume" else mount)
        for mount in taken:
            if mount.type == "volume":
                _begin(home, mount, base, strata, vm=spec.isolation == "vm")
    except BaseException:
        give_up(home, tuple(taken))
        raise
    return tuple(taken)


def _of_other(home: Home, mounts: tuple[Mount, ...], text: str) -> tuple[Mount, ...]:
    name, _, mode = parse_volumes_from(text).partition(":")
    try:
        other = home.store.find_machine(name)
    except (NotFound, Conflict) as error:
        raise type(error)(
            error.message, origin=f"--volumes-from {text}", hint=error.hint, exit_code=125
        ) from error
    return shared_mounts(mounts, other.spec.mounts, read_only="ro" in mode.split(","))


def _take(home: Home, mount: Mount) -> Mount:
    wish = VolumeSpec(mount.source, mount.labels, mount.driver_options)
    record = making.make(home, wish, loose=True)
    return msgspec.structs.replace(
        mount, source=record.name, anonymous=mount.anonymous or not mount.source
    )


def _begin(home: Home, mount: Mount, base: Base, strata: tuple[int, ...], *, vm: bool) -> None:
    """What a start would refuse is refused now; what is empty is filled."""
    record = find_mounted(home, mount)
    if vm and is_disk(record.options):
        disks.check_mount(mount)
        disks.make(home, record, mount, base, strata)
        return
    if is_limited(record.options):
        disks.make_at(home, record, home.store.layout.volume_image(record.name),
                      (mount, base, strata))  # fmt: skip
        os.close(limited.mount(home, record, part=mount.subpath, origin=mount.origin))
        return
    os.close(open_mount(home, mount).fd)
    own = not record.options and not mount.subpath
    if mount.copy and own and is_empty(home, record) and not is_mounted(home, record.name):
        fill(home, record, mount, base, strata)


def check_there(home: Home, record: MachineRecord) -> None:
    """Under ``home.lock``, in which the machine's record is written, too."""
    for mount in record.spec.mounts:
        if mount.type == "volume":
            held = home.store.volume(mount.source)
            if held is None or held.removing:
                raise Conflict(
                    f"cannot create {record.name}: volume {mount.source} was removed just now",
                    origin=mount.origin,
                    exit_code=125,
                )


def settle(home: Home, record: MachineRecord) -> None:
    """The machine's record is there: its volumes stay as long as it does."""
    for mount in record.spec.mounts:
        held = home.store.volume(mount.source) if mount.anonymous else None
        if held is not None and held.loose:
            home.store.put_volume(msgspec.structs.replace(held, loose=False))


def give_up(home: Home, mounts: tuple[Mount, ...]) -> None:
    """Of a machine that was never recorded."""
    loose = (home.store.volume(mount.source) for mount in mounts if mount.anonymous)
    making.drop_loose(home, tuple(held.name for held in loose if held is not None and held.loose))
