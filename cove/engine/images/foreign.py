"""Images for other CPUs: which program of this host runs theirs, and what is said of it."""

from __future__ import annotations

from cove.engine.calls import Call
from cove.engine.home import Home
from cove.errors import NotFound, printable
from cove.image.host import HOST
from cove.linux.interpreters import find_interpreter
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform
from cove.plan.facts import Facts
from cove.planner.cpus import guest_cpu, refuse_guest
from cove.planner.foreign import CPUS, foreign_architectures, refuse
from cove.spec.machine import MachineSpec
from cove.vm.agents import is_ready


def interpreters(
    spec: MachineSpec, image: ImageConfig, facts: Facts
) -> tuple[tuple[str, str], ...]:
    """Looked for at each start, and only where it is needed."""
    names = foreign_architectures(spec, image, facts)
    return tuple((n, find_interpreter(CPUS[n].qemu) if n in CPUS else "") for n in names)


def check_emulation(spec: MachineSpec, image: ImageConfig, facts: Facts) -> None:
    """Before there is a machine, what a start would refuse."""
    if spec.isolation == "vm":
        refuse_guest(spec, image, facts)
    refuse(spec, image, facts, interpreters(spec, image, facts))


def emulation(spec: MachineSpec, image: ImageConfig, facts: Facts) -> str:
    """``linux/arm64 by qemu-aarch64 on x86_64``, a virtual machine's by ``qemu-system-aarch64``;
    empty: it is of this host's own CPU.
    """
    if spec.isolation == "vm":
        cpu = guest_cpu(image, facts)
        by = f"qemu-system-{cpu}" if cpu not in ("", facts.arch) else ""
    else:
        foreign = image.architecture in foreign_architectures(spec, image, facts)
        by = (
            f"qemu-{CPUS[image.architecture].qemu}"
            if foreign and image.architecture in CPUS
            else ""
        )
    whole = Platform(image.architecture, "linux", image.variant)
    return f"{whole} by {by} on {facts.arch}" if by else ""


def notes(home: Home, spec: MachineSpec, call: Call) -> tuple[str, ...]:
    """That it is emulated, for whoever makes a machine: told to a foreground, else to be answered.
    What cannot be emulated is refused.
    """
    if spec.image == HOST:
        return ()
    try:
        image = home.base(spec.image, spec.platform).config
    except NotFound:
        return ()  # whoever makes the machine says what is missing
    said = emulation(spec, image, home.facts)
    if not said:
        return ()
    check_emulation(spec, image, home.facts)
    texts = [f"{spec.image} is emulated: {said}"]
    if spec.isolation == "vm":
        texts += _to_be_built(home, guest_cpu(image, home.facts))
    if call.tell is not None:
        for text in texts:
            call.tell(f"cove: note: {printable(text)}\n")
    return tuple(texts)


def _to_be_built(home: Home, cpu: str) -> list[str]:
    """What the first machine of a CPU waits for: seconds, with Zig the better part of a minute."""
    if is_ready(cpu, directory=home.store.layout.agents):
        return []
    return [f"the agent of {cpu} guests is built first, this once"]


def emulated_here(facts: Facts) -> tuple[str, ...]:
    """Platforms of other CPUs whose images run here."""
    if not facts.binfmt:
        return ()
    nothing = MachineSpec(image="")
    return tuple(
        f"linux/{name}"
        for name, cpu in CPUS.items()
        if foreign_architectures(nothing, ImageConfig(architecture=name), facts)
        and find_interpreter(cpu.qemu)
    )
