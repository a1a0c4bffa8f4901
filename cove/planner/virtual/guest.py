"""What happens inside a virtual machine: its disks become the store of a machine's root, and then
the very plan of a container is run there, by the same executor.

The guest's kernel is the wall, so root inside keeps the guest's own ids; all else is as on a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from cove.errors import Unsupported
from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.flags import AtFlags, CloneFlags, MountFlags, OpenTreeFlags
from cove.plan.ops import (
    NONE,
    Barrier,
    Mkdirat,
    Mount,
    MountSetattr,
    Op,
    OpenTree,
    Plan,
    Recv,
    Send,
    Sethostname,
    Setns,
    Unshare,
)
from cove.plan.vm_ops import Disk, File, Reseed, Settime, Unused, Write
from cove.planner.container import leave_host_mounts, plan_ahead, plan_machine
from cove.planner.defaults import PIDS
from cove.planner.place import BindSource, Place
from cove.planner.process import plan_exec
from cove.planner.step_points import POINTS_LAYER, step_points
from cove.planner.virtual.cards import Link, anew, with_links
from cove.planner.virtual.volumes import NO_VOLUMES, Volumes, open_volumes
from cove.planner.why import default, option, size
from cove.spec.machine import ExecSpec, Limits, MachineSpec

STORE = "/store"
GROUP = "/sys/fs/cgroup/machine"
ROOT_DISK, SCRATCH_DISK = "root", "scratch"
"""Serial numbers of the disks."""
_DISKS = {ROOT_DISK: f"{STORE}/root", SCRATCH_DISK: f"{STORE}/scratch"}

GENERATED = {
    "/etc/hosts": "hosts",
    "/etc/hostname": "hostname",
    "/etc/resolv.conf": "resolv",
    "/proc/sys/kernel/random/boot_id": "bootid",
    "/etc/machine-id": "machineid",
}
"""Files over those of image and kernel, by register; the last one only where an image lacks it."""
WHY = {
    "bootid": "no other clone of its template boots under this name",
    "machineid": "the image has none, and programs ask for it",
}

FILES = "files"
RESOLV = f"{STORE}/files/resolv"
"""What is mounted over the image's /etc/resolv.conf."""
POINTS = ("proc", "sys", "dev", "etc")
"""Made below the image's root, so that what is mounted over needs no change of it."""

WARM_GROUP = "/sys/fs/cgroup/warm"
"""Of what is run to warm a guest: its processes are none of the machine's."""

_PLAIN = MachineSpec(image="")
_PLAIN_FILES = tuple(at for at in GENERATED if at.startswith("/etc/"))
_HOSTS_OWN = frozenset(leave_host_mounts())
"""The mounts of a guest are its machine's anyway."""
_ROOT_WHY = "image: a disk of its own, read-only"
_SCRATCH_WHY = default("what the machine writes: a disk of limited size")

CPU_PERIOD = 100_000
"""Microseconds, as Docker has it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What no two guests may share."""

    seed: bytes
    """64 random bytes."""
    time_ns: int
    boot_id: str
    machine_id: str = ""
    """32 digits; empty: the image's own."""


def guest_facts(host: Facts, kernel: tuple[int, int], arch: str) -> Facts:
    """A guest of cove's own with this kernel and CPU."""
    return msgspec.structs.replace(
        host,
        kernel=kernel,
        arch=arch,
        root=True,
        cgroup="v2",
        controllers=dict.fromkeys(("cpu", "io", "memory", "pids", "cpuset"), "/sys/fs/cgroup"),
        unified="/sys/fs/cgroup",
        idmapped_mounts=False,
        hard_limits={},
        seccomp=True,
        guest=True,
    )


