"""The plans that copy files in and out of a machine, or read what it wrote.

The files are read and written by cove's own archiver (``init/archive*.c``), which a machine cannot
see, signal or trace: it joins the machine's ids and mounts, never its processes. It stands behind
walls of its own, because what it reads is the machine's: few capabilities of the machine's user
namespace, no new privileges, and the system calls of its list.
"""

from __future__ import annotations

from dataclasses import replace as changed

import msgspec

import cove.planner.process as process
from cove.plan.facts import Facts
from cove.plan.flags import (
    AtFlags,
    CloneFlags,
    MountAttr,
    MountFlags,
    OpenTreeFlags,
    PrctlOption,
)
from cove.plan.ops import (
    NONE,
    Archive,
    Capbset,
    Capset,
    Chdir,
    Clone3,
    Fsmount,
    Mkdirat,
    Mount,
    MountSetattr,
    MoveMount,
    Op,
    OpenTree,
    PivotRoot,
    Plan,
    Prctl,
    Recv,
    Send,
    Setids,
    Setns,
    Stdio,
    Unshare,
)
from cove.planner.capabilities import mask_of
from cove.planner.container import (
    hand_over,
    leave_host_mounts,
    map_ids,
    receive_root,
    say_mapped,
    wait_mapped,
)
from cove.planner.files.filesystems import ATTACH_AT
from cove.planner.files.mounts import IN_ROOT, NO_SYMLINKS, ROOT, attach, set_attributes
from cove.planner.files.overlay import (
    as_root_inside,
    as_root_outside,
    attach_views,
    clone_views,
    lower_layers,
    mount_root,
    mount_views,
    open_store,
    strata,
)
from cove.planner.place import Place
from cove.planner.walls import walls_of
from cove.planner.why import default
from cove.spec.machine import MachineSpec, Security

COPIER = ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "SETFCAP")
"""In the machine's user namespace: any file of its own, as its root."""

READER = ("DAC_READ_SEARCH", "SYS_ADMIN")
"""SYS_ADMIN, because overlayfs's notes are trusted.* attributes."""

_CLONE = OpenTreeFlags.OPEN_TREE_CLONE
_EMPTY = AtFlags.AT_EMPTY_PATH
_WHY = "copy: "


def plan_running(
    machine: MachineSpec, facts: Facts, place: Place, words: tuple[str, ...], *, bare: bool = False
) -> Plan:
    """In the mounts of a machine that runs, or (``bare``) in its root alone, with nothing mounted
    over it.
    """
    userns = walls_of(machine, facts).userns
    joined = CloneFlags.CLONE_NEWNS | (CloneFlags.CLONE_NEWUSER if userns else CloneFlags(0))
    return Plan(
        host=(*_begin(CloneFlags(0)), _go()),
        machine=(
            *process.die_with_monitor(),
            _wait(),
            Setns("target", joined, why=_WHY + "the machine's own ids and mounts, and its root"),
            *(_root_of_machine() if userns else ()),
            *(_bare_root(place) if bare else ()),
            *_archive(words, COPIER),
        ),
    )


def plan_stopped(
    machine: MachineSpec, facts: Facts, place: Place, words: tuple[str, ...], *, bare: bool = False
) -> Plan:
    """In the root of a machine that does not run, mounted for this alone; with its binds."""
    spec = msgspec.structs.replace(
        machine,
        mounts=() if bare else tuple(m for m in machine.mounts if m.type != "tmpfs"),
        security=Security(),
        network="none",
    )
    walls = walls_of(spec, facts)
    place = changed(place, volatile=False, files={})
    kinds = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWPID
    if walls.userns:  # in a guest, whose kernel is the wall, ids are its own
        kinds |= CloneFlags.CLONE_NEWUSER
    return Plan(
        host=(
            *leave_host_mounts(),
            *_begin(kinds | CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC),
            *map_ids(walls, place.base),
            *say_mapped(walls),
            *open_store(walls, place.root),
            *clone_views(place),
            *as_root_inside(walls, place.base),
            *mount_root(walls, place),
            *mount_views(walls, place),
            *as_root_outside(walls),
            *set_attributes(spec, place, userns=True),
            *hand_over(place),
        ),
        machine=(
            *process.die_with_monitor(),
            *wait_mapped(walls),
            *_root_of_machine(),
            *receive_root(place),
            _private(),
            MoveMount(ROOT, NONE, ATTACH_AT, why=_WHY + "the machine's root"),
            *attach_views(place),
            *attach(spec, place),
            PivotRoot(ROOT, why=_WHY + "nothing of the host is there any more"),
            *_archive(words, COPIER),
        ),
    )


