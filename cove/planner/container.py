"""The plan of a container: read it from top to bottom, and you know what isolates a machine.

The order is the one that works from Linux 6.1 on. Both parts run at the same time: the launcher
mounts the root while the child makes its namespaces and its own file systems.
"""

from __future__ import annotations

from functools import lru_cache

import cove.planner.process as process
import cove.planner.rootless as rootless
from cove.errors import UsageError
from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.flags import AtFlags, CloneFlags, MountAttr, MountFlags
from cove.plan.ops import (
    NONE,
    Barrier,
    Chdir,
    Clone3,
    IdMap,
    Ifup,
    Mkdirat,
    MountSetattr,
    OomScoreAdj,
    Op,
    PivotRoot,
    Plan,
    Recv,
    Send,
    Setdomainname,
    Sethostname,
    Unshare,
)
from cove.planner.devices import DEV, asked_devices, own_dev
from cove.planner.filesystems import (
    attach_root,
    clone_host_sysfs,
    hide,
    own_file_systems,
    sysctls,
)
from cove.planner.mounts import (
    ROOT,
    attach,
    attach_files,
    clone_sources,
    set_attributes,
)
from cove.planner.overlay import (
    as_root_inside,
    as_root_outside,
    attach_views,
    clone_views,
    mount_root,
    mount_views,
    open_store,
)
from cove.planner.place import Place
from cove.planner.walls import Walls, walls_of
from cove.planner.why import default, option
from cove.spec.machine import MachineSpec

RANGE = 65536
"""Ids of one machine."""

_EMPTY = AtFlags.AT_EMPTY_PATH


def plan_machine(spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place) -> Plan:
    """What ``cove run`` does in the kernel, in order."""
    walls = walls_of(spec, facts)
    if not facts.root:
        return _plan_rootless(spec, image, facts, place, walls)
    return Plan(
        host=(
            *clone_sources(spec, place),
            *clone_views(place),
            *clone_host_sysfs(walls),
            *leave_host_mounts(),
            *begin_machine(walls, place),
            *map_ids(walls, place),
            *oom_score(spec),
            *say_mapped(),
            *open_store(walls, place),
            *as_root_inside(walls, place),
            *mount_root(walls, place),
            *mount_views(walls, place),
            *own_dev(place.base, tty=spec.tty),
            *asked_devices(place.devices, _devices_why(walls)),
            *as_root_outside(walls),
            *set_attributes(spec, place, userns=walls.userns),
            *hand_over(walls, place),
        ),
        machine=(
            *process.die_with_monitor(),
            *process.enter_cgroup(place),
            *wait_mapped(),
            *process.become_root(walls),
            *late_namespaces(walls),
            *names(spec, place),
            *own_file_systems(spec, walls, facts),
            *sysctls(spec, walls),
            *loopback(walls),
            *receive_root(place),
            *attach_root(facts),
            *attach_views(place),
            *inside(spec, image, facts, place, walls),
        ),
    )


def inside(
    spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place, walls: Walls
) -> tuple[Op, ...]:
    """Machine: from the attached root to the command."""
    return (
        *hide(walls),
        *attach(spec, place),
        *attach_files(spec, place),
        *make_workdir(spec, image),
        *enter_root(spec, place),
        *process.keyring(),
        *process.limits(spec, facts),
        *process.new_files(),
        *enter_workdir(spec, image),
        *process.terminal(place, tty=spec.tty),
        *process.privileges(spec, image, facts, walls),
        *process.run_command(spec, image, place),
    )


def _plan_rootless(
    spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place, walls: Walls
) -> Plan:
    rootless.refuse(spec, place)
    return Plan(
        host=(
            *rootless.begin(walls, place),
            *oom_score(spec),
            *say_mapped(),
            *_hand_over(walls.userns, walls.own_network, None),
        ),
        machine=(
            *process.die_with_monitor(),
            *process.enter_cgroup(place),
            *wait_mapped(),
            *process.become_root(walls),
            *late_namespaces(walls),
            *names(spec, place),
            *own_file_systems(spec, walls, facts),
            *sysctls(spec, walls),
            *loopback(walls),
            *rootless.mount_root(place),
            *rootless.make_dev(tty=spec.tty),
            *attach_root(facts),
            *rootless.attach_nodes(),
            *wait_go(),
            *inside(spec, image, facts, place, walls),
        ),
    )


# ---- host part ----


@lru_cache(maxsize=1)
def leave_host_mounts() -> tuple[Op, ...]:
    return (
        Unshare(CloneFlags.CLONE_NEWNS, why=default("the host never sees the machine's mounts")),
        MountSetattr(
            NONE,
            "/",
            AtFlags.AT_RECURSIVE,
            propagation=MountFlags.MS_SLAVE,
            why=default("mounts made here do not travel to the host"),
        ),
    )


@lru_cache(maxsize=16)
def _begin(walls: Walls, cgroup: str) -> tuple[Op, ...]:
    why = default("own ids, mounts, processes and host name")
    if not walls.userns:
        why = f"{walls.host_why}: own mounts, processes and host name, but the host's ids"
    return (Clone3(walls.namespaces, cgroup, why=why),)


def begin_machine(walls: Walls, place: Place) -> tuple[Op, ...]:
    return _begin(walls, "cgroup" if place.cgroup_into else NONE)