def plan_guest(
    spec: MachineSpec,
    image: ImageConfig,
    facts: Facts,
    identity: Identity,
    files: Mapping[str, str],
    *,
    hostname: str,
    links: tuple[Link, ...] = (),
    volumes: Volumes = NO_VOLUMES,
    step: bool = False,
) -> Plan:
    """From an agent that has nothing but its own file systems to the machine's command. It begins
    with what ``plan_guest_ahead`` says. ``files``: the generated files' contents, by register.
    ``step``: of a build, whose root shows nothing that a container's would not.
    """
    plan = _plan_guest(
        spec, image, facts, identity, files,
        hostname=hostname, links=links, volumes=volumes, step=step,
    )  # fmt: skip
    # The child of the plan finds them in registers that are filled before it is made.
    return Plan(host=(*open_volumes(volumes, STORE), *plan.host), machine=plan.machine)


def plan_guest_ahead(facts: Facts) -> Plan:
    """The beginning that all guests have in common whose specs say nothing special: a template has
    run it, and stands before what is a machine's own. No byte of a disk is read in it.
    """
    return _guest_ahead(_PLAIN, facts, guest_place(_PLAIN, hostname=""))


def plan_resume(
    spec: MachineSpec,
    identity: Identity,
    files: Mapping[str, str],
    *,
    hostname: str,
    links: tuple[Link, ...] | None = (),
) -> Plan:
    """In a copy of a guest whose machine's processes are frozen: what no two guests may share, and
    this machine's own limits; then they go on. ``links``: None, where it has no cards.
    """
    files = {**files, "bootid": f"{identity.boot_id}\n"}
    if identity.machine_id:
        files["machineid"] = f"{identity.machine_id}\n"
    why = default("the copy's own name")
    return Plan(
        host=(
            *_identity(identity),
            *_contents(files, NONE, f"{STORE}/files/"),
            *limits_of_guest(spec.limits, GROUP),
            *(anew(links) if links is not None else ()),
            Setns("target", CloneFlags.CLONE_NEWUTS, why=why),
            Sethostname(hostname, why=why),
            Write(f"{GROUP}/cgroup.freeze", "0", why=default("all of it is its own now")),
        ),
        machine=(),
    )


def plan_resolv(text: str) -> tuple[Op, ...]:
    """The machine is on other networks than at its start."""
    return _contents({"resolv": text}, NONE, f"{STORE}/files/")


def plan_visit(inside: Plan, identity: Identity) -> Plan:
    """A guest in which no machine runs: its disks become the store of a root, and what ``inside``
    does stands on that.
    """
    host = (*_disks(), *_identity(identity), *_mounts(), *inside.host)
    return Plan(host, inside.machine)


def plan_let_go() -> Plan:
    """A guest whose mounts have ended has written, and forgotten, all of its disks."""
    why = default("other files are put behind its disks")
    return Plan(host=(*_named(), *(Unused(path, why=why) for path in _DISKS.values())), machine=())


def plan_settime(time_ns: int) -> Plan:
    """After a guest was held up."""
    why = default("the guest's clock stood still")
    return Plan(host=(Settime(*divmod(time_ns, 10**9), why=why),), machine=())


def plan_warm(
    image: ImageConfig, facts: Facts, files: Mapping[str, str], *, command: tuple[str, ...]
) -> tuple[Plan, Plan]:
    """A machine of an image of cove's own, run where nothing of it stays: the way through the
    guest's kernel is translated and its caches are filled before anybody waits. Both halves: the
    first is run in the template.
    """
    why = default("its mounts end with it")
    alone = (
        Unshare(CloneFlags.CLONE_NEWNS, why=why),
        MountSetattr(NONE, "/", AtFlags.AT_RECURSIVE, propagation=MountFlags.MS_PRIVATE, why=why),
    )
    spec = msgspec.structs.replace(_PLAIN, command=command, remove=True)
    nobody = Identity(bytes(64), 0, "0" * 36, "0" * 32)
    whole = _plan_guest(spec, image, facts, nobody, files, hostname="guest", group=WARM_GROUP)
    ahead = _guest_ahead(spec, facts, guest_place(spec, hostname="", group=WARM_GROUP))
    # Time and random numbers are the next one's affair.
    rest = (op for op in whole.host[len(ahead.host) :] if not isinstance(op, (Reseed, Settime)))
    return (
        Plan(host=(*alone, *ahead.host), machine=ahead.machine),
        Plan(host=tuple(rest), machine=whole.machine[len(ahead.machine) :]),
    )


