"""The plan of a container: read it from top to bottom, and you know what isolates a machine.

The order is the one that works from Linux 6.1 on. Both parts run at the same time: the launcher
mounts the root while the child makes its namespaces and its own file systems.
"""

from __future__ import annotations

from functools import lru_cache

from cove.errors import Unsupported, UsageError
from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.flags import AtFlags, CloneFlags, MountAttr, MountFlags, OpenTreeFlags
from cove.plan.ops import (
    NONE,
    Barrier,
    Chdir,
    Clone3,
    Fchdir,
    Fsmount,
    IdMap,
    Ifup,
    Mask,
    Mkdirat,
    Mount,
    MountSetattr,
    MoveMount,
    OomScoreAdj,
    Op,
    OpenTree,
    PivotRoot,
    Plan,
    Readonly,
    Recv,
    Send,
    Setdomainname,
    Setfsuid,
    Sethostname,
    Sysctl,
    Unshare,
)
from cove.planner import defaults, paths, process, rootless
from cove.planner.devices import DEV, asked_devices, own_dev
from cove.planner.mounts import (
    IN_ROOT,
    NO_SYMLINKS,
    ROOT,
    attach,
    attach_files,
    clone_sources,
    set_attributes,
)
from cove.planner.place import Place
from cove.planner.walls import Walls, walls_of
from cove.planner.why import default, option, size
from cove.spec.machine import MachineSpec

ATTACH_AT = "/mnt"
"""Where the machine's root is attached before it becomes /: every host has it."""

RANGE = 65536
"""Ids of one machine."""

_PAGE = 4096

NOSUID, NODEV = MountAttr.MOUNT_ATTR_NOSUID, MountAttr.MOUNT_ATTR_NODEV
NOEXEC, RDONLY = MountAttr.MOUNT_ATTR_NOEXEC, MountAttr.MOUNT_ATTR_RDONLY
_EMPTY = AtFlags.AT_EMPTY_PATH
_CLONE = OpenTreeFlags.OPEN_TREE_CLONE


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
            *mount_root(walls, place),
            *mount_views(walls, place),
            *own_dev(place.base, tty=spec.tty),
            *asked_devices(place.base, place.devices, _devices_why(walls)),
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
        *attach(spec, place),
        *attach_files(place),
        *hide(walls),
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
            *inside(spec, image, facts, place, walls),
        ),
    )


# ---- host part ----


def clone_views(place: Place) -> tuple[Op, ...]:
    """The host's own directories that the ``host`` image shows, before its mounts are left."""
    return tuple(
        OpenTree(
            f"low{i}",
            f"view{i}",
            "",
            _CLONE | OpenTreeFlags.AT_EMPTY_PATH,
            why=f"image host: the host's {target} is its lower layer",
        )
        for i, target in enumerate(place.views)
    )


@lru_cache(maxsize=8)
def clone_host_sysfs(walls: Walls) -> tuple[Op, ...]:
    """A user namespace cannot mount the sysfs of a network it does not own."""
    if walls.own_network or not walls.userns:
        return ()
    why = "--network host: the host's sysfs, read-only, since it shows the host's network"
    return (
        OpenTree("sys", NONE, "/sys", _CLONE, why=why),
        MountSetattr(
            "sys",
            "",
            _EMPTY,
            RDONLY | NOSUID | NODEV | NOEXEC,
            propagation=MountFlags.MS_PRIVATE,
            why=why,
        ),
    )


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


@lru_cache(maxsize=8192)
def _map(base: int) -> tuple[Op, ...]:
    text = f"0 {base} {RANGE}"
    why = default(f"root inside is uid {base} outside, which owns nothing there")
    return (IdMap(text, text, why=why),)


def map_ids(walls: Walls, place: Place) -> tuple[Op, ...]:
    if not walls.userns:
        return ()
    if place.base < RANGE:
        raise UsageError(f"cannot plan a machine with ids from {place.base}: they are the host's")
    return _map(place.base)


@lru_cache(maxsize=64)
def _oom_score(value: int) -> tuple[Op, ...]:
    why = default("the daemon's own protection is not inherited")
    return (OomScoreAdj(str(value), why=option("oom-score-adj", value) if value else why),)


def oom_score(spec: MachineSpec) -> tuple[Op, ...]:
    return _oom_score(spec.limits.oom_score_adj)


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


def open_store(walls: Walls, place: Place) -> tuple[Op, ...]:
    return _open_store(walls.userns, f"{place.root}/roots")


def mount_root(walls: Walls, place: Place) -> tuple[Op, ...]:
    """The image's layers with the machine's writable layer on top."""
    lower = ":".join(f"l{key}" for key in reversed(place.layers))
    why = "image: its layers below, what the machine writes above"
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
        ops += _overlay(walls, place, f"up{i}", at, (f"v{i}", f"w{i}"), why)
    return tuple(ops)


def _overlay(
    walls: Walls, place: Place, register: str, lower: str, upper: tuple[str, str], why: str
) -> tuple[Op, ...]:
    data = f"lowerdir={lower},upperdir=u{place.key}/{upper[0]},workdir=u{place.key}/{upper[1]}"
    if place.volatile:
        data += ",volatile"
    if len(data) >= _PAGE:
        raise Unsupported(
            f"cannot mount {len(place.layers)} layers: mount(2) takes {_PAGE} bytes of options"
        )
    mount = Mount("overlay", "m", "overlay", MountFlags.MS_NODEV, data, why=why)
    take = OpenTree(register, NONE, "m", _CLONE, why=default("a copy to hand over"))
    if not walls.userns:
        return (mount, take)
    return (*_as_root_inside(place.base), mount, *_as_root_outside(), take)


