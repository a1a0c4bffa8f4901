"""Programs of other CPUs: QEMU's user mode as a handler of the machine's own binfmt_misc.

The kernel opens the interpreter when the handler is registered (flag F), so nothing of it is in the
machine's root. The handler belongs to the machine's user namespace: the host and other machines run
no program with it, and ``exec`` finds it by joining that namespace. QEMU makes the system calls,
as a program of the host's own CPU: limits, capabilities and the seccomp filter stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cove.errors import HostError, Unsupported
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform
from cove.plan.facts import Facts
from cove.plan.flags import AtFlags, MountAttr, OpenTreeFlags
from cove.plan.ops import (
    NONE,
    Binfmt,
    Fsmount,
    Mkdirat,
    MountSetattr,
    MoveMount,
    Op,
    OpenTree,
)
from cove.planner.cpus import architectures, guest_cpu
from cove.planner.files.devices import DEV
from cove.planner.files.mounts import NO_SYMLINKS, ROOT
from cove.planner.place import Place
from cove.planner.walls import Walls
from cove.spec.machine import MachineSpec

PACKAGE = "qemu-user-static"


@dataclass(frozen=True, slots=True)
class Cpu:
    """How the programs of a CPU are known: by the first 20 bytes of an ELF file."""

    qemu: str
    """As QEMU calls it: ``qemu-aarch64-static``."""
    bits: int
    big_endian: bool
    machine: int
    """``e_machine``, as linux/elf-em.h has it."""

    def magic(self) -> bytes:
        ident = b"\x7fELF" + bytes([self.bits // 32, 2 if self.big_endian else 1, 1]) + bytes(9)
        order: Literal["big", "little"] = "big" if self.big_endian else "little"
        return ident + (2).to_bytes(2, order) + self.machine.to_bytes(2, order)

    def mask(self) -> bytes:
        """Any ABI of an operating system, for an executable (2) or a position-independent one (3):
        the last bit of ``e_type``."""
        kind = b"\xff\xfe" if self.big_endian else b"\xfe\xff"
        return b"\xff" * 7 + b"\0" + b"\xff" * 8 + kind + b"\xff\xff"


CPUS = {
    "amd64": Cpu("x86_64", 64, False, 62),
    "arm64": Cpu("aarch64", 64, False, 183),
    "arm": Cpu("arm", 32, False, 40),
    "riscv64": Cpu("riscv64", 64, False, 243),
    "ppc64le": Cpu("ppc64le", 64, False, 21),
    "s390x": Cpu("s390x", 64, True, 22),
    "loong64": Cpu("loongarch64", 64, False, 258),
}
"""By the architecture of an image."""

_EMPTY = AtFlags.AT_EMPTY_PATH
_SHUT = MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NODEV


def foreign_architectures(spec: MachineSpec, image: ImageConfig, facts: Facts) -> tuple[str, ...]:
    """Those whose programs the machine is to run and this host's CPU does not."""
    if spec.isolation != "container":
        return ()
    own = architectures(facts.arch)
    wanted = dict.fromkeys((image.architecture, *spec.emulate))
    return tuple(name for name in wanted if name and name not in own)


def refuse(
    spec: MachineSpec, image: ImageConfig, facts: Facts, interpreters: tuple[tuple[str, str], ...]
) -> None:
    """By name, what cannot be: no such emulation, or not here."""
    found = dict(interpreters)
    for name in foreign_architectures(spec, image, facts):
        whole = Platform(name, "linux", image.variant if name == image.architecture else "")
        what = f"cannot run {spec.image}: it is for {whole}, and this host is {facts.arch}"
        if name != image.architecture:
            what = f"cannot run programs for {whole}: this host is {facts.arch}"
        if name not in CPUS:
            raise Unsupported(what, hint=f"what can be emulated: {', '.join(CPUS)}")
        if not spec.security.userns == "machine" or spec.security.privileged:
            raise Unsupported(
                f"{what}: without a user namespace of its own a machine would change which "
                "programs the whole host runs",
                origin="--privileged" if spec.security.privileged else "--userns=host",
            )
        if not facts.binfmt:
            have = ".".join(str(part) for part in facts.kernel)
            raise HostError(
                f"{what}: programs of other CPUs need Linux 6.7 with binfmt_misc",
                host=f"Linux {have}: before 6.7 their handlers are the whole host's"
                if facts.kernel < (6, 7)
                else f"Linux {have} has no binfmt_misc",
                hint="--isolation vm will do" if _has_guests(name, facts) else "",
            )
        if not found.get(name):
            raise HostError(
                f"{what}: qemu-{CPUS[name].qemu}-static is not installed",
                hint=f"apt-get install {PACKAGE}",
            )


