"""What guests of a CPU stand on: an emulator of this host, a kernel, an agent. And the emulator's
command line, which is made of nothing else but a size and the registers that it is given.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cove.engine.home import Base, Home
from cove.errors import HostError, NotFound, Unsupported
from cove.linux.network.tap import has_taps
from cove.linux.virtual import probe_virtual
from cove.oci.manifest import host_platform_of
from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.plan.wire import encode
from cove.planner.cpus import guest_cpu
from cove.planner.virtual.cards import card_mac
from cove.planner.virtual.guest import ROOT_DISK, SCRATCH_DISK, guest_facts, plan_guest_ahead
from cove.planner.virtual.qemu import MACHINES, Disk, Guest, Nic, Share, argv, path_of, plan_qemu
from cove.planner.virtual.qemu import Kernel as Boot
from cove.planner.virtual.volumes import SHARE, VolumeDisk
from cove.spec.network import CARDS
from cove.store.layout import Layout
from cove.vm.accel import facts_with_kvm
from cove.vm.agents import agent_program
from cove.vm.initrd import initrd_key
from cove.vm.kernels import Kernels
from cove.vm.moments import Shape
from cove.vm.record import Kernel

SOURCES = ("built", "debian", "file", "host")
"""Of a guest kernel, the preferred first."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What every guest stands on as long as kernel, emulator and agent are these."""

    facts: Facts
    """With what came of the trial boot."""
    kernel: Kernel
    agent: str
    """Key of the initrd with the agent."""
    host: tuple[tuple[str, str], ...]
    """Kernel, QEMU and CPU of this host."""
    ahead: Plan
    """What every guest begins with, and a template has run; ``digest``: of it."""
    digest: str
    taps: bool
    """Whether this host has taps: without, cards lead nowhere."""

    @property
    def arch(self) -> str:
        """Of the guests, as ``uname -m``."""
        return self.kernel.arch

    @property
    def accel(self) -> str:
        return "kvm" if self.facts.kvm and self.facts.arch == self.arch else "tcg"

    @property
    def emulator(self) -> tuple[int, ...]:
        """Its version."""
        return self.facts.qemu[self.arch]

    @property
    def inside(self) -> Facts:
        return guest_facts(self.facts, version_of(self.kernel), self.arch)


_grounds: dict[tuple[object, ...], Ground] = {}


def ground_of(home: Home, arch: str) -> Ground:
    """The ground of a machine that starts now, for guests of this CPU."""
    facts = facts_of(home, arch)
    layout = home.store.layout
    kernels = Kernels(layout)
    kernel = kernel_for(kernels, facts, arch)
    seen = os.stat(path_of(arch))
    which, taps = (home.root, arch), has_taps()
    key = (*which, kernel.name, kernel.digest, kernel.created, seen.st_ino, seen.st_mtime_ns, taps)
    found = _grounds.get(key)
    if found is None:
        facts, trial = facts_with_kvm(kernels, kernel, facts)
        parts = kernels.modules(kernel, kernel.modules), kernels.modules(kernel, kernel.later)
        host = tuple(sorted(trial.host.items()))
        ahead = plan_guest_ahead(guest_facts(facts, version_of(kernel), arch))
        digest = hashlib.sha256(encode(ahead.host) + encode(ahead.machine)).hexdigest()
        found = Ground(
            facts, kernel, initrd_key(program(layout, arch), *parts), host, ahead, digest, taps
        )
        for old in [other for other in _grounds if other[:2] == which]:
            del _grounds[old]
        _grounds[key] = found
    return found


def ground_for(home: Home, base: Base) -> Ground:
    """Of a machine of this image."""
    return ground_of(home, guest_cpu(base.config, home.facts))


def facts_of(home: Home, arch: str) -> Facts:
    """What a virtual machine needs to know of this host, asked for with the first one.

    Raises:
        HostError: there is no emulator.
    """
    if arch not in home.facts.qemu:
        home.facts = probe_virtual(home.facts, arch)
    if arch in home.facts.qemu:
        return home.facts
    if arch not in MACHINES:
        raise Unsupported(f"cannot make a virtual machine: there are no guests for {arch}")
    raise HostError(
        f"cannot make a virtual machine: there is no qemu-system-{arch}",
        hint=f"apt-get install {MACHINES[arch].package}",
    )


def kernel_for(kernels: Kernels, facts: Facts, arch: str) -> Kernel:
    """The guest kernel for a CPU: the fast one if it was built, else the newest of its kind."""
    fitting = [kernel for kernel in kernels.all() if kernel.arch == arch]
    for source in SOURCES:
        for kernel in fitting:
            if kernel.source == source:
                return kernel
    other = "" if arch == facts.arch else f" --platform linux/{host_platform_of(arch).architecture}"
    raise NotFound(
        f"cannot make a virtual machine: there is no guest kernel for {arch}",
        hint=f"cove kernel fetch{other} takes the distribution's"
        + ("" if other else "; cove kernel build makes a faster one"),
        exit_code=125,
    )