def plan_tree(facts: Facts, base: int, words: tuple[str, ...], *, writes: bool) -> Plan:
    """In a tree of the daemon's that machines' files are in, as its root: a volume. The register
    ``root`` is a copy of its mount; ids inside are those on disk.
    """
    walls = walls_of(MachineSpec(image=""), facts)
    kinds = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWPID | CloneFlags.CLONE_NEWUSER
    why = _WHY + "the volume, and nothing else of the host"
    shut = MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NODEV | MountAttr.MOUNT_ATTR_NOEXEC
    if not writes:
        shut |= MountAttr.MOUNT_ATTR_RDONLY
    return Plan(
        host=(
            *leave_host_mounts(),
            *_begin(kinds | CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC),
            *map_ids(walls, base),
            *say_mapped(walls),
            # Private: pivot_root takes no root that shares mounts with the host's.
            MountSetattr(ROOT, "", _EMPTY, shut | MountAttr.MOUNT_ATTR_IDMAP,
                         propagation=MountFlags.MS_PRIVATE, userns="userns", why=why),
            Send(why=why),
        ),
        machine=(
            *process.die_with_monitor(),
            *wait_mapped(walls),
            *_root_of_machine(),
            Recv(why=why),
            _private(),
            MoveMount(ROOT, NONE, ATTACH_AT, why=why),
            PivotRoot(ROOT, why=_WHY + "nothing of the host is there any more"),
            *_archive(words, COPIER),
        ),
    )  # fmt: skip


def plan_layer(place: Place, action: str) -> Plan:
    """Beside the writable layer what lies below it, both read-only. This one is no part of the
    machine's user namespace: only the host's root is shown overlayfs's notes. It can read files,
    and nothing else.
    """
    words = [action, "", "/u/0", "/l/0"]
    for i, target in enumerate(place.views):
        words += [target.strip("/"), f"/u/{i + 1}", f"/l/{i + 1}"]
    kinds = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWPID
    return Plan(
        host=(
            *leave_host_mounts(),
            *_begin(kinds | CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC),
            _go(),
        ),
        machine=(
            *process.die_with_monitor(),
            _wait(),
            _private(),
            *_layers(place),
            PivotRoot(ROOT, why=_WHY + "nothing of the host is there any more"),
            *_archive(tuple(words), READER),
        ),
    )


