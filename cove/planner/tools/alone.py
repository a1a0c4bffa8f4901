"""The plan of one of the host's own programs that reads or serves what strangers have written. It
is alone: in ids that own nothing on the host, without a network, and of the host's files it sees
``/usr``, read-only, and what is mounted for it.
"""

from __future__ import annotations

from cove.plan.facts import Facts
from cove.plan.flags import (
    AtFlags,
    CloneFlags,
    MountAttr,
    MountFlags,
    OpenTreeFlags,
    PrctlOption,
    Rlimit,
)
from cove.plan.ops import (
    NONE,
    Capbset,
    Capset,
    Clone3,
    Execve,
    Fsmount,
    Mkdirat,
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
    Setrlimit,
    Stdio,
    Symlinkat,
)
from cove.planner.capabilities import mask_of
from cove.planner.container import leave_host_mounts, map_ids, say_mapped, wait_mapped
from cove.planner.files.filesystems import ATTACH_AT
from cove.planner.files.mounts import IN_ROOT, ROOT, attach, set_attributes
from cove.planner.place import Place
from cove.planner.process import die_with_monitor, enter_cgroup
from cove.planner.walls import walls_of
from cove.spec.machine import MachineSpec

_USR = "usr"
_LINKS = ("bin", "lib", "lib32", "lib64", "sbin")
_EMPTY = AtFlags.AT_EMPTY_PATH


def plan_alone(
    spec: MachineSpec,
    facts: Facts,
    place: Place,
    *,
    argv: tuple[str, ...],
    capabilities: tuple[str, ...],
    why: str,
) -> Plan:
    """Of ``spec`` only the mounts, whose sources are registers. It has the launcher's standard
    streams, and ends with it.
    """
    kinds = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWPID | CloneFlags.CLONE_NEWUSER
    kinds |= CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC | CloneFlags.CLONE_NEWUTS
    walls = walls_of(spec, facts)
    return Plan(
        host=(
            *leave_host_mounts(),
            OpenTree(_USR, NONE, "/usr", OpenTreeFlags.OPEN_TREE_CLONE, why=why),
            MountSetattr(_USR, "", _EMPTY, MountAttr.MOUNT_ATTR_RDONLY, why=why),
            Clone3(kinds, "cgroup" if place.cgroup_into else NONE, why=why),
            *map_ids(walls, place.base),
            *say_mapped(walls),
            *set_attributes(spec, place, userns=True),
            Send(why=why),
        ),
        machine=(
            *die_with_monitor(),
            *enter_cgroup(place.cgroup_files),
            *wait_mapped(walls),
            Setids(0, 0, why=why),
            Recv(why=why),
            *_root(spec, place, why),
            *_limits(facts, why),
            Stdio(why=why),
            Capbset(mask_of(capabilities), why=why),
            Capset(mask_of(capabilities), why=why),
            Prctl(PrctlOption.PR_SET_NO_NEW_PRIVS, 1, why=why),
            Execve(argv, (), why=why),
        ),
    )


def _root(spec: MachineSpec, place: Place, why: str) -> tuple[Op, ...]:
    private = MountSetattr(
        NONE, "/", AtFlags.AT_RECURSIVE, propagation=MountFlags.MS_PRIVATE, why=why
    )
    shut = MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NODEV | MountAttr.MOUNT_ATTR_NOEXEC
    return (
        private,
        Fsmount(ROOT, "tmpfs", shut, ("source=alone", "mode=0755"), why=why),
        Fsmount("proc", "proc", shut | MountAttr.MOUNT_ATTR_RDONLY, ("source=proc",), why=why),
        MoveMount(ROOT, NONE, ATTACH_AT, why=why),
        *(Mkdirat(ROOT, path, 0o755, 0, 0, why=why) for path in ("usr", "proc")),
        *(Symlinkat(f"usr/{name}", ROOT, name, 0, 0, why=why) for name in _LINKS),
        MoveMount(_USR, ROOT, "usr", IN_ROOT, why=why),
        MoveMount("proc", ROOT, "proc", IN_ROOT, why=why),
        *attach(spec, place),
        PivotRoot(ROOT, why=why),
        MountSetattr(ROOT, "", _EMPTY, MountAttr.MOUNT_ATTR_RDONLY, why=why),
    )


def _limits(facts: Facts, why: str) -> tuple[Op, ...]:
    most = str(min(facts.hard_limits.get("nofile", 1 << 20), 1 << 20))
    return (
        Setrlimit(Rlimit.RLIMIT_NOFILE, most, most, why=why),
        Setrlimit(Rlimit.RLIMIT_CORE, "0", "0", why=why),
    )