def version_of(kernel: Kernel) -> tuple[int, int]:
    """Of ``6.1.0-56-cloud-amd64``: (6, 1)."""
    major, minor = (*kernel.version.split("."), "0", "0")[:2]
    return int(major), int(minor) if minor.isdigit() else 0


def facts_inside(home: Home, base: Base) -> Facts:
    """Of a guest with this image that runs already: nothing of the host is asked for it."""
    arch = guest_cpu(base.config, home.facts)
    kernel = kernel_for(Kernels(home.store.layout), home.facts, arch)
    return guest_facts(home.facts, version_of(kernel), arch)


def program(layout: Layout, arch: str) -> bytes:
    """The agent of guests for a CPU: this very program, or one that is built now, which takes
    seconds; as long as this daemon runs it stays the same.
    """
    return _program(layout.agents, arch)


@lru_cache(maxsize=8)
def _program(directory: str, arch: str) -> bytes:
    with open(agent_program(arch, directory=directory, gone=lambda: False), "rb") as file:
        return file.read()


# ---- the command line ----

BOOT = ("agentq", "consoleq", "qmp", "kernel", "initrd", "rootdisk", "scratch")
CLONE = ("agentq", "consoleq", "qmp", "memory", "rootdisk", "scratch")
TEMPLATE = (*CLONE, "kernel", "initrd")
"""Registers that an emulator finds at 3, 4, ...: of a machine that boots, of one that goes on where
a template stood, and of that template, which boots into memory that is a file. Each has the ends of
its cards besides (``tap_register``), where there are taps."""


def describe(
    ground: Ground,
    memory: int,
    cpus: int,
    passed: tuple[str, ...],
    volumes: tuple[VolumeDisk, ...] = (),
) -> Guest:
    """The shape that a guest has, and its template and clones in common."""
    number = {name: 3 + index for index, name in enumerate(passed)}
    kernel = ground.kernel
    boot = Boot(
        number.get("kernel", -1), number.get("initrd", -1), kernel.hz, frozenset(kernel.options)
    )
    return Guest(
        arch=ground.arch,
        memory=memory,
        cpus=cpus,
        agent=number["agentq"],
        console=number["consoleq"],
        qmp=number["qmp"],
        kernel=boot if "kernel" in number else None,
        disks=(*_disks(number), *_volumes(number, volumes)),
        nics=_nics(CARDS, number),
        share=Share(SHARE, number[SHARE]) if SHARE in number else None,
        memory_fd=number.get("memory", -1),
        shared="memory" in number and "kernel" in number,
        listens=True,
        acpi=boot.needs_acpi,
    )


def command(
    ground: Ground,
    memory: int,
    cpus: int,
    passed: tuple[str, ...],
    volumes: tuple[VolumeDisk, ...] = (),
) -> tuple[str, ...]:
    """The command line; descriptors in it are those of ``passed``, among which may be taps
    (``tap_register``) and ``volumes``.
    """
    guest = describe(ground, memory, cpus, passed, volumes)
    return (path_of(ground.arch), *argv(plan_qemu(guest, ground.facts)))


def passed_to(ground: Ground, registers: tuple[str, ...]) -> tuple[str, ...]:
    """To an emulator on this ground: the ends of its cards, too."""
    return (*registers, *map(tap_register, range(CARDS if ground.taps else 0)))


def card_registers(cards: tuple[int, ...]) -> dict[str, int]:
    return {tap_register(index): fd for index, fd in enumerate(cards)}


def resumed_command(facts: Facts, shape: Shape, passed: tuple[str, ...]) -> tuple[str, ...]:
    """Of a clone of a machine that ran, whichever kernel and size would be taken now."""
    number = {name: 3 + index for index, name in enumerate(passed)}
    guest = Guest(
        arch=shape.arch,
        memory=shape.memory,
        cpus=shape.cpus,
        agent=number["agentq"],
        console=number["consoleq"],
        qmp=number["qmp"],
        disks=_disks(number),
        nics=_nics(shape.cards, number),
        memory_fd=number["memory"],
        listens=True,
        resumed=True,
        acpi=shape.acpi,
    )
    return (path_of(shape.arch), *argv(plan_qemu(guest, facts)))


def _volumes(number: Mapping[str, int], volumes: tuple[VolumeDisk, ...]) -> tuple[Disk, ...]:
    return tuple(
        Disk(disk.serial, number[disk.serial], read_only=disk.read_only, durable=True, why=disk.why)
        for disk in volumes
    )


def _nics(count: int, number: Mapping[str, int]) -> tuple[Nic, ...]:
    return tuple(
        Nic(card_mac(index), number.get(tap_register(index), -1)) for index in range(count)
    )


def tap_register(index: int) -> str:
    return f"tap{index}"


def _disks(number: Mapping[str, int]) -> tuple[Disk, ...]:
    return (
        Disk(ROOT_DISK, number["rootdisk"], read_only=True),
        Disk(SCRATCH_DISK, number["scratch"], read_only=False),
    )