def _plan_guest(
    spec: MachineSpec,
    image: ImageConfig,
    facts: Facts,
    identity: Identity,
    files: Mapping[str, str],
    *,
    hostname: str,
    group: str = GROUP,
    links: tuple[Link, ...] = (),
    volumes: Volumes = NO_VOLUMES,
    step: bool = False,
) -> Plan:
    _refuse(spec)
    files = {**files, "bootid": f"{identity.boot_id}\n"}
    if identity.machine_id and not step:  # what a step finds, it may keep
        files["machineid"] = f"{identity.machine_id}\n"
    place = guest_place(spec, hostname=hostname, files=files, group=group, binds=volumes.binds)
    points: tuple[Op, ...] = ()
    if step:
        points = tuple(step_points(spec, volumes, STORE))
        layers = (POINTS_LAYER, *place.layers)
        # What was mounted volatile is mounted by nobody afterwards, and a visit reads it.
        place = replace(place, layers=layers, points=False, volatile=False)
    ahead, whole = _guest_ahead(spec, facts, place), plan_machine(spec, image, facts, place)
    begun = plan_ahead(spec, facts, place)
    return Plan(
        host=(
            *ahead.host,
            *_identity(identity),
            *_mounts(),
            *points,
            *limits_of_guest(spec.limits, group),
            *_contents(files),
            *with_links(whole.host[len(begun.host) :], links),
        ),
        machine=(*ahead.machine, *whole.machine[len(begun.machine) :]),
    )


def _guest_ahead(spec: MachineSpec, facts: Facts, place: Place) -> Plan:
    begun = plan_ahead(spec, facts, place)
    (group,) = place.cgroup_files
    host = tuple(op for op in begun.host if not isinstance(op, Barrier) and op not in _HOSTS_OWN)
    ready = default("a template is kept once the child has its own file systems")
    return Plan(
        host=(
            *_disks(),
            _directory(group.rpartition("/")[0], default("the machine's control group")),
            *_generated(),
            *host,
            Recv(why=ready),
        ),
        machine=(*begun.machine, Send(why=ready)),
    )


def plan_guest_exec(
    spec: ExecSpec, machine: MachineSpec, image: ImageConfig, facts: Facts, *, hostname: str
) -> Plan:
    return plan_exec(spec, machine, image, facts, guest_place(machine, hostname=hostname))


def guest_place(
    spec: MachineSpec,
    *,
    hostname: str,
    files: Mapping[str, str] | None = None,
    group: str = GROUP,
    binds: tuple[BindSource, ...] = (),
) -> Place:
    """``files``: of ``GENERATED``, those that there are."""
    lacking = () if files is None else set(GENERATED.values()) - set(files)
    return Place(
        key=1,
        root=STORE,
        layers=(1,),
        cgroup_files=(f"{group}/cgroup.procs",),
        volatile=spec.remove,
        files=GENERATED,
        unused=frozenset(at for at, name in GENERATED.items() if name in lacking),
        hostname=hostname,
        binds=binds,
    )


def _refuse(spec: MachineSpec) -> None:
    if spec.devices:
        raise Unsupported(
            "cannot give a host's device to a virtual machine", origin=spec.devices[0].origin
        )
    if spec.network == "host":
        raise Unsupported(
            "cannot use the host's network in a virtual machine: it has a kernel of its own",
            origin="--network host",
        )


def _identity(identity: Identity) -> tuple[Op, ...]:
    seconds, nanoseconds = divmod(identity.time_ns, 10**9)
    return (
        Reseed(identity.seed, why=default("no other clone draws the same random numbers")),
        Settime(seconds, nanoseconds, why=default("a clone's clock stood still")),
    )


