"""The verbs on names and history of images, on the room that things take, and on giving it back."""

from __future__ import annotations

import msgspec

from cove.engine.calls.images import Image, ImageRemoved
from cove.store.records import CacheRecord, MachineRecord


class ImageTag(msgspec.Struct, frozen=True):
    image: str
    """Name, id, or beginning of an id."""
    name: str
    """What it shall be called, too."""


class ImageHistory(msgspec.Struct, frozen=True):
    image: str
    platform: str = ""
    """Of several that a name means the one for it; refuse one for another."""


class HistoryEntry(msgspec.Struct, frozen=True):
    """One step that made an image."""

    id: str = ""
    """The image's, for the newest step; of the others none is known."""
    created: float = 0.0
    """0: unknown."""
    created_by: str = ""
    comment: str = ""
    size: int = 0
    """Bytes of its layer; 0 where it made none."""


class History(msgspec.Struct, frozen=True):
    """Newest first."""

    entries: tuple[HistoryEntry, ...]


class ImagePrune(msgspec.Struct, frozen=True):
    """Remove images without a name."""

    all: bool = False
    """Also those with names, if no machine is made of them."""
    until: float = 0.0
    """Only those made before; 0: whenever."""
    labels: tuple[str, ...] = ()
    """Only those with all of these: ``name`` or ``name=value``."""
    without: tuple[str, ...] = ()
    """Only those with none of these."""


class ImagesPruned(msgspec.Struct, frozen=True):
    removed: tuple[ImageRemoved, ...] = ()
    reclaimed: int = 0
    """Bytes on the disk: of layers, and of what unfinished pulls had kept."""


class SystemPrune(msgspec.Struct, frozen=True):
    """Remove what does not run, then what nothing is made of; fields as of the other prunes."""

    all: bool = False
    until: float = 0.0
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    volumes: bool = False
    """Also volumes that nobody named and no machine has."""


class SystemPruned(msgspec.Struct, frozen=True):
    machines: tuple[str, ...] = ()
    images: tuple[ImageRemoved, ...] = ()
    reclaimed: int = 0
    networks: tuple[str, ...] = ()
    """Names."""
    volumes: tuple[str, ...] = ()
    """Names."""


class ImageUsage(msgspec.Struct, frozen=True):
    """Bytes on the disk."""

    image: Image
    shared: int
    """Of layers that other images have too."""
    unique: int


class MachineUsage(msgspec.Struct, frozen=True):
    record: MachineRecord
    writable: int
    """Bytes on the disk."""


class SnapshotUsage(msgspec.Struct, frozen=True):
    """What snapshots and forks share with each other."""

    count: int = 0
    active: int = 0
    """Snapshots that a machine stands on."""
    size: int = 0
    idle: int = 0
    """Bytes that no machine stands on."""


class VolumeUsage(msgspec.Struct, frozen=True):
    name: str
    links: int
    """Machines that have it."""
    size: int
    """Bytes on the disk."""
    cache: bool = False
    """Of builds, among which it is counted."""


class CacheUsage(msgspec.Struct, frozen=True):
    """What a step of a build made."""

    record: CacheRecord
    size: int
    """Bytes on the disk; 0 where an earlier step made the same."""
    shared: bool
    """An image has it, too."""
    kind: str = "regular"
    """Or ``exec.cachemount``."""
    in_use: bool = False
    """A build that runs holds it."""


class DiskUsage(msgspec.Struct, frozen=True):
    """Bytes on the disk; what several images have is counted once."""

    images: tuple[ImageUsage, ...]
    machines: tuple[MachineUsage, ...]
    layers: int
    """Of all layers, with what unfinished pulls have kept."""
    needed: int
    """Of the layers that machines are made of."""
    unfinished: int
    """Of blobs that came in part."""
    snapshots: SnapshotUsage = SnapshotUsage()
    volumes: tuple[VolumeUsage, ...] = ()
    steps: int = 0
    """Of builds, of which the cache knows what they made, and cache mounts."""
    cache: int = 0
    """Of layers that only the cache has, and of cache mounts."""
    cached: tuple[CacheUsage, ...] = ()
    """The steps, oldest first, then the cache mounts."""
