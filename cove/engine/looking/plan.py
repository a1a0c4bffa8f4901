"""``cove plan``: what a run would do, without doing it."""

from __future__ import annotations

import os
import stat
import uuid
from dataclasses import replace

import msgspec

from cove.engine import files
from cove.engine.home import Base, Home
from cove.engine.images.foreign import interpreters
from cove.engine.machines.devices import devices_of
from cove.engine.machines.life import ground_of
from cove.engine.networks.default import decided
from cove.engine.ranges import range_base
from cove.engine.vms import virtual
from cove.engine.vms.ground import BOOT, command, ground_for
from cove.errors import CoveError
from cove.oci.config import ImageConfig
from cove.plan.ops import Plan
from cove.plan.text import render, to_json
from cove.plan.wire import encode
from cove.planner import BindSource, Place, plan_machine
from cove.planner.virtual.cards import Link
from cove.planner.virtual.guest import Identity, plan_guest
from cove.planner.virtual.jail import plan_jail, plan_vm
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.volume import image_mounts

EXAMPLE_ID = "0" * 64
NO_MAC, NO_ADDRESS = "00:00:00:00:00:00", "0.0.0.0"


def plan_only(home: Home, spec: MachineSpec) -> Plan:
    """The plan of a machine that is never made: key 0, the first id range, group 0."""
    spec = decided(home, spec)
    ground = ground_of(home, spec)
    base = ground.base
    if spec.isolation == "container":
        mounts = spec.mounts + image_mounts(spec.mounts, base.config.volumes, spec.image)
        spec = msgspec.structs.replace(spec, mounts=mounts)
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
            BindSource(f"bind{index}", is_dir=mount.type == "volume" or _is_dir(mount.source))
            for index, mount in enumerate(spec.mounts)
            if mount.type in ("bind", "volume")
        ),
        files=files.TARGETS,
        hostname=files.hostname_of(spec, EXAMPLE_ID),
        devices=devices_of(spec) if spec.isolation == "container" else (),
        interpreters=interpreters(spec, base.config, home.facts),
    )
    if spec.isolation == "vm":
        return _virtual(home, spec, base, place)
    return plan_machine(spec, base.config, home.facts, place)


def _virtual(home: Home, spec: MachineSpec, base: Base, place: Place) -> Plan:
    """The jail's plan, and the one that runs in the guest; random numbers and clock are zero, and
    addresses that a start chooses.
    """
    ground = ground_for(home, base)
    guest = plan_guest(
        spec,
        base.config,
        ground.inside,
        Identity(bytes(64), 0, str(uuid.UUID(int=0))),
        dict(files.texts(spec, place.hostname, files.EXAMPLE)),
        hostname=place.hostname,
        links=tuple(
            Link(index, wish.network, wish.mac or NO_MAC, f"{wish.ip or NO_ADDRESS}/32")
            for index, wish in enumerate(connections_of(spec))
        ),
    )
    jail = virtual.jail_of(spec)
    around = home.base(jail.image)
    inner = replace(
        place, base=range_base(0), layers=around.layers, views=around.views, volatile=True,
        hostname="guest",
    )  # fmt: skip
    limits, facts = spec.limits, ground.facts
    line = command(ground, virtual.memory_of(limits), virtual.cpus_of(limits, facts), BOOT)
    around_it = plan_jail(jail, around.config, facts, inner, emulator=line, passed=BOOT)
    return plan_vm(spec, inner, around_it, guest)


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