def _directory(path: str, why: str) -> Op:
    return Mkdirat(NONE, path, 0o755, 0, 0, why=why)


def _disks() -> tuple[Op, ...]:
    """The same directories as the store of a host has, for two disks."""
    roots = f"{STORE}/roots"
    why = default("images may lack it")
    return (
        *(_directory(f"{roots}/{name}", _ROOT_WHY) for name in ("l1", "u1", "m")),
        *(_directory(f"{roots}/p/{name}", why) for name in POINTS),
        *(File(NONE, f"{roots}/p{at}", 0o644, "", 0, 0, why=why) for at in _PLAIN_FILES),
        *_named(),
    )


def _named() -> tuple[Op, ...]:
    whys = (_ROOT_WHY, _SCRATCH_WHY)
    return tuple(
        Disk(serial, path, why=why)
        for (serial, path), why in zip(_DISKS.items(), whys, strict=True)
    )


def _mounts() -> tuple[Op, ...]:
    root, scratch = f"{STORE}/roots/l1", f"{STORE}/roots/u1"
    return (
        Mount(f"{STORE}/root", root, "erofs", MountFlags.MS_RDONLY, "", why=_ROOT_WHY),
        Mount(f"{STORE}/scratch", scratch, "ext4", MountFlags.MS_NODEV, "", why=_SCRATCH_WHY),
        _directory(f"{scratch}/fs", _SCRATCH_WHY),
        _directory(f"{scratch}/work", _SCRATCH_WHY),
    )


def limits_of_guest(limits: Limits, group: str, *, anew: bool = False) -> tuple[Op, ...]:
    """As a container has them, kept by the guest's kernel: they mean the same. ``anew``: there may
    have been others before.
    """
    pids = limits.pids or PIDS
    ops: list[Op] = []

    def write(name: str, value: object, why: str) -> None:
        ops.append(Write(f"{group}/{name}", str(value), why=why))

    write("pids.max", "max" if pids < 0 else pids, option("pids-limit", pids))
    if anew:
        for name, nothing in (("memory.max", "max"), ("memory.low", 0), ("cpu.max", "max")):
            ops.append(Write(f"{group}/{name}", str(nothing), why=default("no limit is asked for")))
    if limits.memory > 0:
        write("memory.max", limits.memory, option("memory", size(limits.memory)))
    if limits.memory_reservation:
        why = option("memory-reservation", size(limits.memory_reservation))
        write("memory.low", limits.memory_reservation, why)
    if limits.cpus:
        quota = f"{int(limits.cpus * CPU_PERIOD)} {CPU_PERIOD}"
        write("cpu.max", quota, option("cpus", f"{limits.cpus:g}"))
    return tuple(ops)


def _generated() -> tuple[Op, ...]:
    """Empty until it is known what they say: written in place, mounts of them change with them."""
    at, why = f"{STORE}/files", default("generated files are of no image")
    ops: list[Op] = [_directory(at, why), OpenTree(FILES, NONE, at, OpenTreeFlags(0), why=why)]
    for target, register in GENERATED.items():
        path, why = f"{STORE}/files/{register}", _why_generated(target, register)
        ops.append(File(NONE, path, 0o644, "", 0, 0, why=why))
        ops.append(OpenTree(register, NONE, path, OpenTreeFlags(0), why=why))
    return tuple(ops)


def _contents(files: Mapping[str, str], at: str = FILES, below: str = "") -> tuple[Op, ...]:
    return tuple(
        File(
            at, f"{below}{register}", 0o644, files[register], 0, 0,
            why=_why_generated(target, register),
        )
        for target, register in GENERATED.items()
        if register in files
    )  # fmt: skip


def _why_generated(target: str, register: str) -> str:
    return default(WHY.get(register, f"{target} is generated"))
