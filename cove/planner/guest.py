"""What happens inside a virtual machine: its disks become the store of a machine's root, and then
the very plan of a container is run there, by the same executor.

The guest's kernel is the wall, so root inside keeps the guest's own ids; all else is as on a host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    Sethostname,
    Setns,
    Unshare,
)
from cove.plan.vm_ops import Disk, Driver, File, Reseed, Settime, Write
from cove.planner.container import plan_machine
from cove.planner.defaults import PIDS
from cove.planner.place import Place
from cove.planner.process import plan_exec
from cove.planner.why import default, option, size
from cove.spec.machine import ExecSpec, Limits, MachineSpec

STORE = "/store"
GROUP = "/sys/fs/cgroup/machine"
ROOT_DISK, SCRATCH_DISK = "root", "scratch"
"""Serial numbers of the disks."""

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

POINTS = ("proc", "sys", "dev", "etc")
"""Made below the image's root, so that what is mounted over needs no change of it."""

BLOCK_DEVICE = 2
"""A disk, in virtio's numbering."""

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
    clone: bool = False,
) -> Plan:
    """From an agent that has nothing but its own file systems to the machine's command.

    ``files``: the generated files' contents, by register. ``clone``: of a template, which has let
    go of its disks.
    """
    _refuse(spec)
    files = {**files, "bootid": f"{identity.boot_id}\n"}
    if identity.machine_id:
        files["machineid"] = f"{identity.machine_id}\n"
    place = guest_place(spec, hostname=hostname, files=files)
    whole = plan_machine(spec, image, facts, place)
    return Plan(
        host=(
            *_identity(identity),
            *(
                _driver("bind", "the machine's own disks are behind the devices now")
                if clone
                else ()
            ),
            *_disks(),
            *_limits(spec.limits, facts),
            *_generated(files),
            *(op for op in whole.host if not isinstance(op, Barrier)),
        ),
        machine=whole.machine,
    )


def plan_resume(
    spec: MachineSpec, identity: Identity, files: Mapping[str, str], facts: Facts, *, hostname: str
) -> Plan:
    """In a copy of a guest whose machine's processes are frozen: what no two guests may share, and
    this machine's own limits; then they go on.
    """
    files = {**files, "bootid": f"{identity.boot_id}\n"}
    if identity.machine_id:
        files["machineid"] = f"{identity.machine_id}\n"
    why = default("the copy's own name")
    written = (op for op in _generated(files) if isinstance(op, File))
    return Plan(
        host=(
            *_identity(identity),
            *written,
            *_limits(spec.limits, facts),
            Setns("target", CloneFlags.CLONE_NEWUTS, why=why),
            Sethostname(hostname, why=why),
            Write(f"{GROUP}/cgroup.freeze", "0", why=default("all of it is its own now")),
        ),
        machine=(),
    )


def plan_settime(time_ns: int) -> Plan:
    """After a guest was held up."""
    why = default("the guest's clock stood still")
    return Plan(host=(Settime(*divmod(time_ns, 10**9), why=why),), machine=())


def plan_release() -> Plan:
    """What a guest does that is to become a template, or to be given other disks: it lets go."""
    return Plan(host=_driver("unbind", "what is behind the devices is about to change"), machine=())


def plan_warm(
    spec: MachineSpec, image: ImageConfig, facts: Facts, files: Mapping[str, str]
) -> Plan:
    """A machine of an image of cove's own, run where nothing of it stays: the way through the
    guest's kernel is translated and its caches are filled before anybody waits.
    """
    why = default("its mounts end with it")
    alone = (
        Unshare(CloneFlags.CLONE_NEWNS, why=why),
        MountSetattr(NONE, "/", AtFlags.AT_RECURSIVE, propagation=MountFlags.MS_PRIVATE, why=why),
    )
    nobody = Identity(bytes(64), 0, "0" * 36, "0" * 32)
    whole = plan_guest(spec, image, facts, nobody, files, hostname="guest", clone=True)
    # Time and random numbers are the next one's affair.
    rest = (op for op in whole.host if not isinstance(op, (Reseed, Settime)))
    return Plan(host=(*alone, *rest), machine=whole.machine)