def _layers(place: Place) -> tuple[Op, ...]:
    why = _WHY + "what the machine wrote, and what lies below it"
    roots = f"{place.root}/roots"
    own = f"{roots}/u{place.upper}"
    pairs = [(f"{own}/fs", f"{roots}/m")]
    pairs += [(f"{own}/v{i}", view) for i, view in enumerate(place.views)]
    ops: list[Op] = []
    if place.layers or place.strata:
        ops.append(Chdir(roots, why=default("short names: 500 layers fit into one mount")))
        ops.append(_stack("m", lower_layers(place), why))
    else:
        pairs[0] = (pairs[0][0], f"{roots}/p")
    for i, view in enumerate(place.views if place.strata else ()):
        ops.append(_stack(f"v{i}", ":".join([*strata(place, f"v{i}"), view]), why))
        pairs[i + 1] = (pairs[i + 1][0], f"{roots}/v{i}")
    shut = (
        MountAttr.MOUNT_ATTR_RDONLY | MountAttr.MOUNT_ATTR_NOSUID
        | MountAttr.MOUNT_ATTR_NODEV | MountAttr.MOUNT_ATTR_NOEXEC
    )  # fmt: skip
    for i, pair in enumerate(pairs):
        for letter, source in zip("ul", pair, strict=True):
            register = f"{letter}{i}"
            ops.append(OpenTree(register, NONE, source, _CLONE, why=why))
            ops.append(MountSetattr(register, "", _EMPTY, shut, why=_WHY + "only read"))
    ops.append(Fsmount(ROOT, "tmpfs", MountAttr(0), ("source=copy",), why=_WHY + "an empty root"))
    ops.append(MoveMount(ROOT, NONE, ATTACH_AT, why=_WHY + "an empty root"))
    for i in range(len(pairs)):
        for letter in "ul":
            path = f"{letter}/{i}"
            ops.append(Mkdirat(ROOT, path, 0o755, 0, 0, why=why))
            ops.append(MoveMount(f"{letter}{i}", ROOT, path, IN_ROOT, why=why))
    return tuple(ops)


def _stack(target: str, lower: str, why: str) -> Op:
    return Mount("overlay", target, "overlay", MountFlags(0), f"lowerdir={lower}", why=why)


def ends_with_daemon(plan: Plan) -> Plan:
    """A plan that no monitor runs."""
    first = Prctl(PrctlOption.PR_SET_PDEATHSIG, 9, why=_WHY + "ends with the daemon")
    return Plan((first, *plan.host), plan.machine, plan.guest)


def _begin(kinds: CloneFlags) -> tuple[Op, ...]:
    return (
        Prctl(PrctlOption.PR_SET_PDEATHSIG, 9, why=_WHY + "ends with the daemon"),
        Clone3(kinds, NONE, why=_WHY + "a process that the machine does not see"),
    )


def _go() -> Op:
    return Send(why=_WHY + "the child waits until the launcher knows it")


def _wait() -> Op:
    return Recv(why=_WHY + "the child waits until the launcher knows it")


def _root_of_machine() -> tuple[Op, ...]:
    return (Setids(0, 0, why=_WHY + "root of the machine, and nobody outside"),)


def _private() -> Op:
    return MountSetattr(
        NONE, "/", AtFlags.AT_RECURSIVE, propagation=MountFlags.MS_PRIVATE,
        why=_WHY + "what is mounted for it stays with it",
    )  # fmt: skip


def _bare_root(place: Place) -> tuple[Op, ...]:
    """The root itself, and the host image's views, which are part of it."""
    why = _WHY + "the root without what is mounted over it"
    trees = [(ROOT, "/"), *((f"up{i}", target) for i, target in enumerate(place.views))]
    return (
        Unshare(CloneFlags.CLONE_NEWNS, why=_WHY + "the machine never sees this"),
        _private(),
        *(OpenTree(name, NONE, path, _CLONE, why=why) for name, path in trees),
        MoveMount(ROOT, NONE, ATTACH_AT, why=why),
        *(MoveMount(name, ROOT, path, NO_SYMLINKS, why=why) for name, path in trees[1:]),
        PivotRoot(ROOT, why=why),
    )


def _archive(words: tuple[str, ...], names: tuple[str, ...]) -> tuple[Op, ...]:
    why = _WHY + "what reads a machine's files can do little else"
    return (
        Stdio(why=_WHY + "the tar, from the daemon or to it"),
        Capbset(mask_of(names), why=why),
        Capset(mask_of(names), why=why),
        Prctl(PrctlOption.PR_SET_NO_NEW_PRIVS, 1, why=why),
        Archive(words[0], words[1:], why=_WHY + words[0]),
    )
