"""What the first virtual machine of a host, and of an image, waits for, told while it is made:
whether KVM works here (a trial boot), the agent for guests of another CPU, the image's disk. A
start makes them too, without a word. That it will boot, for want of a template, is told as well.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial

from cove.engine.calls import Call, Progress
from cove.engine.calls.prepare import Prepare
from cove.engine.home import Base, Home
from cove.engine.images.images import as_steps
from cove.engine.vms import ground, virtual
from cove.planner.cpus import guest_cpu, refuse_guest
from cove.spec.machine import MachineSpec
from cove.vm.accel import facts_with_kvm, known
from cove.vm.agents import is_ready
from cove.vm.kernels import Kernels
from cove.vm.record import Step

Report = Callable[[object], None]
Task = tuple[str, Callable[[Callable[[int], None]], object]]
"""What it is called, and what does it: told how many bytes there are by now."""
BOOTS = "booting a guest of this size; the next ones are clones"


def prepare(home: Home, params: Prepare, call: Call) -> Iterator[Progress]:
    """Nothing is told where everything is there. Who goes away does not end what was begun."""
    spec = params.spec
    if spec.isolation != "vm":
        return iter((Progress("done"),))
    base = home.base(spec.image, spec.platform)
    virtual.check_image(spec, base)
    refuse_guest(spec, base.config, home.facts)
    tasks = list(_tasks(home, spec.image, base))
    if not tasks and not _boots(home, spec, base):
        return iter((Progress("done"),))

    def work(report: Report) -> Iterator[Progress]:
        for stage, act in tasks:
            report(Step(stage))
            act(partial(_tell, report, stage))
        if _boots(home, spec, base):
            report(Step(BOOTS))
        yield Progress("done")

    return as_steps(home, call, work, threading.Event(), wind_up=0.0)


def _tasks(home: Home, image: str, base: Base) -> Iterator[Task]:
    layout, arch = home.store.layout, guest_cpu(base.config, home.facts)
    facts = ground.facts_of(home, arch)
    kernels = Kernels(layout)
    kernel = ground.kernel_for(kernels, facts, arch)
    if arch == facts.arch and known(layout, facts, arch) is None:
        yield (
            "trying whether KVM works here, once",
            lambda tell: facts_with_kvm(kernels, kernel, facts),
        )
    if not is_ready(arch, directory=layout.agents):
        yield (
            f"building the agent of guests for {arch}, once",
            lambda tell: ground.program(layout, arch),
        )
    if not os.path.exists(layout.disk(base.record.id)):
        yield (
            f"making the disk of {image}, once",
            lambda tell: os.close(home.disks.open(home, base, tell)),
        )


def _boots(home: Home, spec: MachineSpec, base: Base) -> bool:
    """Whether nothing is there that its guest could be a clone of. Asked for when the rest is."""
    if spec.snapshot:
        return False
    found = ground.ground_for(home, base)
    memory, cpus = virtual.memory_of(spec.limits), virtual.cpus_of(spec.limits, found.facts)
    return not home.templates.has(home, found, memory, cpus)


def _tell(report: Report, stage: str, size: int) -> None:
    report(Step(stage, current=size))
