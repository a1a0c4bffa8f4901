"""The jail of a virtual machine: a container without privileges or a root to write to, in which the
emulator runs, and beside it the process that stands in for the machine's program.

Under emulation (TCG) this jail is the boundary: whoever breaks out of the guest is nobody here.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.plan.flags import PrctlOption
from cove.plan.ops import Execve, Openpty, Plan, Prctl, Stdio
from cove.plan.vm_ops import Guest, GuestExec, Pass, Spawn
from cove.planner.container import plan_machine
from cove.planner.defaults import STORAGE
from cove.planner.place import Place
from cove.planner.process import plan_exec, terminal
from cove.planner.why import default
from cove.spec.machine import ExecSpec, Limits, MachineSpec, Security, Ulimit

JAIL_IMAGE = "host"
"""The emulator is the host's own program."""
NOBODY = "65534:65534"
RUN_STDIN, RUN_SYNC, RUN_ADOPT, RUN_REST = 2, 8, 16, 64
"""Flags of ``init/guest.h``."""

OVERHEAD = 192 << 20
"""Bytes that an emulator may take besides its guest's memory."""

PROCESSES = 128
"""Threads of the emulator and processes of the jail."""

SMALLEST_DISK = 16 << 20
"""Bytes, where a machine's storage limit is less: there is room for a file system of its own."""

KVM = ("/dev/kvm", "c", 10, 232, 0o666)
"""Its numbers are the kernel's; the emulator is nobody, in a jail where there is no one else."""

_STEADY = MachineSpec(
    image=JAIL_IMAGE,
    command=("emulator",),
    user=NOBODY,
    security=Security(cap_drop=("ALL",), read_only=True),
)


def jail_spec(spec: MachineSpec, *, memory: int, largest: int = 0) -> MachineSpec:
    """The container that holds a virtual machine with so much memory (bytes); ``largest``: of its
    volumes' disks.
    """
    return MachineSpec(
        image=_STEADY.image,
        command=_STEADY.command,
        user=NOBODY,
        hostname="guest",
        remove=True,
        security=_STEADY.security,
        limits=Limits(
            memory=memory + OVERHEAD,
            memory_swap=-1,
            cpu_shares=spec.limits.cpu_shares,
            blkio_weight=spec.limits.blkio_weight,
            rates=spec.limits.rates,
            cpuset_cpus=spec.limits.cpuset_cpus,
            pids=PROCESSES,
            ulimits=(_largest_file(max(spec.limits.storage or STORAGE, largest, SMALLEST_DISK)),),
        ),
    )


def _largest_file(size: int) -> Ulimit:
    """The emulator holds its machine's disks to write to; an escaped one must not make them larger
    than the largest.
    """
    return Ulimit("fsize", size, size)


def plan_jail(
    jail: MachineSpec,
    image: ImageConfig,
    facts: Facts,
    place: Place,
    *,
    emulator: tuple[str, ...],
    passed: tuple[str, ...],
) -> Plan:
    """From nothing to an emulator that runs: no spec but its guest's size is in it, so that an
    engine may run it before there is a machine. ``jail``, ``image``, ``facts`` and ``place`` are
    the jail's; ``emulator`` is a command line that finds the registers of ``passed`` at 3, 4, ...
    """
    whole = plan_machine(jail, image, facts, replace(place, devices=_devices(emulator)))
    beside = (
        Prctl(
            PrctlOption.PR_SET_THP_DISABLE,
            1,
            why=default("an emulator that touches a page takes no 2 MiB for it"),
        ),
        Pass(passed, why="--isolation vm: only these descriptors; the emulator opens no file"),
        Spawn("messages", emulator, why="--isolation vm: a kernel of the machine's own"),
    )
    inside = tuple(op for op in whole.machine if not isinstance(op, (Stdio, Openpty, Execve)))
    return Plan(whole.host, (*inside, *beside))


def _devices(emulator: tuple[str, ...]) -> tuple[tuple[str, str, int, int, int], ...]:
    """The one file that QEMU opens by its name, and not as a descriptor that is passed to it."""
    return (KVM,) if ("-accel", "kvm") in pairwise(emulator) else ()


def plan_vm(spec: MachineSpec, place: Place, jail: Plan, guest: Plan, *, how: int = 0) -> Plan:
    """``jail``, and behind it the streams of this machine's program: nothing that runs beside has
    them. ``how``: ``RUN_ADOPT``, the program runs in the guest already; ``RUN_REST``, the guest has
    run the first half of its plan.
    """
    flags = (RUN_STDIN if spec.stdin_open else 0) | (RUN_SYNC if keeps_disk(spec) else 0) | how
    why = default("its program's streams, signals and end are the machine's")
    last = Guest("serial", "hub", "guestplan", "console", "consolelog", "end", flags, why=why)
    streams = terminal(place, tty=spec.tty)
    return Plan(jail.host, (*jail.machine, *streams, last), guest)


def keeps_disk(spec: MachineSpec) -> bool:
    """What it wrote is to be on a disk at its end: its own, or one of a volume."""
    return not spec.remove or any(mount.type != "tmpfs" for mount in spec.mounts)


def plan_vm_exec(
    spec: ExecSpec,
    jail: MachineSpec,
    image: ImageConfig,
    facts: Facts,
    place: Place,
    guest: Plan,
    *,
    sync: bool = False,
) -> Plan:
    """One more stand-in, in the same jail, for one more process in the guest."""
    beside = ExecSpec(command=("guest",), tty=spec.tty, stdin_open=spec.stdin_open)
    whole = plan_exec(beside, jail, image, facts, place)
    flags = (RUN_STDIN if spec.stdin_open else 0) | (RUN_SYNC if sync else 0)
    last = GuestExec("hub", "guestplan", flags, why="exec: a process in the guest")
    streams = tuple(op for op in whole.machine if isinstance(op, (Stdio, Openpty)))
    rest = tuple(op for op in whole.machine if not isinstance(op, (Stdio, Openpty, Execve)))
    return Plan(whole.host, (*rest, *streams, last), guest)
