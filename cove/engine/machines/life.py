"""The verbs of a machine's beginning: create, run, start (its end: ``stopping``).

Each checks what the machine's state allows, writes the record, and only then causes anything.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from cove.engine.home import Base, Home, effective
from cove.engine.images.foreign import check_emulation
from cove.engine.live import Live
from cove.engine.machines.names import choose_id, choose_name
from cove.engine.machines.start import Foreground, launch
from cove.engine.machines.stopping import KILL_WAIT, catch_up, has_ended, running, settle
from cove.engine.networks import finding, joining, places, ports
from cove.engine.networks.default import decided, hint_of_none
from cove.engine.slots import Slot
from cove.engine.vms.pool import Entry
from cove.engine.vms.virtual import check_image, jail_of
from cove.engine.volumes import taking
from cove.engine.volumes.binds import check_binds
from cove.errors import Conflict, HostError, NoSuchImage, Unsupported
from cove.linux.cgroups.tree import Group
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform, matches, parse_platform
from cove.planner import argv_of
from cove.planner.defaults import PIDS
from cove.spec.health import check_of
from cove.spec.machine import Limits, MachineSpec
from cove.spec.network import machine_of
from cove.spec.ports import exposed
from cove.spec.resume import check_resumable
from cove.store.records import Cause, Endpoint, MachineRecord, Published
from cove.vm.moments import Held

STARTABLE = ("created", "exited", "restarting")
LEAVING = 10.0
"""Seconds in which what it held is given back, also on a busy host."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What the root of a machine begins with."""

    base: Base
    strata: tuple[int, ...] = ()
    snapshot: str = ""
    resume: str = ""
    """Id of the snapshot that a virtual machine goes on from."""
    moment: Held | None = None
    """What it goes on from at once."""
    warm: bool = False
    """That is memory, too: no other guest serves it."""
    layers: tuple[str, ...] = ()
    """Diff IDs of what a step of a build stands on above its image; ``base`` has them too."""
    build: str = ""
    """Id of that step."""


def ground_of(home: Home, spec: MachineSpec) -> Ground:
    """The image, or the snapshot with the image that it stands on."""
    if not spec.snapshot:
        return Ground(home.base(spec.image, spec.platform))
    snapshot = home.store.find_snapshot(spec.snapshot)
    if snapshot.spec.isolation != spec.isolation:
        raise Unsupported(
            f"cannot run snapshot {snapshot.name} with isolation {spec.isolation}: it is one of a "
            f"machine with isolation {snapshot.spec.isolation}",
            origin=f"--isolation {spec.isolation}",
        )
    image = home.store.image(snapshot.image)
    if image is None:
        raise NoSuchImage(
            f"cannot run snapshot {snapshot.name}: its image {snapshot.spec.image} is gone",
            exit_code=125,
        )
    base = home.base_of(image)
    if snapshot.kind == "file system":
        return Ground(base, snapshot.strata, snapshot.id)
    warm = snapshot.kind != "disk"
    check_resumable(spec, snapshot.spec, snapshot.name, warm=warm, exit_code=125)
    return Ground(base, (), snapshot.id, snapshot.id, warm=warm)


def new_record(
    home: Home, spec: MachineSpec, ground: Ground, *, slot: Slot | None = None
) -> MachineRecord:
    """A machine that is not written yet; of a slot, if it is to run at once."""
    base = ground.base
    check_image(spec, base)
    _check_platform(spec, base.config)
    check_emulation(spec, base.config, home.facts)
    check_binds(spec)
    if spec.name and not home.store.name_free(spec.name):
        _wait_for_name(home, spec.name)
    machine_id = slot.id if slot else choose_id()
    name = spec.name or _free_name(home, machine_id)
    if spec.mounts:  # who has just ended has no volume any more
        settle(home, tuple(home.lives))
    spec = taking.take(home, spec, base, ground.strata)
    return MachineRecord(
        key=slot.key if slot else home.store.new_key(),
        id=machine_id,
        name=name,
        spec=spec,
        image=base.record.id,
        state="running" if slot else "created",
        created=time.time(),
        argv=argv_of(spec, base.config),
        exposed=exposed((*base.config.exposed_ports, *spec.expose)),
        strata=ground.strata,
        snapshot=ground.snapshot,
        resume=ground.resume,
        check=check_of(spec.health, base.config.healthcheck, base.config.shell),
        build=ground.build,
        layers=ground.layers,
    )


