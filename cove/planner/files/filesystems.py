"""The kernel's own file systems as a machine sees them: proc, sys, terminals, masks, sysctls.

Each is mounted anew, inside the machine's namespaces, so that it shows those only; what it shows
of the host all the same is masked or read-only.
"""

from __future__ import annotations

from functools import lru_cache

import cove.planner.defaults as defaults
from cove.errors import UsageError
from cove.plan.flags import AtFlags, MountAttr, MountFlags, OpenTreeFlags, Resolve
from cove.plan.ops import (
    NONE,
    Fsmount,
    Mask,
    Mkdirat,
    MountSetattr,
    MoveMount,
    Op,
    OpenTree,
    Readonly,
    Sysctl,
)
from cove.planner.files import paths
from cove.planner.files.devices import DEV
from cove.planner.files.mounts import NO_SYMLINKS, ROOT
from cove.planner.walls import Walls
from cove.planner.why import default, option, size

ATTACH_AT = "/"
"""Where the machine's root is attached before it becomes /: over the host's, in the child's mount
namespace. No other path is on every host and open to the mapped root.
"""

NOSUID, NODEV = MountAttr.MOUNT_ATTR_NOSUID, MountAttr.MOUNT_ATTR_NODEV
NOEXEC, RDONLY = MountAttr.MOUNT_ATTR_NOEXEC, MountAttr.MOUNT_ATTR_RDONLY
_EMPTY = AtFlags.AT_EMPTY_PATH


@lru_cache(maxsize=8)
def clone_host_sysfs(walls: Walls) -> tuple[Op, ...]:
    """A user namespace cannot mount the sysfs of a network it does not own."""
    if walls.own_network or not walls.userns:
        return ()
    why = "--network host: the host's sysfs, read-only, since it shows the host's network"
    return (
        OpenTree("sys", NONE, "/sys", OpenTreeFlags.OPEN_TREE_CLONE, why=why),
        MountSetattr(
            "sys",
            "",
            _EMPTY,
            RDONLY | NOSUID | NODEV | NOEXEC,
            propagation=MountFlags.MS_PRIVATE,
            why=why,
        ),
    )


def own_file_systems(walls: Walls, *, shm: int, cgroup2: bool) -> tuple[Op, ...]:
    """Fresh file systems of the kernel, which show this machine's namespaces only."""
    shm_why = option("shm-size", size(shm)) if shm else default(defaults.SHM_WHY)
    return (*_kernel_file_systems(walls, cgroup2), *_shared_memory(shm or defaults.SHM, shm_why))


@lru_cache(maxsize=64)
def _shared_memory(count: int, why: str) -> tuple[Op, ...]:
    options = ("source=shm", "mode=1777", f"size={count}")
    return (Fsmount("shm", "tmpfs", NOSUID | NODEV | NOEXEC, options, why=why),)


