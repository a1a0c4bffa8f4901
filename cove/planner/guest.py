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
from cove.plan.flags import MountFlags, OpenTreeFlags
from cove.plan.ops import NONE, Barrier, Mkdirat, Mount, Op, OpenTree, Plan
from cove.plan.vm_ops import Disk, File, Reseed, Settime, Write
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

GENERATED = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv"}

POINTS = ("proc", "sys", "dev", "etc")
"""Made below the image's root, so that what is mounted over needs no change of it."""

CPU_PERIOD = 100_000
"""Microseconds, as Docker has it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What no two guests may share."""

    seed: bytes
    """64 random bytes."""
    time_ns: int


def guest_facts(host: Facts, kernel: tuple[int, int]) -> Facts:
    """A guest of cove's own with this kernel."""
    return msgspec.structs.replace(
        host,
        kernel=kernel,
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
) -> Plan:
    """From an agent that has nothing but its own file systems to the machine's command.

    ``files``: the generated files' contents, by register.
    """
    _refuse(spec)
    place = guest_place(spec, hostname=hostname)
    whole = plan_machine(spec, image, facts, place)
    return Plan(
        host=(
            *_identity(identity),
            *_disks(),
            *_limits(spec.limits, facts),
            *_generated(files),
            *(op for op in whole.host if not isinstance(op, Barrier)),
        ),
        machine=whole.machine,
    )


def plan_guest_exec(
    spec: ExecSpec, machine: MachineSpec, image: ImageConfig, facts: Facts, *, hostname: str
) -> Plan:
    return plan_exec(spec, machine, image, facts, guest_place(machine, hostname=hostname))


def guest_place(spec: MachineSpec, *, hostname: str) -> Place:
    return Place(
        key=1,
        root=STORE,
        layers=(1,),
        cgroup_files=(f"{GROUP}/cgroup.procs",),
        volatile=spec.remove,
        files=GENERATED,
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
        path, why = f"{STORE}/files/{register}", default(f"{target} is generated")
        ops.append(File(NONE, path, 0o644, files[register], 0, 0, why=why))
        ops.append(OpenTree(register, NONE, path, OpenTreeFlags(0), why=why))
    return tuple(ops)