def _wait_for_name(home: Home, name: str) -> None:
    """An ephemeral machine that has ended gives its name up: its caller may know of the end a
    moment before this daemon does.
    """
    holder = home.store.find_machine(name)
    live = home.lives.get(holder.key)
    if live is None or not holder.spec.remove:
        return
    catch_up(home, live, KILL_WAIT)
    if running(home, holder) is None:
        home.events.wait_until(partial(has_ended, home, live), timeout=KILL_WAIT)


def _check_platform(spec: MachineSpec, image: ImageConfig) -> None:
    """An image of another kind of machine than was asked for is not run in its place."""
    if not spec.platform or not image.architecture:
        return
    has = Platform(image.architecture, image.os or "linux", image.variant)
    if not matches(parse_platform(spec.platform), has):
        from cove.image.distributions import hint_for

        raise NoSuchImage(
            f"cannot run {spec.image} as {spec.platform}: it is an image for {has}",
            origin=f"--platform {spec.platform}",
            host=f"the image {spec.image} that is here is for {has}",
            hint=hint_for(spec.image, spec.platform),
            exit_code=125,
        )


def create(home: Home, spec: MachineSpec) -> MachineRecord:
    spec = decided(home, spec)
    record = new_record(home, spec, ground_of(home, spec))
    try:
        return _add(home, record)
    except BaseException:
        taking.give_up(home, record.spec.mounts)
        raise


def _add(home: Home, record: MachineRecord) -> MachineRecord:
    """Write a new machine. A chosen name that somebody else took meanwhile is chosen anew."""
    while True:
        try:
            with home.lock:
                taking.check_there(home, record)
                home.store.add_machine(record, of_image=True)
                taking.settle(home, record)
        except Conflict:
            if record.spec.name:
                raise
            other = _free_name(home, secrets.token_hex(32))
            record = msgspec.structs.replace(record, name=other)
            continue
        home.publish("create", record)
        return record


def _free_name(home: Home, machine_id: str) -> str:
    return choose_name(machine_id, lambda name: not home.store.name_free(name))


def run(
    home: Home, spec: MachineSpec, foreground: Foreground | None, ground: Ground | None = None
) -> MachineRecord:
    """Create and start with one write: a crash in between leaves a machine that is cleared away."""
    spec = decided(home, spec)
    ground = ground or ground_of(home, spec)
    vm = spec.isolation == "vm"
    slot: Slot | None = None
    if not ground.warm:
        slot = home.pool.take(spec, ground.base.config) if vm else home.slots.take()
    try:
        record = new_record(home, spec, ground, slot=slot)
    except BaseException:
        if isinstance(slot, Entry):
            home.pool.put_back(slot)
        elif slot is not None:
            home.slots.put_back(slot)
        raise
    record = msgspec.structs.replace(record, state="running")
    live = Live(record.key, slot=slot, moment=ground.moment)
    try:
        return _begin(home, record, ground.base, live, foreground, partial(_add, home))
    except BaseException:
        taking.give_up(home, record.spec.mounts)
        raise


def wait_begun(home: Home, record: MachineRecord) -> None:
    """One that somebody else is starting runs a moment later, or has failed, or ended already."""
    live = home.lives.get(record.key)
    if live is not None:
        _wait_begun(home, live, KILL_WAIT)


def _wait_begun(home: Home, live: Live, timeout: float | None) -> None:
    if not live.started:
        home.events.wait_until(
            lambda: live.started or live.ended is not None or has_ended(home, live),
            timeout=timeout,
        )


def start(
    home: Home, record: MachineRecord, foreground: Foreground | None, *, again: bool = False
) -> MachineRecord:
    """Start a machine that does not run; one that is still being put away is waited for, and one
    that somebody else has started meanwhile is not. ``again``: by its restart policy, and only
    while its record says so.
    """
    key = record.key
    home.events.wait_until(lambda: key not in home.lives or running(home, record) is not None)
    record = home.record(key)
    if record.state not in (("restarting",) if again else STARTABLE):
        raise Conflict(f"cannot start {record.name}: it is {record.state}")
    base = home.base_of_machine(record)
    record = msgspec.structs.replace(
        record,
        state="running",
        stopping=False,
        cause=Cause(""),
        exit_code=0,
        started=0.0,
        finished=0.0,
        argv=argv_of(record.spec, base.config),
        retry=0.0,
        restarts=record.restarts if again else 0,
        delay=record.delay if again else 0.0,
    )

    live = Live(record.key)
    write = partial(_write_start, home, live, again)
    return _begin(home, record, base, live, foreground, write)