@lru_cache(maxsize=16)
def _kernel_file_systems(walls: Walls, cgroup2: bool) -> tuple[Op, ...]:
    writable = MountAttr(0) if walls.privileged else RDONLY
    sys_why = default("sysfs, read-only: hardware is the host's")
    if walls.privileged:
        sys_why = "--privileged: sysfs, writable"
    ops: list[Op] = [
        Fsmount(
            "proc",
            "proc",
            NOSUID | NODEV | NOEXEC,
            ("source=proc",),
            why=default("shows the machine's own processes only"),
        )
    ]
    if walls.own_network or not walls.userns:
        ops.append(
            Fsmount(
                "sys", "sysfs", NOSUID | NODEV | NOEXEC | writable, ("source=sysfs",), why=sys_why
            )
        )
    ops += [
        Fsmount(
            "pts",
            "devpts",
            NOSUID | NOEXEC,
            ("source=devpts", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            why=default("terminals of the machine's own"),
        ),
        Fsmount(
            "mqueue",
            "mqueue",
            NOSUID | NODEV | NOEXEC,
            ("source=mqueue",),
            why=default("message queues of the machine's own"),
        ),
    ]
    if walls.masked:
        ops.append(
            Fsmount(
                "empty",
                "tmpfs",
                NOSUID | NODEV | NOEXEC | RDONLY,
                ("source=tmpfs", "mode=0555"),
                why=default("an empty directory, to lay over what must not be seen"),
            )
        )
    if cgroup2:
        ops.append(
            Fsmount(
                "cgroups",
                "cgroup2",
                NOSUID | NODEV | NOEXEC | writable,
                ("source=cgroup",),
                why=default("shows the machine's own control group as the top"),
            )
        )
    return tuple(ops)


def sysctls(wanted: tuple[tuple[str, str], ...], walls: Walls) -> tuple[Op, ...]:
    """Settings of the machine's own namespaces; any other sysctl is the host's."""
    own_network = walls.own_network and not walls.joined
    if not wanted:
        return _default_sysctls(own_network)
    asked = {name.replace("/", "."): value for name, value in wanted}
    ops = [
        op
        for op in _default_sysctls(own_network)
        if isinstance(op, Sysctl) and op.name.replace("/", ".") not in asked
    ]
    for name, value in asked.items():
        _refuse_sysctl(name, value, walls)
        why = option("sysctl", f"{name}={value}")
        ops.append(Sysctl("proc", name.replace(".", "/"), value, why=why))
    return tuple(ops)


@lru_cache(maxsize=2)
def _default_sysctls(own_network: bool) -> tuple[Op, ...]:
    if not own_network:
        return ()
    return tuple(
        Sysctl("proc", s.name.replace(".", "/"), s.value, why=default(s.why))
        for s in defaults.NETWORK_SYSCTLS
    )


def _refuse_sysctl(name: str, value: str, walls: Walls) -> None:
    origin = f"--sysctl {name}={value}"
    kind = next((kind for p, kind in defaults.SYSCTL_PREFIXES if name.startswith(p)), "")
    if not kind or ".." in name:
        raise UsageError(
            f"cannot set sysctl \"{name}\": it is not the machine's own but the host's",
            origin=origin,
            hint="net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* can be set",
        )
    if kind == "network" and not walls.own_network:
        raise UsageError(
            f'cannot set sysctl "{name}": the network is the host\'s',
            origin=f"{origin} --network host",
        )


@lru_cache(maxsize=2)
def attach_kernel(cgroup2: bool) -> tuple[Op, ...]:
    """Machine: over the host's own, which this mount namespace has a copy of. There nothing of an
    image can be in the way, and Linux 6.1 mounts nothing onto a mount that is not attached.
    """
    why = default("the machine's own, over the host's, until there is a root")
    places = (
        ("proc", NONE, "/proc"),
        ("sys", NONE, "/sys"),
        (DEV, NONE, "/dev"),
        ("pts", DEV, "pts"),
        ("shm", DEV, "shm"),
        ("mqueue", DEV, "mqueue"),
        *((("cgroups", "sys", "fs/cgroup"),) if cgroup2 else ()),
    )
    return tuple(
        MoveMount(
            register,
            root,
            path,
            Resolve.RESOLVE_NO_SYMLINKS if root == NONE else NO_SYMLINKS,
            why=why,
        )
        for register, root, path in places
    )


@lru_cache(maxsize=2)
def attach_root(handlers: tuple[Op, ...] = ()) -> tuple[Op, ...]:
    """Machine: the root, and in it the kernel's file systems with all that covers their paths.
    ``handlers`` are covered by /dev.
    """
    ops: list[Op] = [
        MountSetattr(
            NONE,
            "/",
            AtFlags.AT_RECURSIVE,
            propagation=MountFlags.MS_PRIVATE,
            why=default("nothing the host mounts later appears inside"),
        ),
        MoveMount(ROOT, NONE, ATTACH_AT, why=default("the root is mounted before it becomes /")),
        *handlers,
    ]
    why = default("the machine's own; an image with a symlink here is refused")
    for register, path, mode in (("proc", "proc", 0o555), ("sys", "sys", 0o555), (DEV, DEV, 0o755)):
        ops.append(Mkdirat(ROOT, path, mode, 0, 0, why=default("images may lack it")))
        ops.append(MoveMount(register, ROOT, path, NO_SYMLINKS, why=why))
    return tuple(ops)


@lru_cache(maxsize=2)
def _hide(masked: bool) -> tuple[Op, ...]:
    if not masked:
        return ()
    return (
        OpenTree(
            "null",
            DEV,
            "null",
            OpenTreeFlags(0),
            why=default("a file that is empty, to lay over what must not be seen"),
        ),
        OpenTree("top", NONE, "/", OpenTreeFlags(0), why=default("where proc and sys are by now")),
        Mask(
            "top",
            "null",
            "empty",
            tuple(paths.MASKED),
            why=default("the host's memory, hardware, keys and processes do not show"),
        ),
        Readonly(
            "top",
            tuple(paths.READONLY),
            why=default("settings of the kernel are the host's"),
        ),
    )


def hide(walls: Walls) -> tuple[Op, ...]:
    return _hide(walls.masked)
