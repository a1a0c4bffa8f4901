"""Which CPU runs an image: this host's own, or a guest's. One table each: of those that run without
help, and (``planner.qemu.MACHINES``) of those that there are guests for.
"""

from __future__ import annotations

from cove.errors import Unsupported
from cove.oci.config import ImageConfig
from cove.oci.manifest import MACHINES as PLATFORMS
from cove.oci.manifest import Platform
from cove.plan.facts import Facts
from cove.planner.virtual.qemu import MACHINES
from cove.spec.machine import MachineSpec

RUNS_TOO = {"x86_64": ("386",)}
"""What a CPU runs besides its own, without help."""


def architectures(cpu: str) -> tuple[str, ...]:
    """Of the images that a CPU (as ``uname -m``) runs without help, its own first."""
    return (PLATFORMS.get(cpu, (cpu, ""))[0], *RUNS_TOO.get(cpu, ()))


def guest_cpu(image: ImageConfig, facts: Facts) -> str:
    """Of the virtual machine that runs an image, as ``uname -m``: this host's own, where that
    does; empty: there are no such guests.
    """
    wanted = image.architecture
    for cpu in dict.fromkeys((facts.arch, *MACHINES)):
        if not wanted or wanted in architectures(cpu):
            return cpu
    return ""


def refuse_guest(spec: MachineSpec, image: ImageConfig, facts: Facts) -> None:
    """By name, an image for which there are no guests."""
    if guest_cpu(image, facts):
        return
    known = " and ".join(f"linux/{architectures(cpu)[0]}" for cpu in MACHINES)
    raise Unsupported(
        f"cannot run {spec.image} in a virtual machine: it is for "
        f"{Platform(image.architecture, 'linux', image.variant)}, and there are guests for {known}",
        origin="--isolation vm",
        hint="a container may run it by emulation: leave --isolation out",
    )
