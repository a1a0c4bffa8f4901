"""The plan of a container: read it from top to bottom, and you know what isolates a machine.

The order is the one that works from Linux 6.1 on. Both parts run at the same time: the launcher
mounts the root while the child makes its namespaces and its own file systems. First comes what no
spec changes, so that it can be run ahead, for machines that nobody has asked for yet.
"""

from __future__ import annotations

from functools import lru_cache

import cove.planner.foreign as foreign
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
    Clone3In,
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
    Setns,
    Unshare,
)
from cove.planner.device_list import asked_list, lifted, own_list
from cove.planner.files.devices import DEV, asked_devices, console, own_dev
from cove.planner.files.filesystems import (
    attach_kernel,
    attach_root,
    clone_host_sysfs,
    hide,
    own_file_systems,
    sysctls,
)
from cove.planner.files.mounts import (
    ROOT,
    attach,
    attach_files,
    clone_files,
    close_files,
    own_files,
    set_attributes,
)
from cove.planner.files.overlay import (
    as_root_inside,
    as_root_outside,
    attach_views,
    clone_views,
    mount_images,
    mount_root,
    mount_views,
    open_store,
)
from cove.planner.place import Place
from cove.planner.walls import Walls, walls_of
from cove.planner.why import default, option
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.network import OF_MACHINE, machine_of

RANGE = 65536
"""Ids of one machine."""

USERNS, NETNS = "userns", "netns"
"""Registers of the namespaces of a machine whose network is joined; the engine fills them."""
JOINED = f"--network {OF_MACHINE}NAME"

_EMPTY = AtFlags.AT_EMPTY_PATH


def plan_machine(spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place) -> Plan:
    """What ``cove run`` does in the kernel, in order. It begins with what ``plan_ahead`` says."""
    walls = walls_of(spec, facts)
    if not facts.root:
        return _plan_rootless(spec, image, facts, place, walls)
    ahead = plan_ahead(spec, facts, place)
    return Plan(
        host=(
            *ahead.host,
            *oom_score(spec),
            *clone_views(place),
            *as_root_inside(walls, place.base),
            *mount_root(walls, place),
            *mount_views(walls, place),
            *mount_images(place),
            *console(tty=spec.tty),
            *asked_devices(place.devices, _devices_why(spec, walls)),
            *asked_list(spec, place, walls),
            *as_root_outside(walls),
            *set_attributes(spec, place, userns=walls.userns),
            *wait_links(spec),
            *hand_over(place),
        ),
        machine=(
            *ahead.machine,
            *names(spec, place),
            *receive_root(place),
            *inside(spec, image, facts, place, walls),
        ),
    )


def plan_ahead(spec: MachineSpec, facts: Facts, place: Place) -> Plan:
    """The beginning of a machine's plan, which hangs on few words of the spec: an engine may run it
    before there is a machine, for a spec that says nothing special. Equal for equal machines.
    """
    walls = walls_of(spec, facts)
    return _ahead(
        walls,
        lifted(spec, walls),
        facts.cgroup == "v2",
        spec.limits.shm,
        spec.sysctls,
        place.root,
        place.base,
        place.cgroup_files,
        place.cgroup_into,
        tuple(place.files.items()),
    )


@lru_cache(maxsize=32)
def _ahead(
    walls: Walls,
    every_device: str,
    cgroup2: bool,
    shm: int,
    asked: tuple[tuple[str, str], ...],
    root: str,
    base: int,
    cgroup_files: tuple[str, ...],
    cgroup_into: bool,
    generated: tuple[tuple[str, str], ...],
) -> Plan:
    return Plan(
        host=(
            *clone_files(generated),
            *clone_host_sysfs(walls),
            *leave_host_mounts(),
            *own_list(every_device, cgroup_into=cgroup_into),
            *begin_machine(walls, cgroup_into=cgroup_into),
            *map_ids(walls, base),
            *default_oom_score(),
            *say_mapped(walls),
            *open_store(walls, root),
            *as_root_inside(walls, base),
            *own_dev(base),
            *as_root_outside(walls),
            *own_files(tuple(target for target, _ in generated), userns=walls.userns),
            *hold_namespaces(walls),
            *hand_over_dev(),
        ),
        machine=(
            *process.die_with_monitor(),
            *process.enter_cgroup(cgroup_files),
            *wait_mapped(walls),
            *process.become_root(walls),
            *join_network(walls),
            *late_namespaces(walls),
            *own_file_systems(walls, shm=shm, cgroup2=cgroup2),
            *sysctls(asked, walls),
            *loopback(walls),
            *receive_dev(),
            *attach_kernel(cgroup2),
            *hide(walls),
            *process.own_session(),
        ),
    )