def _write_start(home: Home, live: Live, again: bool, record: MachineRecord) -> MachineRecord:
    """Unless it was removed meanwhile, or stopped before its policy started it; with the name and
    limits that it was given meanwhile.
    """
    with home.lock:
        now = home.record(record.key)
        if again and (now.state != "restarting" or now.stopping):
            raise Conflict(f"cannot start {record.name}: it was stopped meanwhile")
        if now.spec.limits != record.spec.limits and live.group is not None:
            live.group = home.groups.set_limits(live.group, effective(now.spec.limits))
        record = msgspec.structs.replace(
            record,
            name=now.name,
            spec=now.spec,
            restarting=now.restarting,
            limits_before=None,
            mounts_before=None,
            strata=now.strata,
            own=now.own,
            snapshot=now.snapshot,
            disk=now.disk,
            resume=now.resume,
            restoring=now.restoring,
        )
        home.store.put_machine(record)
        return record


def _begin(
    home: Home,
    record: MachineRecord,
    base: Base,
    live: Live,
    foreground: Foreground | None,
    write: Callable[[MachineRecord], MachineRecord],
) -> MachineRecord:
    """Group and id range are set aside, the record says so, and only then are they used."""
    spec, slot = record.spec, live.slot
    if spec.isolation == "vm":
        spec = jail_of(spec)
    live.session = foreground is not None
    places_taken: tuple[Endpoint, ...] = ()
    try:
        live.group = _group(home, spec.limits, slot)
        live.id_range = _id_range(home, spec, record.key, slot)
        places_taken = _places(home, record)
        record = msgspec.structs.replace(
            record,
            group=live.group.name,
            boot=home.boot,
            deadline=time.time() + record.spec.timeout if record.spec.timeout else 0.0,
            id_range=live.id_range,
            endpoints=places_taken,
            refused=(),
            refusals=0,
        )
        opened = _ports(home, record, places_taken, live)
        record = msgspec.structs.replace(record, published=opened)
        with home.lock:
            if record.key in home.lives:
                raise Conflict(f"cannot start {record.name}: it is being started")
            home.lives[record.key] = live
        record = write(record)
    except BaseException:
        if home.lives.get(record.key) is live:
            del home.lives[record.key]
            home.events.nudge()  # who stops it waits for its end
            live.leaving.nudge()
            home.store.free_range(record.key)
        if places_taken:
            home.places.give_back(record.key)
        live.served.close_sockets()
        if slot is not None:
            home.slots.give_up_later(slot)
        elif live.group is not None:
            home.groups.remove(live.group)
        live.slot = live.group = None
        raise
    home.visits.end(record.key)
    if foreground is not None:
        home.publish("attach", record)
    finding.publish_places(home, "connect", record)
    launch(home, record, base, live, foreground)
    if foreground is not None and foreground.begun:
        _wait_begun(home, live, None)
        if live.failure is not None:
            raise live.failure
    return record


def _places(home: Home, record: MachineRecord) -> tuple[Endpoint, ...]:
    """Its places on networks. One that has ended may still have what is asked for: that is on its
    way back.
    """
    with hint_of_none():
        try:
            return places.take(home, record.spec, record.key)
        except (Conflict, HostError):
            if not _wait_leaving(home, partial(places.neighbours, home, record.spec)):
                raise
            return places.take(home, record.spec, record.key)


def _ports(
    home: Home, record: MachineRecord, endpoints: tuple[Endpoint, ...], live: Live
) -> tuple[Published, ...]:
    """Its ports of the host, which may be on their way back as well."""
    try:
        return ports.open_all(home, record, endpoints, live)
    except Conflict:
        if not _wait_leaving(home, partial(ports.holders, home)):
            raise
        return ports.open_all(home, record, endpoints, live)


def _wait_leaving(home: Home, holders: Callable[[], set[int]]) -> bool:
    """Whether some of those that have what is asked for have ended: they have given it back now."""
    others = holders()
    settle(home, others)
    leaving = {key for key in others if (live := home.lives.get(key)) is None or live.over}
    if leaving:
        home.events.wait_until(lambda: not leaving & holders(), timeout=LEAVING)
    return bool(leaving)


def _group(home: Home, limits: Limits, slot: Slot | None) -> Group:
    """Its group, under its limits. A slot's has the default ones, and may be waited in already."""
    limits = effective(limits)
    if slot is None:
        return home.groups.make(limits)
    if limits == slot.limits:
        return slot.group
    if limits.pids == PIDS:
        limits = msgspec.structs.replace(limits, pids=0)
    return home.groups.set_limits(slot.group, limits)


def _id_range(home: Home, spec: MachineSpec, key: int, slot: Slot | None) -> int:
    if spec.security.privileged or spec.security.userns == "host":
        if slot is not None:
            home.store.free_range(key)
        return -1
    if machine_of(spec.network):
        return joining.share_range(home, spec, key)
    return home.store.take_range(key) if slot is None else slot.id_range
