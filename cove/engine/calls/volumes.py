"""The verbs of volumes."""

from __future__ import annotations

import msgspec

from cove.spec.volume import VolumeSpec
from cove.store.records import VolumeRecord


class VolumeCreate(msgspec.Struct, frozen=True):
    spec: VolumeSpec


class VolumeNamed(msgspec.Struct, frozen=True):
    name: str


class Volume(msgspec.Struct, frozen=True):
    record: VolumeRecord
    mountpoint: str
    """The directory of the host."""
    users: tuple[str, ...] = ()
    """Names of the machines that have it, whether they run or not."""


class VolumeList(msgspec.Struct, frozen=True):
    pass


class VolumesListed(msgspec.Struct, frozen=True):
    """By name."""

    volumes: tuple[Volume, ...]


class VolumeInspect(msgspec.Struct, frozen=True):
    volume: str


class VolumeRemove(msgspec.Struct, frozen=True):
    volume: str


class VolumeBackup(msgspec.Struct, frozen=True):
    """Its tar goes to the caller's sink."""

    volume: str


class VolumeRestore(msgspec.Struct, frozen=True):
    """From the tar in the call's body; it is made if there is none."""

    volume: str
    force: bool = False
    """Also where it has something in it, which is gone then."""
    coded: bool = True
    """The tar may be compressed."""


class VolumeClone(msgspec.Struct, frozen=True):
    volume: str
    name: str
    """Of the new one."""


class VolumePrune(msgspec.Struct, frozen=True):
    """Remove those that no machine has."""

    all: bool = False
    """Also those that somebody named."""
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class VolumesPruned(msgspec.Struct, frozen=True):
    names: tuple[str, ...] = ()
    reclaimed: int = 0
    """Bytes on the disk."""
