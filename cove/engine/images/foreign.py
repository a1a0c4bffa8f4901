"""Images for other CPUs: which program of this host runs theirs, and what is said of it."""

from __future__ import annotations

import msgspec

from cove.engine.calls import Call
from cove.engine.home import Home
from cove.errors import NotFound, Unsupported, printable
from cove.image.host import HOST
from cove.linux.emulators import find_emulator
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform
from cove.plan.facts import Facts
from cove.planner.foreign import CPUS, foreign_architectures, refuse
from cove.spec.machine import MachineSpec


def emulators(spec: MachineSpec, image: ImageConfig, facts: Facts) -> tuple[tuple[str, str], ...]:
    """Looked for at each start, and only where it is needed."""
    names = foreign_architectures(spec, image, facts)
    return tuple((n, find_emulator(CPUS[n].qemu) if n in CPUS else "") for n in names)


def check_emulation(spec: MachineSpec, image: ImageConfig, facts: Facts) -> None:
    """Before there is a machine, what a start would refuse."""
    container = msgspec.structs.replace(spec, isolation="container")
    if spec.isolation == "vm" and foreign_architectures(container, image, facts):
        raise Unsupported(
            f"cannot run {spec.image}: it is for linux/{image.architecture}, and virtual machines "
            f"are only for {facts.arch} yet",
            origin="--isolation vm",
            hint="a container runs it by emulation: leave --isolation out",
        )
    refuse(spec, image, facts, emulators(spec, image, facts))


def emulation(spec: MachineSpec, image: ImageConfig, facts: Facts) -> str:
    """``linux/arm64 by qemu-aarch64 on x86_64``; empty: nothing is emulated."""
    names = foreign_architectures(spec, image, facts)
    if image.architecture not in names or image.architecture not in CPUS:
        return ""
    whole = Platform(image.architecture, "linux", image.variant)
    return f"{whole} by qemu-{CPUS[image.architecture].qemu} on {facts.arch}"


def notes(home: Home, spec: MachineSpec, call: Call) -> tuple[str, ...]:
    """That it is emulated, for whoever makes a machine: told to a foreground, else to be answered.
    What cannot be emulated is refused.
    """
    if spec.image == HOST:
        return ()
    try:
        image = home.base(spec.image).config
    except NotFound:
        return ()  # whoever makes the machine says what is missing
    said = emulation(spec, image, home.facts)
    if not said:
        return ()
    check_emulation(spec, image, home.facts)
    text = f"{spec.image} is emulated: {said}"
    if call.tell is not None:
        call.tell(f"cove: note: {printable(text)}\n")
    return (text,)


def emulated_here(facts: Facts) -> tuple[str, ...]:
    """Platforms of other CPUs whose images run here."""
    if not facts.binfmt:
        return ()
    nothing = MachineSpec(image="")
    return tuple(
        f"linux/{name}"
        for name, cpu in CPUS.items()
        if foreign_architectures(nothing, ImageConfig(architecture=name), facts)
        and find_emulator(cpu.qemu)
    )