def _driver(which: str, why: str) -> tuple[Op, ...]:
    return (Driver("virtio_blk", BLOCK_DEVICE, which, why=default(why)),)


def plan_guest_exec(
    spec: ExecSpec, machine: MachineSpec, image: ImageConfig, facts: Facts, *, hostname: str
) -> Plan:
    return plan_exec(spec, machine, image, facts, guest_place(machine, hostname=hostname))


def guest_place(
    spec: MachineSpec, *, hostname: str, files: Mapping[str, str] | None = None
) -> Place:
    """``files``: of ``GENERATED``, those that there are."""
    return Place(
        key=1,
        root=STORE,
        layers=(1,),
        cgroup_files=(f"{GROUP}/cgroup.procs",),
        volatile=spec.remove,
        files={at: name for at, name in GENERATED.items() if files is None or name in files},
        hostname=hostname,
    )


def _refuse(spec: MachineSpec) -> None:
    for mount in spec.mounts:
        if mount.type != "tmpfs":
            raise Unsupported(
                f"cannot mount {mount.source or mount.target} in a virtual machine yet",
                origin=mount.origin,
                hint="put files in when it runs: cove cp",
            )
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
    """The same directories as the store of a host has, from two disks."""
    roots = f"{STORE}/roots"
    root_why = "image: a disk of its own, read-only"
    scratch_why = default("what the machine writes: a disk of limited size")
    return (
        *(_directory(f"{roots}/{name}", root_why) for name in ("l1", "u1", "m")),
        *(_directory(f"{roots}/p/{name}", default("images may lack it")) for name in POINTS),
        Disk(ROOT_DISK, f"{STORE}/root", why=root_why),
        Disk(SCRATCH_DISK, f"{STORE}/scratch", why=scratch_why),
        Mount(f"{STORE}/root", f"{roots}/l1", "erofs", MountFlags.MS_RDONLY, "", why=root_why),
        Mount(f"{STORE}/scratch", f"{roots}/u1", "ext4", MountFlags.MS_NODEV, "", why=scratch_why),
        _directory(f"{roots}/u1/fs", scratch_why),
        _directory(f"{roots}/u1/work", scratch_why),
    )


def _limits(limits: Limits, facts: Facts) -> tuple[Op, ...]:
    """As a container has them, kept by the guest's kernel: they mean the same."""
    pids = limits.pids or PIDS
    ops: list[Op] = [_directory(GROUP, default("the machine's control group"))]

    def write(name: str, value: object, why: str) -> None:
        ops.append(Write(f"{GROUP}/{name}", str(value), why=why))

    write("pids.max", "max" if pids < 0 else pids, option("pids-limit", pids))
    if limits.memory > 0:
        write("memory.max", limits.memory, option("memory", size(limits.memory)))
    if limits.memory_reservation:
        why = option("memory-reservation", size(limits.memory_reservation))
        write("memory.low", limits.memory_reservation, why)
    if limits.cpus:
        quota = f"{int(limits.cpus * CPU_PERIOD)} {CPU_PERIOD}"
        write("cpu.max", quota, option("cpus", f"{limits.cpus:g}"))
    return tuple(ops)


def _generated(files: Mapping[str, str]) -> tuple[Op, ...]:
    ops: list[Op] = [_directory(f"{STORE}/files", default("generated files are of no image"))]
    for target, register in GENERATED.items():
        if register not in files:
            continue
        path = f"{STORE}/files/{register}"
        why = default(WHY.get(register, f"{target} is generated"))
        ops.append(File(NONE, path, 0o644, files[register], 0, 0, why=why))
        ops.append(OpenTree(register, NONE, path, OpenTreeFlags(0), why=why))
    return tuple(ops)