@lru_cache(maxsize=8192)
def _as_root_inside(base: int) -> tuple[Op, ...]:
    why = default("overlayfs writes with the ids of who mounts it: the machine's root")
    return (Setfsuid(base, base, why=why),)


@lru_cache(maxsize=1)
def _as_root_outside() -> tuple[Op, ...]:
    return (Setfsuid(0, 0, why=default("back to the launcher's own ids")),)


def _devices_why(walls: Walls) -> str:
    return "--privileged" if walls.privileged else "--device"


@lru_cache(maxsize=1)
def say_mapped() -> tuple[Op, ...]:
    return (Send(why=default("the child may take its mapped ids now")),)


@lru_cache(maxsize=64)
def _hand_over(userns: bool, own_network: bool, views: int | None) -> tuple[Op, ...]:
    """``views`` is None where the child mounts its root itself."""
    kinds = ["pid", *(["user"] if userns else []), *(["net"] if own_network else []), "mnt"]
    sent: tuple[Op, ...] = ()
    if views is not None:
        registers = (ROOT, DEV, *(f"up{i}" for i in range(views)))
        sent = (Send(registers, why=default("root and /dev are ready")),)
    return (
        *sent,
        Recv(why=default("the child's namespaces are complete")),
        Barrier(0, tuple(kinds), why=default("the daemon holds the namespaces by descriptor")),
    )


def hand_over(walls: Walls, place: Place) -> tuple[Op, ...]:
    return _hand_over(walls.userns, walls.own_network, len(place.views))


# ---- machine part ----


@lru_cache(maxsize=1)
def wait_mapped() -> tuple[Op, ...]:
    return (Recv(why=default("wait until the ids are mapped")),)


@lru_cache(maxsize=8)
def _late(flags: CloneFlags, own_network: bool) -> tuple[Op, ...]:
    why = default("own IPC, cgroup root and network; made by the mapped root, so that it owns them")
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
    return _late(walls.late_namespaces, walls.own_network)


def names(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    why = option("hostname", spec.hostname) if spec.hostname else default("the machine's short id")
    if not spec.hostname and spec.network == "host":
        why = "--network host: the host's name"
    ops: list[Op] = [Sethostname(place.hostname, why=why)]
    if spec.domainname:
        ops.append(Setdomainname(spec.domainname, why=option("domainname", spec.domainname)))
    return tuple(ops)


def own_file_systems(spec: MachineSpec, walls: Walls, facts: Facts) -> tuple[Op, ...]:
    """Fresh file systems of the kernel, which show this machine's namespaces only."""
    shm = spec.limits.shm or defaults.SHM
    shm_why = default(defaults.SHM_WHY)
    if spec.limits.shm:
        shm_why = option("shm-size", size(spec.limits.shm))
    return (
        *_kernel_file_systems(walls, facts.cgroup == "v2"),
        Fsmount(
            "shm",
            "tmpfs",
            NOSUID | NODEV | NOEXEC,
            ("source=shm", "mode=1777", f"size={shm}"),
            why=shm_why,
        ),
    )


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


def sysctls(spec: MachineSpec, walls: Walls) -> tuple[Op, ...]:
    """Settings of the machine's own namespaces; any other sysctl is the host's."""
    if not spec.sysctls:
        return _default_sysctls(walls.own_network)
    asked = {name.replace("/", "."): value for name, value in spec.sysctls}
    ops = [
        op
        for op in _default_sysctls(walls.own_network)
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


@lru_cache(maxsize=16)
def _attach_root(cgroup2: bool) -> tuple[Op, ...]:
    ops: list[Op] = [
        MoveMount(ROOT, NONE, ATTACH_AT, why=default("the root is mounted before it becomes /"))
    ]
    mounts = (
        ("proc", "proc", 0o555),
        ("sys", "sys", 0o555),
        (DEV, "dev", 0o755),
        ("pts", "dev/pts", 0),
        ("shm", "dev/shm", 0),
        ("mqueue", "dev/mqueue", 0),
    )
    why = default("the machine's own; an image with a symlink here is refused")
    for register, path, mode in mounts:
        if mode:
            ops.append(Mkdirat(ROOT, path, mode, 0, 0, why=default("images may lack it")))
        ops.append(MoveMount(register, ROOT, path, NO_SYMLINKS, why=why))
    if cgroup2:
        ops.append(MoveMount("cgroups", ROOT, "sys/fs/cgroup", NO_SYMLINKS, why=why))
    return tuple(ops)


def attach_root(facts: Facts) -> tuple[Op, ...]:
    return _attach_root(facts.cgroup == "v2")


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


@lru_cache(maxsize=2)
def _hide(masked: bool) -> tuple[Op, ...]:
    if not masked:
        return ()
    return (
        OpenTree(
            "null",
            ROOT,
            "dev/null",
            OpenTreeFlags(0),
            why=default("a file that is empty, to lay over what must not be seen"),
        ),
        Mask(
            ROOT,
            "null",
            "empty",
            tuple(paths.MASKED),
            why=default("the host's memory, hardware, keys and processes do not show"),
        ),
        Readonly(
            ROOT,
            tuple(paths.READONLY),
            why=default("settings of the kernel are the host's"),
        ),
    )


def hide(walls: Walls) -> tuple[Op, ...]:
    return _hide(walls.masked)


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
            MountSetattr(register, "", _EMPTY, RDONLY, why="--read-only")
            for register in (ROOT, *(f"up{i}" for i in range(views)))
        ),
    )


def enter_root(spec: MachineSpec, place: Place) -> tuple[Op, ...]:
    return _enter_root(spec.security.read_only, len(place.views))


def enter_workdir(spec: MachineSpec, image: ImageConfig) -> tuple[Op, ...]:
    path, why = process.workdir(spec, image)
    return (Chdir(path, why=why),)
