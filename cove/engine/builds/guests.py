"""RUN in a virtual machine. What a step wrote is on its disk, which no kernel but a guest's may
mount: once its own guest is gone, another one shows it to the archiver.
"""

from __future__ import annotations

import contextlib
import os

from cove.build.graph.data import Build, RunStep
from cove.build.source import misfit
from cove.engine.builds import trees
from cove.engine.calls import Call
from cove.engine.calls.build import ImageBuild
from cove.engine.descriptors import Descriptors
from cove.engine.events import Cancel
from cove.engine.home import Home
from cove.engine.visits.visits import visit_copy
from cove.engine.vms import virtual
from cove.store.records import LayerRecord, MachineRecord

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def check(build: Build, params: ImageBuild) -> None:
    """What no guest can be given is refused by its name, before anything is done."""
    if params.isolation != "vm":
        return
    for step in (step for stage in build.stages for step in stage.steps):
        if isinstance(step, RunStep):
            _check_step(step, params.network)


def _check_step(step: RunStep, network: str) -> None:
    if "host" in (step.network, network):
        raise misfit(
            step.place,
            "--network host is not possible with --isolation vm: a guest's network is its own",
            hint="leave --isolation vm out",
        )


def layer_of(
    home: Home, ended: MachineRecord, stopped: Cancel, pins: contextlib.ExitStack
) -> LayerRecord:
    """``ended``: the last word on the machine of the step, whose directory is still there."""
    what = "keep what a step wrote"
    directory = os.open(home.store.layout.machine(ended.key), DIRECTORY)
    try:
        disk = virtual.open_scratch(home, ended, directory)
    finally:
        os.close(directory)
    with Descriptors() as fds:
        fds.mine("disk", disk)
        call = Call(cancelled=stopped)
        with visit_copy(home, ended, disk, call, "layer", what=what) as archiver:
            return trees.read_layer(home, archiver, pins)
