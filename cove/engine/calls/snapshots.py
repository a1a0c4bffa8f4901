"""The verbs of snapshots: what a machine was, to go back to and to begin others from."""

from __future__ import annotations

import msgspec

from cove.engine.calls.files import Change
from cove.store.records import SnapshotRecord


class SnapshotCreate(msgspec.Struct, frozen=True):
    machine: str
    name: str = ""
    """Empty: the machine's, with a number."""
    pause: bool = True
    """Freeze a running machine while what it wrote is copied."""


class Snapshot(msgspec.Struct, frozen=True):
    record: SnapshotRecord
    size: int
    """Bytes on disk above the image."""
    unique: int = 0
    """Bytes that only this snapshot needs: what its removal gives back."""
    machines: tuple[str, ...] = ()
    """Names of those that stand on it."""
    layers: tuple[str, ...] = ()
    """Their directories, lowest first; when inspected."""


class SnapshotList(msgspec.Struct, frozen=True):
    machine: str = ""
    """Only those of this one; its name or id, also when it is gone."""
    sizes: bool = True


class SnapshotsListed(msgspec.Struct, frozen=True):
    """Oldest first."""

    snapshots: tuple[Snapshot, ...]


class SnapshotInspect(msgspec.Struct, frozen=True):
    snapshot: str
    sizes: bool = True


class SnapshotRemove(msgspec.Struct, frozen=True):
    snapshot: str


class SnapshotNamed(msgspec.Struct, frozen=True):
    id: str
    name: str
    pause: float = 0.0
    """Seconds for which a virtual machine stood still."""


class SnapshotDiff(msgspec.Struct, frozen=True):
    snapshot: str
    other: str = ""
    """Empty: the machine as it is now."""


class SnapshotChanges(msgspec.Struct, frozen=True):
    """By path: what the second has added, changed and deleted."""

    changes: tuple[Change, ...]


class Restore(msgspec.Struct, frozen=True):
    machine: str
    snapshot: str = ""
    """Empty: the machine's latest."""
    timeout: int = 0
    """Seconds that a running machine has to end by itself."""


class Restored(msgspec.Struct, frozen=True):
    id: str
    name: str
    snapshot: str
    """The snapshot's name."""
    started: bool
    """It ran, and does again: its command began anew."""
    goes_on: bool = False
    """Unless this: its processes are those of the snapshot."""


class Fork(msgspec.Struct, frozen=True):
    machine: str
    count: int = 1
    name: str = ""
    """Of one fork; several are called so, with a number. Empty: the machine's, with a number."""
    pause: bool = True


class Forked(msgspec.Struct, frozen=True):
    machines: tuple[SnapshotNamed, ...]
    pause: float = 0.0
    """Seconds for which a virtual machine stood still."""
