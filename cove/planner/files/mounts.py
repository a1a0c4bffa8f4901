"""What is mounted into a machine besides its root: binds, volumes, tmpfs, generated files.

A source is a detached copy of what the engine opened and checked, never a path looked up again. The
engine makes the copy: it is in the host's mount namespace, and Linux 6.1 clones no mount of another
one. The machine attaches it below its own root, so that no symlink of an image leads out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from cove.errors import Unsupported, UsageError
from cove.plan.flags import AtFlags, MountAttr, MountFlags, OpenTreeFlags, Resolve
from cove.plan.ops import (
    NONE,
    CloneUserns,
    Fsmount,
    Mkdirat,
    Mknodat,
    MountSetattr,
    MoveMount,
    Op,
    OpenTree,
)
from cove.planner.place import BindSource, Place
from cove.spec.machine import MachineSpec, Mount

ROOT = "root"
"""The register of the machine's root mount."""

IN_ROOT = Resolve.RESOLVE_IN_ROOT | Resolve.RESOLVE_NO_MAGICLINKS
"""Symlinks of the image lead to places inside the image."""

NO_SYMLINKS = Resolve.RESOLVE_IN_ROOT | Resolve.RESOLVE_NO_SYMLINKS
"""For /proc, /sys and /dev: an image that puts a symlink there is refused."""

MAX_MOUNTS = 30
"""Registers of the op executor, and descriptors of one message, are limited."""

_S_IFREG = 0o100000
_CLONE = OpenTreeFlags.OPEN_TREE_CLONE | OpenTreeFlags.AT_EMPTY_PATH
_EMPTY = AtFlags.AT_EMPTY_PATH
_EMPTY_TREE = AtFlags.AT_EMPTY_PATH | AtFlags.AT_RECURSIVE

_PROPAGATION = {
    "private": MountFlags.MS_PRIVATE,
    "rprivate": MountFlags.MS_PRIVATE,
    "slave": MountFlags.MS_SLAVE,
    "rslave": MountFlags.MS_SLAVE,
    "shared": MountFlags.MS_SHARED,
    "rshared": MountFlags.MS_SHARED,
}

_TMPFS_WORDS = {
    "suid": (False, MountAttr.MOUNT_ATTR_NOSUID),
    "nosuid": (True, MountAttr.MOUNT_ATTR_NOSUID),
    "dev": (False, MountAttr.MOUNT_ATTR_NODEV),
    "nodev": (True, MountAttr.MOUNT_ATTR_NODEV),
    "exec": (False, MountAttr.MOUNT_ATTR_NOEXEC),
    "noexec": (True, MountAttr.MOUNT_ATTR_NOEXEC),
    "atime": (False, MountAttr.MOUNT_ATTR_NOATIME),
    "noatime": (True, MountAttr.MOUNT_ATTR_NOATIME),
}


def sources(spec: MachineSpec, place: Place) -> Iterator[tuple[int, Mount, BindSource]]:
    """The mounts that have a source on the host, with it, and with their index in the spec."""
    with_source = [(i, m) for i, m in enumerate(spec.mounts) if m.type != "tmpfs"]
    if len(with_source) != len(place.binds):
        raise UsageError(
            f"cannot plan mounts: {len(with_source)} in the spec, {len(place.binds)} prepared"
        )
    if len(spec.mounts) > MAX_MOUNTS:
        raise Unsupported(
            f"cannot mount {len(spec.mounts)} things: {MAX_MOUNTS} is the most",
            hint="mount a directory that holds them",
        )
    for (i, mount), source in zip(with_source, place.binds, strict=True):
        yield i, mount, source


@lru_cache(maxsize=64)
def clone_files(files: tuple[tuple[str, str], ...]) -> tuple[Op, ...]:
    """Host: generated files, target and register, while the host's mounts can still be cloned."""
    return tuple(
        OpenTree(f"file{i}", register, "", _CLONE, why=_generated(target))
        for i, (target, register) in enumerate(files)
    )


def set_attributes(spec: MachineSpec, place: Place, *, userns: bool) -> tuple[Op, ...]:
    """Host: propagation, read-only, no devices of volumes, and ids (inside equal to on disk),
    before anybody sees them.
    """
    ops: list[Op] = []
    callers: list[str] = []
    for _, mount, source in sources(spec, place):
        tree = _EMPTY_TREE if mount.recursive else _EMPTY
        attributes = MountAttr.MOUNT_ATTR_RDONLY if mount.read_only else MountAttr(0)
        # Who was privileged may have left a device node there, and nothing else keeps one shut.
        if mount.type == "volume" and not spec.security.privileged:
            attributes |= MountAttr.MOUNT_ATTR_NODEV
        ops.append(
            MountSetattr(
                source.register,
                "",
                tree,
                attributes,
                propagation=_PROPAGATION[mount.propagation],
                why=mount.origin,
            )
        )
        if source.idmap == "none":
            continue
        if mount.idmap != "none":
            if mount.idmap not in callers:
                callers.append(mount.idmap)
                ops.append(_one_caller(mount, f"caller{len(callers) - 1}", place.base))
            ops.append(_idmap(mount, source, f"caller{callers.index(mount.idmap)}"))
        elif userns:
            ops.append(_idmap(mount, source, "userns"))
    return tuple(ops)


