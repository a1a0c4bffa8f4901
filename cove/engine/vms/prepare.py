"""What the first virtual machine of a host, and of an image, waits for, told while it is made:
whether KVM works here (a trial boot), the agent for guests of another CPU, the image's disk. A
start makes them too, without a word.
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
from cove.vm.accel import facts_with_kvm, known
from cove.vm.agents import is_ready
from cove.vm.kernels import Kernels
from cove.vm.record import Step

Report = Callable[[object], None]
Task = tuple[str, Callable[[Callable[[int], None]], object]]
"""What it is called, and what does it: told how many bytes there are by now."""


def prepare(home: Home, params: Prepare, call: Call) -> Iterator[Progress]:
    """Nothing is told where everything is there. Who goes away does not end what was begun."""
    spec = params.spec
    if spec.isolation != "vm":
        return iter((Progress("done"),))
    base = home.base(spec.image, spec.platform)
    virtual.check_image(spec, base)
    refuse_guest(spec, base.config, home.facts)
    tasks = list(_tasks(home, spec.image, base))
    if not tasks:
        return iter((Progress("done"),))

    def work(report: Report) -> Iterator[Progress]:
        for stage, act in tasks:
            report(Step(stage))
            act(partial(_tell, report, stage))
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


def _tell(report: Report, stage: str, size: int) -> None:
    report(Step(stage, current=size))
