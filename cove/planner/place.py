"""Where a machine's parts are on this host: what the engine has prepared before it plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class BindSource:
    """The source of one mount of the spec."""

    register: str
    """Of the detached mount the engine made of what it opened and checked."""
    is_dir: bool = True
    idmap: Literal["recursive", "top", "none"] = "recursive"
    """What of it may be idmapped: with its submounts, alone, or not (its file system cannot, or
    in a guest: who serves it has done that).
    """
    layers: tuple[int, ...] = ()
    """Of an image that is mounted, lowest first: then the plan itself fills the register."""


@dataclass(frozen=True, slots=True)
class Place:
    """The state directory's share of a plan."""

    key: int
    root: str
    """The state directory."""
    base: int = 0
    """Host uid of the machine's root; 0 without a user namespace."""
    layers: tuple[int, ...] = ()
    """Layer keys, lowest first."""
    strata: tuple[int, ...] = ()
    """Keys of former writable layers above them, of snapshots and forks, lowest first."""
    own: int = 0
    """Key of the writable layer; 0: the machine's."""
    views: tuple[str, ...] = ()
    """Host directories of the ``host`` image, by target."""
    cgroup_files: tuple[str, ...] = ()
    """tasks (v1) or cgroup.procs (v2) files the machine writes itself into."""
    cgroup_into: bool = False
    """Register ``cgroup`` holds the machine's cgroup v2 group."""
    points: bool = True
    """With places for what is mounted: not for who takes the tree for what it is."""
    volatile: bool = False
    """The writable layer need not survive a crash of the host: it is removed at its end."""
    binds: tuple[BindSource, ...] = ()
    """One for each mount of the spec that is no tmpfs, in the spec's order."""
    files: dict[str, str] = field(default_factory=dict)
    """Generated files: target (``/etc/hosts``) to register."""
    unused: frozenset[str] = frozenset()
    """Of these targets, those that the image itself has the right file for."""
    hostname: str = ""
    devices: tuple[tuple[str, str, int, int, int], ...] = ()
    """path, type (``c`` or ``b``), major, minor, mode; paths as the machine sees them."""
    interpreters: tuple[tuple[str, str], ...] = ()
    """Architecture, and the program of this host that runs its programs; "": it is missing."""
    rows: int = 0
    columns: int = 0
    uid: int = 0
    """Rootless: the user's own uid, which is root inside; ``base`` is the first of its subuids."""
    gid: int = 0

    @property
    def upper(self) -> int:
        return self.own or self.key