def inside(
    spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place, walls: Walls
) -> tuple[Op, ...]:
    """Machine: from the root's mount to the command."""
    return (
        *foreign.register(spec, image, facts, place, walls),
        *attach_root(foreign.cover(spec, image, facts)),
        *attach_views(place),
        *attach(spec, place),
        *attach_files(spec, place),
        *make_workdir(spec, image),
        *enter_root(spec, place),
        *process.limits(spec, facts),
        *enter_workdir(spec, image),
        *process.terminal(place, tty=spec.tty),
        *process.privileges(spec, image, facts, walls),
        *process.run_command(spec, image, place),
    )


def _plan_rootless(
    spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place, walls: Walls
) -> Plan:
    rootless.refuse(spec, place)
    cgroup2 = facts.cgroup == "v2"
    return Plan(
        host=(
            *rootless.begin(walls, place),
            *default_oom_score(),
            *oom_score(spec),
            *say_mapped(walls),
            *hold_namespaces(walls),
            *say_held(),
        ),
        machine=(
            *process.die_with_monitor(),
            *process.enter_cgroup(place.cgroup_files),
            *wait_mapped(walls),
            *process.become_root(walls),
            *late_namespaces(walls),
            *own_file_systems(walls, shm=spec.limits.shm, cgroup2=cgroup2),
            *sysctls(spec.sysctls, walls),
            *loopback(walls),
            *rootless.make_dev(tty=spec.tty),
            *attach_kernel(cgroup2),
            *rootless.attach_nodes(),
            *hide(walls),
            *process.own_session(),
            *names(spec, place),
            *rootless.mount_root(place),
            *wait_held(),
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
    if walls.joined and walls.userns:
        why = f"{JOINED}: own mounts, processes and host name; the ids are that machine's"
        return (Clone3In(walls.namespaces, cgroup, USERNS, why=why),)
    why = default("own ids, mounts, processes and host name")
    if not walls.userns:
        why = f"{walls.host_why}: own mounts, processes and host name, but no ids of its own"
    return (Clone3(walls.namespaces, cgroup, why=why),)


def begin_machine(walls: Walls, *, cgroup_into: bool) -> tuple[Op, ...]:
    return _begin(walls, "cgroup" if cgroup_into else NONE)


def map_ids(walls: Walls, base: int) -> tuple[Op, ...]:
    if not walls.userns:
        return ()
    if base < RANGE:
        raise UsageError(f"cannot plan a machine with ids from {base}: they are the host's")
    if walls.joined:
        return ()
    text = f"0 {base} {RANGE}"
    why = default(f"root inside is uid {base} outside, which owns nothing there")
    return (IdMap(text, text, why=why),)


@lru_cache(maxsize=1)
def default_oom_score() -> tuple[Op, ...]:
    return (OomScoreAdj("0", why=default("the daemon's own protection is not inherited")),)


def oom_score(spec: MachineSpec) -> tuple[Op, ...]:
    asked = spec.limits.oom_score_adj
    return (OomScoreAdj(str(asked), why=option("oom-score-adj", asked)),) if asked else ()


def _devices_why(spec: MachineSpec, walls: Walls) -> str:
    if walls.privileged:
        return "--privileged"
    return "--device" if spec.devices else "--isolation vm"


@lru_cache(maxsize=4)
def say_mapped(walls: Walls) -> tuple[Op, ...]:
    if walls.joined and walls.userns:
        return ()
    return (Send(why=default("the child may take its mapped ids now")),)


@lru_cache(maxsize=4)
def _hold(userns: bool, own_network: bool) -> tuple[Op, ...]:
    kinds = ["pid", *(["user"] if userns else []), *(["net"] if own_network else []), "mnt"]
    return (
        Recv(why=default("the child's namespaces are complete")),
        Barrier(0, tuple(kinds), why=default("the daemon holds the namespaces by descriptor")),
    )


def hold_namespaces(walls: Walls) -> tuple[Op, ...]:
    """Before the child's last wait: one that has run and gone has no namespaces to open."""
    return _hold(walls.userns, walls.own_network and not walls.joined)


@lru_cache(maxsize=1)
def hand_over_dev() -> tuple[Op, ...]:
    return (Send((DEV,), why=default("/dev is ready")),)


@lru_cache(maxsize=1)
def say_held() -> tuple[Op, ...]:
    return (Send(why=default("the child may go on")),)


def wait_links(spec: MachineSpec) -> tuple[Op, ...]:
    """Before the child goes on: its program finds its networks there."""
    names = " ".join(f"--network {wish.network}" for wish in connections_of(spec))
    return (Barrier(1, (), why=f"{names}: the daemon makes the links"),) if names else ()


def _made_outside(place: Place) -> tuple[str, ...]:
    """Registers that the launcher fills: the root, views, images that are mounted."""
    views = tuple(f"up{i}" for i in range(len(place.views)))
    return (ROOT, *views, *(source.register for source in place.binds if source.layers))


@lru_cache(maxsize=16)
def _hand_over(registers: tuple[str, ...]) -> tuple[Op, ...]:
    return (Send(registers, why=default("the root is ready")),)


def hand_over(place: Place) -> tuple[Op, ...]:
    return _hand_over(_made_outside(place))


# ---- machine part ----


@lru_cache(maxsize=4)
def wait_mapped(walls: Walls) -> tuple[Op, ...]:
    if walls.joined and walls.userns:
        return ()
    return (Recv(why=default("wait until the ids are mapped")),)


def join_network(walls: Walls) -> tuple[Op, ...]:
    """By who is root in the user namespace that owns it."""
    if not walls.joined:
        return ()
    why = f"{JOINED}: that machine's links, addresses and ports are this one's, too"
    return (Setns(NETNS, CloneFlags.CLONE_NEWNET, why=why),)


@lru_cache(maxsize=1)
def wait_held() -> tuple[Op, ...]:
    return (Recv(why=default("wait until the daemon holds the namespaces")),)


@lru_cache(maxsize=8)
def _late(flags: CloneFlags, userns: bool, own_network: bool, joined: bool) -> tuple[Op, ...]:
    why = default("own IPC and cgroup root" if joined else "own IPC, cgroup root and network")
    if userns:
        why += "; made by the mapped root, so that it owns them"
    if not own_network:
        why = "--network host: own IPC and cgroup root, but the host's network"
    return (
        Unshare(flags, why=why),
        Send(why=default("the namespaces are complete")),
    )


def late_namespaces(walls: Walls) -> tuple[Op, ...]:
    return _late(walls.late_namespaces, walls.userns, walls.own_network, walls.joined)


def names(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    why = option("hostname", spec.hostname) if spec.hostname else default("the machine's short id")
    if spec.uts:
        why = f"--uts {spec.uts}: the host's name"
    elif not spec.hostname and spec.network == "host":
        why = "--network host: the host's name"
    elif machine_of(spec.network):
        why = f"--network {spec.network}: that machine's name"
    ops: list[Op] = [Sethostname(place.hostname, why=why)]
    if spec.domainname:
        ops.append(Setdomainname(spec.domainname, why=option("domainname", spec.domainname)))
    return tuple(ops)


@lru_cache(maxsize=2)
def _loopback(own_network: bool) -> tuple[Op, ...]:
    return (Ifup("lo", why=default("programs talk to themselves")),) if own_network else ()


def loopback(walls: Walls) -> tuple[Op, ...]:
    return _loopback(walls.own_network and not walls.joined)


@lru_cache(maxsize=1)
def receive_dev() -> tuple[Op, ...]:
    return (Recv((DEV,), why=default("wait until /dev is ready")),)


@lru_cache(maxsize=16)
def _receive(registers: tuple[str, ...]) -> tuple[Op, ...]:
    return (Recv(registers, why=default("wait until the root is ready")),)


def receive_root(place: Place) -> tuple[Op, ...]:
    return _receive(_made_outside(place))


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
    return (
        *_enter_root(spec.security.read_only, len(place.views)),
        *close_files(spec, place),
    )


def enter_workdir(spec: MachineSpec, image: ImageConfig) -> tuple[Op, ...]:
    path, why = process.workdir(spec, image)
    return (Chdir(path, why=why),)
