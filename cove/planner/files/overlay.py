"""A machine's root: the image's layers, the writable layer on top, and the host image's views.

One idmapped mount of the store serves all layers and the writable layer, so that ids on disk begin
at 0 and are stored once for every machine. overlayfs keeps the credentials of who mounts it; for
that moment the launcher takes the file system ids of the machine's root.
"""

from __future__ import annotations

from functools import lru_cache

from cove.errors import Unsupported
from cove.plan.flags import AtFlags, MountAttr, MountFlags, OpenTreeFlags
from cove.plan.ops import (
    NONE,
    Fchdir,
    Mount,
    MountSetattr,
    MoveMount,
    Op,
    OpenTree,
    Setfsuid,
)
from cove.planner.files.mounts import IN_ROOT, NO_SYMLINKS, ROOT
from cove.planner.place import BindSource, Place
from cove.planner.walls import Walls
from cove.planner.why import default

POINTS = "p"

_PAGE = 4096
_EMPTY = AtFlags.AT_EMPTY_PATH
_CLONE = OpenTreeFlags.OPEN_TREE_CLONE


def clone_views(place: Place) -> tuple[Op, ...]:
    """The host's own directories that the ``host`` image shows."""
    return tuple(
        OpenTree(
            f"low{i}",
            NONE,
            target,
            _CLONE,
            why=f"image host: the host's {target} is its lower layer",
        )
        for i, target in enumerate(place.views)
    )


@lru_cache(maxsize=64)
def _open_store(userns: bool, path: str) -> tuple[Op, ...]:
    short = Fchdir("store", why=default("short names: 500 layers fit into one mount"))
    if not userns:
        why = default("layers and writable layers of all machines")
        return (OpenTree("store", NONE, path, OpenTreeFlags(0), why=why), short)
    why = default("ids on disk begin at 0, and are this machine's inside: stored once for all")
    return (
        OpenTree("store", NONE, path, _CLONE, why=why),
        MountSetattr("store", "", _EMPTY, MountAttr.MOUNT_ATTR_IDMAP, userns="userns", why=why),
        MoveMount("store", NONE, path, why=default("Linux 6.1 takes layers by path only")),
        short,
    )


def open_store(walls: Walls, root: str) -> tuple[Op, ...]:
    return _open_store(walls.userns, f"{root}/roots")


def lower_layers(place: Place) -> str:
    """What its snapshots wrote, and the image below."""
    layers = stacked(place.layers)
    if not place.points:
        layers = layers.removesuffix(f":{POINTS}")
    return ":".join([*strata(place, "fs"), layers])


def stacked(layers: tuple[int, ...]) -> str:
    """An image's layers, the highest first; below them ``p``, where the kernel's file systems and
    the generated files find something to be mounted on: making it in an overlay takes 60 us each.
    Of a layer that is there twice the higher one says all; overlayfs refuses the other.
    """
    return ":".join([*(f"l{key}" for key in dict.fromkeys(reversed(layers))), POINTS])


def strata(place: Place, part: str) -> list[str]:
    """What its snapshots wrote, the highest first."""
    return [f"u{key}/{part}" for key in reversed(place.strata)]


def mount_root(walls: Walls, place: Place) -> tuple[Op, ...]:
    """The image's layers with the machine's writable layer on top."""
    lower = lower_layers(place)
    why = "image: its layers below, what the machine writes above"
    if place.strata:
        why += "; between them what snapshots of it wrote"
    if place.volatile:
        why += "; --rm: never synced"
    return _overlay(walls, place, ROOT, lower, ("fs", "work"), why)


def mount_views(walls: Walls, place: Place) -> tuple[Op, ...]:
    """Copy-on-write copies of the host's directories, for the ``host`` image."""
    ops: list[Op] = []
    for i, target in enumerate(place.views):
        why = f"image host: {target} as on the host; what the machine writes stays its own"
        at = f"v{i}"
        if walls.userns:
            ops.append(
                MountSetattr(
                    f"low{i}", "", _EMPTY, MountAttr.MOUNT_ATTR_IDMAP, userns="userns", why=why
                )
            )
        ops.append(MoveMount(f"low{i}", "store", at, IN_ROOT, why=why))
        lower = ":".join([*strata(place, f"v{i}"), at])
        ops += _overlay(walls, place, f"up{i}", lower, (f"v{i}", f"w{i}"), why)
    return tuple(ops)


def mount_images(place: Place) -> tuple[Op, ...]:
    """Other images, read-only, for ``--mount type=image``."""
    ops: list[Op] = []
    for source in place.binds:
        if source.layers:
            why = "--mount type=image: the layers of another image"
            data = f"lowerdir={stacked(source.layers)}"
            flags = MountFlags.MS_RDONLY | MountFlags.MS_NODEV
            ops.append(Mount("overlay", "m", "overlay", flags, _fitting(data, source), why=why))
            ops += _take(source.register)
    return tuple(ops)


def _fitting(data: str, source: BindSource) -> str:
    if len(data) >= _PAGE:
        raise Unsupported(
            f"cannot mount {len(source.layers)} layers: mount(2) takes {_PAGE} bytes of options"
        )
    return data


def _overlay(
    walls: Walls, place: Place, register: str, lower: str, upper: tuple[str, str], why: str
) -> tuple[Op, ...]:
    own = f"u{place.upper}"
    data = f"lowerdir={lower},upperdir={own}/{upper[0]},workdir={own}/{upper[1]}"
    if place.volatile:
        data += ",volatile"
    if len(data) >= _PAGE:
        raise Unsupported(
            f"cannot mount {len(place.layers)} layers: mount(2) takes {_PAGE} bytes of options"
        )
    flags = MountFlags(0) if walls.privileged else MountFlags.MS_NODEV
    mount = Mount("overlay", "m", "overlay", flags, data, why=why)
    return (mount, *_take(register))


@lru_cache(maxsize=16)
def _take(register: str) -> tuple[Op, ...]:
    return (OpenTree(register, NONE, "m", _CLONE, why=default("a copy to hand over")),)


def as_root_inside(walls: Walls, base: int) -> tuple[Op, ...]:
    """What is mounted and made from here on belongs to the machine's root."""
    return _inside(base) if walls.userns else ()


@lru_cache(maxsize=64)
def _inside(base: int) -> tuple[Op, ...]:
    why = default("overlayfs writes with the ids of who mounts it, devices belong to their maker")
    return (Setfsuid(base, base, why=why),)


@lru_cache(maxsize=1)
def _outside() -> tuple[Op, ...]:
    return (Setfsuid(0, 0, why=default("back to the launcher's own ids")),)


def as_root_outside(walls: Walls) -> tuple[Op, ...]:
    return _outside() if walls.userns else ()


def attach_views(place: Place) -> tuple[Op, ...]:
    return tuple(
        MoveMount(
            f"up{i}",
            ROOT,
            target,
            NO_SYMLINKS,
            why=f"image host: {target} as on the host; what the machine writes stays its own",
        )
        for i, target in enumerate(place.views)
    )
