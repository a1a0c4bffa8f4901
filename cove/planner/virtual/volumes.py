"""Volumes and binds of a virtual machine, as its guest mounts them: directories that the host
shares, through one device for all of them, and disks of the machine's own.

Each becomes a register, as the daemon's descriptors do for a container; from there on it is the
same plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cove.plan.flags import MountFlags, OpenTreeFlags
from cove.plan.ops import NONE, Mkdirat, Mount, Op, OpenTree
from cove.plan.vm_ops import Disk, Listen
from cove.planner.place import BindSource

SHARE = "share"
"""Tag of the device, and register of the socket."""
DATA = "_data"
"""The directory of a volume's disk that machines see; beside it is what its file system needs."""

SOCKETS = "sockets"

_CLONE = OpenTreeFlags.OPEN_TREE_CLONE


@dataclass(frozen=True, slots=True)
class VolumeDisk:
    serial: str
    """Also the register of its descriptor."""
    read_only: bool
    why: str


@dataclass(frozen=True, slots=True)
class Socket:
    """Whose it is."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Shown:
    """The source of one mount of the spec."""

    index: int
    """In the spec, among what is shared, and among sockets."""
    disk: str = ""
    """Serial of the disk that it is on; empty: it is shared."""
    is_dir: bool = True
    why: str = ""
    socket: Socket | None = None
    """It is one of the guest's own, at which the host takes who comes."""

    @property
    def register(self) -> str:
        return f"bind{self.index}"


@dataclass(frozen=True, slots=True)
class Volumes:
    shown: tuple[Shown, ...] = ()
    """One for each mount of the spec that is no tmpfs, in its order."""
    disks: tuple[VolumeDisk, ...] = ()

    @property
    def shared(self) -> bool:
        return any(not (shown.disk or shown.socket) for shown in self.shown)

    @property
    def binds(self) -> tuple[BindSource, ...]:
        return tuple(BindSource(it.register, it.is_dir, "none") for it in self.shown)


NO_VOLUMES = Volumes()


def open_volumes(volumes: Volumes, store: str) -> Iterator[Op]:
    """Before the plan's child is made."""
    share = f"{store}/{SHARE}"
    if volumes.shared:
        why = "-v: directories of the host"
        yield Mkdirat(NONE, share, 0o700, 0, 0, why=why)
        yield Mount(SHARE, share, "virtiofs", MountFlags.MS_NODEV, "", why=why)
    for disk in volumes.disks:
        at = f"{store}/{disk.serial}"
        yield Mkdirat(NONE, at, 0o700, 0, 0, why=disk.why)
        yield Disk(disk.serial, f"{at}.disk", why=disk.why)
        flags = MountFlags.MS_NODEV | (MountFlags.MS_RDONLY if disk.read_only else MountFlags(0))
        yield Mount(f"{at}.disk", at, "ext4", flags, "", why=disk.why)
    for shown in volumes.shown:
        path = f"{store}/{shown.disk}/{DATA}" if shown.disk else f"{share}/{shown.index}"
        if shown.socket is not None:
            path, its = f"{store}/{SOCKETS}/{shown.index}", shown.socket
            yield Mkdirat(NONE, f"{store}/{SOCKETS}", 0o700, 0, 0, why=shown.why)
            yield Listen(shown.index, path, its.mode, its.uid, its.gid, why=shown.why)
        yield OpenTree(shown.register, NONE, path, _CLONE, why=shown.why)
