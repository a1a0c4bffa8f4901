"""The plan of a container when the daemon is an ordinary user: the parts that differ.

Everything is mounted by the child, in the user namespace that its own subordinate ids make: the
launcher has no privilege. Overlayfs keeps its marks in user.* attributes there. Device nodes are
the host's own, mounted one by one.
"""

from __future__ import annotations

from cove.errors import Unsupported, UsageError
from cove.plan.flags import MountAttr, MountFlags, OpenTreeFlags
from cove.plan.ops import (
    NONE,
    Chdir,
    Clone3,
    Fsmount,
    IdMap,
    Mkdirat,
    Mknodat,
    Mount,
    MoveMount,
    Op,
    OpenTree,
    Symlinkat,
)
from cove.planner.files.devices import DEV, DIRECTORIES, LINKS, NODES, TTY
from cove.planner.files.mounts import NO_SYMLINKS, ROOT
from cove.planner.files.overlay import lower_layers
from cove.planner.place import Place
from cove.planner.walls import Walls
from cove.planner.why import default
from cove.spec.machine import MachineSpec

_S_IFREG = 0o100000


def refuse(spec: MachineSpec, place: Place) -> None:
    """What only root's daemon can do, by name."""
    for mount in spec.mounts:
        if mount.type != "tmpfs":
            raise Unsupported(
                f"cannot mount {mount.source} as an ordinary user yet", origin=mount.origin
            )
    if spec.devices:
        raise Unsupported("cannot give devices as an ordinary user", origin=spec.devices[0].origin)
    if place.views:
        raise Unsupported("cannot use the host image as an ordinary user yet", origin=spec.image)
    if spec.network == "host":
        raise Unsupported(
            "cannot use the host's network as an ordinary user yet", origin="--network host"
        )
    if spec.network != "none":
        raise Unsupported(
            f"cannot connect to {spec.network} as an ordinary user yet",
            origin=f"--network {spec.network}",
        )


def begin(walls: Walls, place: Place) -> tuple[Op, ...]:
    """Host: the child, and the map of the user's own and subordinate ids."""
    if not place.uid:
        raise UsageError("cannot plan for an ordinary user: its uid is not known")
    uids = f"0 {place.uid} 1\n1 {place.base} 65535"
    gids = f"0 {place.gid} 1\n1 {place.base} 65535"
    return (
        Clone3(
            walls.namespaces,
            "cgroup" if place.cgroup_into else NONE,
            why=default("own ids, mounts, processes and host name"),
        ),
        IdMap(
            uids,
            gids,
            why=default(f"root inside is uid {place.uid}, the others are its subordinate ids"),
        ),
    )


def mount_root(place: Place) -> tuple[Op, ...]:
    """Machine: the layers with the writable layer on top."""
    lower, upper = lower_layers(place), f"u{place.key}"
    data = f"lowerdir={lower},upperdir={upper}/fs,workdir={upper}/work,userxattr"
    if place.volatile:
        data += ",volatile"
    why = "image: its layers below, what the machine writes above"
    return (
        Chdir(f"{place.root}/roots", why=default("short names: 500 layers fit into one mount")),
        Mount("overlay", "m", "overlay", MountFlags.MS_NODEV, data, why=why),
        OpenTree(ROOT, NONE, "m", OpenTreeFlags.OPEN_TREE_CLONE, why=why),
    )


def make_dev(*, tty: bool) -> tuple[Op, ...]:
    """Machine: /dev, a tmpfs, whose nodes will be the host's."""
    attributes = MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NOEXEC
    ops: list[Op] = [
        Fsmount(
            DEV,
            "tmpfs",
            attributes,
            ("source=tmpfs", "mode=0755", "size=65536k"),
            why=default("/dev of its own, nothing of the host's but six nodes"),
        )
    ]
    for name, _, _, reason in (*NODES, TTY):
        clone = OpenTreeFlags.OPEN_TREE_CLONE
        ops.append(OpenTree(f"node_{name}", NONE, f"/dev/{name}", clone, why=default(reason)))
        ops.append(Mknodat(DEV, name, _S_IFREG | 0o666, 0, 0, 0, 0, why=default(reason)))
    ops += [Mkdirat(DEV, name, 0o755, 0, 0, why=default(why)) for name, why in DIRECTORIES]
    links = (*LINKS, ("pts/0", "console", "the machine's terminal is its console"))
    for target, name, why in links if tty else LINKS:
        ops.append(Symlinkat(target, DEV, name, 0, 0, why=default(why)))
    return tuple(ops)


def attach_nodes() -> tuple[Op, ...]:
    """Machine: the host's nodes, once /dev is in its place."""
    return tuple(
        MoveMount(f"node_{name}", DEV, name, NO_SYMLINKS, why=default(reason))
        for name, _, _, reason in (*NODES, TTY)
    )