@lru_cache(maxsize=64)
def own_files(targets: tuple[str, ...], *, userns: bool) -> tuple[Op, ...]:
    """Host: what is mounted over the generated files inside stays there, also where the host's
    mounts are shared, as systemd makes them; and root inside owns them.
    """
    attributes = MountAttr.MOUNT_ATTR_IDMAP if userns else MountAttr(0)
    return tuple(
        MountSetattr(
            f"file{i}",
            "",
            _EMPTY,
            attributes,
            propagation=MountFlags.MS_PRIVATE,
            userns="userns" if userns else NONE,
            why=_generated(target),
        )
        for i, target in enumerate(targets)
    )


def _one_caller(mount: Mount, register: str, base: int) -> Op:
    """Two ids of the host, which are those of the machine's root; there are no others."""
    uid, _, gid = mount.idmap.partition(":")
    maps = (f"{number} {base} 1" for number in (uid, gid))
    return CloneUserns(register, *maps, why=f"{mount.origin}: root inside is the caller on disk")


def _idmap(mount: Mount, source: BindSource, userns: str) -> Op:
    inside = "ids inside equal ids on disk" if userns == "userns" else "everybody else is nobody"
    tree = _EMPTY_TREE if source.idmap == "recursive" and mount.recursive else _EMPTY
    return MountSetattr(
        source.register, "", tree, MountAttr.MOUNT_ATTR_IDMAP, userns=userns,
        why=f"{mount.origin}: {inside}",
    )  # fmt: skip


def attach(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    """Machine: every mount at its target, outer ones first; missing targets are made."""
    by_index = {i: source for i, _, source in sources(spec, place)}
    ordered = sorted(enumerate(spec.mounts), key=lambda item: item[1].target.count("/"))
    ops: list[Op] = []
    for i, mount in ordered:
        _refuse_target(mount)
        if mount.type == "tmpfs":
            ops += _tmpfs(i, mount)
        else:
            ops += _point(mount.target, mount.origin, is_dir=by_index[i].is_dir)
            register = by_index[i].register
            ops.append(MoveMount(register, ROOT, mount.target, IN_ROOT, why=mount.origin))
    return tuple(ops)


def attach_files(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    """Machine: generated files over the image's own; they are no part of its file system."""
    taken = frozenset(mount.target for mount in spec.mounts if mount.target in place.files)
    taken |= place.unused
    return _attach_files(tuple(place.files), taken)


@lru_cache(maxsize=64)
def _attach_files(targets: tuple[str, ...], taken: frozenset[str]) -> tuple[Op, ...]:
    ops: list[Op] = []
    for i, target in enumerate(targets):
        if target in taken:
            continue
        ops += _point(target, _generated(target), is_dir=False)
        how = NO_SYMLINKS if target.startswith("/proc/") else IN_ROOT
        ops.append(MoveMount(f"file{i}", ROOT, target, how, why=_generated(target)))
    return tuple(ops)


def close_files(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    """Machine: a root that is read-only is so in the generated files as well."""
    taken = {mount.target for mount in spec.mounts} | place.unused
    registers = [f"file{i}" for i, target in enumerate(place.files) if target not in taken]
    return _close_files(tuple(registers)) if spec.security.read_only else ()


@lru_cache(maxsize=64)
def _close_files(registers: tuple[str, ...]) -> tuple[Op, ...]:
    return tuple(
        MountSetattr(register, "", _EMPTY, MountAttr.MOUNT_ATTR_RDONLY, why="--read-only")
        for register in registers
    )


def _tmpfs(index: int, mount: Mount) -> tuple[Op, ...]:
    attributes = (
        MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NODEV | MountAttr.MOUNT_ATTR_NOEXEC
    )
    options = ["source=tmpfs", f"mode={mount.mode:04o}"]
    if mount.size:
        options.append(f"size={mount.size}")
    for word in mount.options:
        if word in _TMPFS_WORDS:
            on, bit = _TMPFS_WORDS[word]
            attributes = attributes | bit if on else attributes & ~bit
        else:
            options.append(word)
    if mount.read_only:
        attributes |= MountAttr.MOUNT_ATTR_RDONLY
    register = f"mount{index}"
    return (
        Fsmount(register, "tmpfs", attributes, tuple(options), why=mount.origin),
        *_point(mount.target, mount.origin, is_dir=True),
        MoveMount(register, ROOT, mount.target, IN_ROOT, why=mount.origin),
    )


def _point(target: str, why: str, *, is_dir: bool) -> tuple[Op, ...]:
    if is_dir:
        return (Mkdirat(ROOT, target, 0o755, 0, 0, why=why),)
    return (Mknodat(ROOT, target, _S_IFREG | 0o644, 0, 0, 0, 0, why=why),)


def _refuse_target(mount: Mount) -> None:
    parts = [part for part in mount.target.split("/") if part]
    if not mount.target.startswith("/") or not parts or ".." in parts:
        raise UsageError(
            f'cannot mount on "{mount.target}": not a path below the machine\'s root',
            origin=mount.origin,
        )
    if parts[0] == "proc":
        raise UsageError(
            f"cannot mount on {mount.target}: /proc is the machine's own",
            origin=mount.origin,
            hint="mount it elsewhere, for example on /host/proc",
        )


def _generated(target: str) -> str:
    return {
        "/etc/hosts": "--add-host, --hostname: names the machine knows",
        "/etc/hostname": "--hostname",
        "/etc/resolv.conf": "--dns",
    }.get(target, f"default: {target} is generated")
