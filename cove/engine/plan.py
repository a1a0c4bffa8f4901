"""``cove plan``: what a run would do, without doing it."""

from __future__ import annotations

import os
import stat

from cove.engine import files
from cove.engine.foreign import emulators
from cove.engine.home import Home
from cove.engine.life import ground_of
from cove.engine.ranges import range_base
from cove.errors import CoveError
from cove.oci.config import ImageConfig
from cove.plan.ops import Plan
from cove.plan.text import render, to_json
from cove.plan.wire import encode
from cove.planner import BindSource, Place, plan_machine
from cove.spec.machine import MachineSpec

EXAMPLE_ID = "0" * 64


def plan_only(home: Home, spec: MachineSpec) -> Plan:
    """The plan of a machine that is never made: key 0, the first id range, group 0."""
    ground = ground_of(home, spec)
    base = ground.base
    own_ids = not (spec.security.privileged or spec.security.userns == "host")
    example = home.groups.example()
    place = Place(
        key=0,
        root=home.root,
        base=range_base(0 if own_ids else -1),
        layers=base.layers,
        strata=ground.strata,
        views=base.views,
        cgroup_files=example.tasks,
        cgroup_into=bool(example.directory),
        volatile=spec.remove,
        binds=tuple(
            BindSource(f"bind{index}", is_dir=_is_dir(mount.source))
            for index, mount in enumerate(spec.mounts)
            if mount.type == "bind"
        ),
        files=files.TARGETS,
        hostname=files.hostname_of(spec, EXAMPLE_ID),
        emulators=emulators(spec, base.config, home.facts),
    )
    return plan_machine(spec, base.config, home.facts, place)


def warm_up(home: Home) -> None:
    """Compile the default filters and all else that plans share, before the first caller waits."""
    spec = MachineSpec(image="none", command=("true",))
    example = home.groups.example()
    place = Place(
        key=0,
        root=home.root,
        base=range_base(0),
        cgroup_files=example.tasks,
        cgroup_into=bool(example.directory),
        files=files.TARGETS,
        hostname="none",
    )
    try:
        plan = plan_machine(spec, ImageConfig(), home.facts, place)
    except CoveError:  # no machine can be run here: whoever asks for one is told why
        return
    encode(plan.host)
    encode(plan.machine)


def plan_text(home: Home, spec: MachineSpec, *, json: bool) -> str:
    plan = plan_only(home, spec)
    return to_json(plan) if json else render(plan)


def _is_dir(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError:
        return True