def map_ids(walls: Walls, place: Place) -> tuple[Op, ...]:
    if not walls.userns:
        return ()
    if place.base < RANGE:
        raise UsageError(f"cannot plan a machine with ids from {place.base}: they are the host's")
    text = f"0 {place.base} {RANGE}"
    why = default(f"root inside is uid {place.base} outside, which owns nothing there")
    return (IdMap(text, text, why=why),)


@lru_cache(maxsize=64)
def _oom_score(value: int) -> tuple[Op, ...]:
    why = default("the daemon's own protection is not inherited")
    return (OomScoreAdj(str(value), why=option("oom-score-adj", value) if value else why),)


def oom_score(spec: MachineSpec) -> tuple[Op, ...]:
    return _oom_score(spec.limits.oom_score_adj)


def _devices_why(walls: Walls) -> str:
    return "--privileged" if walls.privileged else "--device"


@lru_cache(maxsize=1)
def say_mapped() -> tuple[Op, ...]:
    return (Send(why=default("the child may take its mapped ids now")),)


@lru_cache(maxsize=64)
def _hand_over(userns: bool, own_network: bool, views: int | None) -> tuple[Op, ...]:
    """``views`` is None where the child mounts its root itself."""
    kinds = ["pid", *(["user"] if userns else []), *(["net"] if own_network else []), "mnt"]
    send = Send(why=default("the child may go on"))
    if views is not None:
        registers = (ROOT, DEV, *(f"up{i}" for i in range(views)))
        send = Send(registers, why=default("root and /dev are ready"))
    # Last of all the word to go on: a child that has run and gone has no namespaces to open.
    return (
        Recv(why=default("the child's namespaces are complete")),
        Barrier(0, tuple(kinds), why=default("the daemon holds the namespaces by descriptor")),
        send,
    )


def hand_over(walls: Walls, place: Place) -> tuple[Op, ...]:
    return _hand_over(walls.userns, walls.own_network, len(place.views))


# ---- machine part ----


@lru_cache(maxsize=1)
def wait_mapped() -> tuple[Op, ...]:
    return (Recv(why=default("wait until the ids are mapped")),)


@lru_cache(maxsize=1)
def wait_go() -> tuple[Op, ...]:
    return (Recv(why=default("wait until the daemon holds the namespaces")),)


@lru_cache(maxsize=8)
def _late(flags: CloneFlags, userns: bool, own_network: bool) -> tuple[Op, ...]:
    why = default("own IPC, cgroup root and network")
    if userns:
        why += "; made by the mapped root, so that it owns them"
    if not own_network:
        why = "--network host: own IPC and cgroup root, but the host's network"
    return (
        Unshare(flags, why=why),
        Send(why=default("the namespaces are complete")),
        MountSetattr(
            NONE,
            "/",
            AtFlags.AT_RECURSIVE,
            propagation=MountFlags.MS_PRIVATE,
            why=default("nothing the host mounts later appears inside"),
        ),
    )


def late_namespaces(walls: Walls) -> tuple[Op, ...]:
    return _late(walls.late_namespaces, walls.userns, walls.own_network)


def names(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    why = option("hostname", spec.hostname) if spec.hostname else default("the machine's short id")
    if not spec.hostname and spec.network == "host":
        why = "--network host: the host's name"
    ops: list[Op] = [Sethostname(place.hostname, why=why)]
    if spec.domainname:
        ops.append(Setdomainname(spec.domainname, why=option("domainname", spec.domainname)))
    return tuple(ops)


@lru_cache(maxsize=2)
def _loopback(own_network: bool) -> tuple[Op, ...]:
    return (Ifup("lo", why=default("programs talk to themselves")),) if own_network else ()


def loopback(walls: Walls) -> tuple[Op, ...]:
    return _loopback(walls.own_network)


@lru_cache(maxsize=16)
def _receive(views: int) -> tuple[Op, ...]:
    registers = (ROOT, DEV, *(f"up{i}" for i in range(views)))
    return (Recv(registers, why=default("wait until root and /dev are ready")),)


def receive_root(place: Place) -> tuple[Op, ...]:
    return _receive(len(place.views))


def make_workdir(spec: MachineSpec, image: ImageConfig) -> tuple[Op, ...]:
    """Made before the root may become read-only, as Docker makes it."""
    path, why = process.workdir(spec, image)
    if path == "/":
        return ()
    if not path.startswith("/"):
        raise UsageError(f'cannot work in "{path}": not an absolute path', origin=why)
    return (Mkdirat(ROOT, path, 0o755, 0, 0, why=why),)


@lru_cache(maxsize=16)
def _enter_root(read_only: bool, views: int) -> tuple[Op, ...]:
    pivot = PivotRoot(ROOT, why=default("the host's file systems are gone from the machine"))
    if not read_only:
        return (pivot,)
    return (
        pivot,
        *(
            MountSetattr(register, "", _EMPTY, MountAttr.MOUNT_ATTR_RDONLY, why="--read-only")
            for register in (ROOT, *(f"up{i}" for i in range(views)))
        ),
    )


def enter_root(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    return _enter_root(spec.security.read_only, len(place.views))


def enter_workdir(spec: MachineSpec, image: ImageConfig) -> tuple[Op, ...]:
    path, why = process.workdir(spec, image)
    return (Chdir(path, why=why),)