def _has_guests(name: str, facts: Facts) -> bool:
    return bool(guest_cpu(ImageConfig(architecture=name), facts))


def register(
    spec: MachineSpec, image: ImageConfig, facts: Facts, place: Place, walls: Walls
) -> tuple[Op, ...]:
    """Machine, while the host's files are still there: handlers in its own user namespace."""
    names = foreign_architectures(spec, image, facts)
    if not names:
        return ()
    refuse(spec, image, facts, place.interpreters)
    return _register(
        tuple((n, dict(place.interpreters)[n]) for n in names), walls.no_new_privileges
    )


@lru_cache(maxsize=16)
def _register(found: tuple[tuple[str, str], ...], no_new_privileges: bool) -> tuple[Op, ...]:
    ops: list[Op] = [
        Fsmount(
            "binfmt",
            "binfmt_misc",
            _SHUT | MountAttr.MOUNT_ATTR_NOEXEC,
            ("source=binfmt_misc",),
            why=_why(found, "handlers of programs, in the machine's own user namespace alone"),
        )
    ]
    for index, (name, path) in enumerate(found):
        ops += _handler(f"qemu{index}", name, path, no_new_privileges=no_new_privileges)
    ops.append(
        MountSetattr(
            "binfmt",
            "",
            _EMPTY,
            MountAttr.MOUNT_ATTR_RDONLY,
            why=_why(found, "there are no further handlers"),
        )
    )
    return tuple(ops)


def _handler(register: str, name: str, path: str, *, no_new_privileges: bool) -> Iterator[Op]:
    only = ((name, path),)
    shut = _why(only, "a program may open what interprets it: it must not write to the host's file")
    yield OpenTree(register, NONE, path, OpenTreeFlags.OPEN_TREE_CLONE, why=shut)
    yield MountSetattr(register, "", _EMPTY, _SHUT | MountAttr.MOUNT_ATTR_RDONLY, why=shut)
    yield MoveMount(register, NONE, path, why=shut)
    # P: the program sees its own argv[0]. O: one that may be run but not read is opened for QEMU.
    # F: QEMU is opened now. C: set-user-ID programs get their rights; the environment tells QEMU
    # where to find libraries, so it is only there where they were asked for.
    flags = "POF" if no_new_privileges else "POCF"
    cpu = CPUS[name]
    parts = (f"qemu-{cpu.qemu}", "M", "", _escaped(cpu.magic()), _escaped(cpu.mask()), path, flags)
    yield Binfmt(
        "binfmt",
        ":" + ":".join(parts),
        why=_why(only, "QEMU runs its programs; it makes system calls of the host's own CPU"),
    )


def cover(spec: MachineSpec, image: ImageConfig, facts: Facts) -> tuple[Op, ...]:
    """Machine: the mount lives as long as the handlers are to, but below /dev nobody reaches it."""
    names = foreign_architectures(spec, image, facts)
    return _cover(names) if names else ()


@lru_cache(maxsize=16)
def _cover(names: tuple[str, ...]) -> tuple[Op, ...]:
    why = _why(tuple((name, "") for name in names), "the handlers stay while this is mounted; /dev")
    why += " covers it"
    return (
        Mkdirat(ROOT, DEV, 0o755, 0, 0, why=why),
        MoveMount("binfmt", ROOT, DEV, NO_SYMLINKS, why=why),
    )


def _why(found: tuple[tuple[str, str], ...], reason: str) -> str:
    return f"image: for {' and '.join(name for name, _ in found)}: {reason}"


def _escaped(data: bytes) -> str:
    """As binfmt_misc reads it; its own separator and NUL bytes do not travel as they are."""
    return "".join(f"\\x{byte:02x}" for byte in data)
