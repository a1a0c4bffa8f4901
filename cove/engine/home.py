"""What every verb stands on: the store, the host's facts, the forker, groups, the reactor, and the
machines that live right now.

Made once by ``engine.Engine``; verbs are functions that take it. It decides nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from cove.engine.crew import Crew
from cove.engine.events import Events
from cove.engine.live import Live
from cove.engine.logwatch import LogWatch
from cove.engine.reactor import Reactor, Worker
from cove.engine.slots import Slots
from cove.engine.storage import StorageGuard
from cove.engine.visitors import Visits
from cove.errors import CoveError, NotFound
from cove.executor.forker import Forker
from cove.image.catalog import image_config, image_views, layer_keys, resolve
from cove.linux.audit import Audit
from cove.linux.cgroups.tree import Cgroups
from cove.linux.kmsg import KernelLog
from cove.linux.timers import Timer
from cove.oci.config import ImageConfig
from cove.plan.facts import Facts
from cove.planner.defaults import PIDS, STORAGE
from cove.roots import Remover
from cove.spec.health import Answer, Check
from cove.spec.machine import Limits, MachineSpec
from cove.store.db import Store
from cove.store.records import ImageRecord, MachineRecord

if TYPE_CHECKING:  # they stand on this
    from cove.engine.images.disks import Disks
    from cove.engine.machines.exec import Extra
    from cove.engine.machines.retrying import Retries
    from cove.engine.networks.names import Names
    from cove.engine.networks.places import Places
    from cove.engine.vms.pool import Pool
    from cove.engine.vms.templates import Templates


SCRATCH = ImageRecord("", {}, (), 0, 0.0)
"""No image: what FROM scratch begins with."""


@dataclass(frozen=True, slots=True)
class Base:
    """An image as a start needs it."""

    record: ImageRecord
    config: ImageConfig
    layers: tuple[int, ...]
    """Keys of the layers, lowest first."""
    views: tuple[str, ...]
    above: tuple[str, ...] = ()
    """Diff IDs of those of the layers that are above the image's: what a step of a build begins
    with.
    """


PROBERS = 4
"""So many probes are begun at the same time; what they wait for costs nobody anything."""
Told = Callable[[Answer], None]
Probing = Callable[["Home", MachineRecord, Check, Told], None]


@dataclass(slots=True)
class Home:
    root: str
    store: Store
    facts: Facts
    forker: Forker
    groups: Cgroups
    reactor: Reactor
    worker: Worker
    remover: Remover
    slots: Slots
    events: Events
    kernel_log: KernelLog | None
    audit: Audit | None
    boot: str
    state_fd: int
    """Of the state directory: monitors lock and restart through it."""
    run_fd: int
    """Of run/: socket addresses below it stay short."""
    storage: StorageGuard | None = None
    lives: dict[int, Live] = field(default_factory=dict)
    """Machines that run, start, or are being put away, by key."""
    extras: dict[str, Extra] = field(default_factory=dict)
    """Processes added by exec, by id."""
    visits: Visits = field(default_factory=Visits)
    started: float = field(default_factory=time.time)
    logs: LogWatch = field(default_factory=LogWatch)
    closing: bool = False
    idle_timer: Timer | None = None
    disks: Disks = field(init=False)
    """Images as root disks."""
    templates: Templates = field(init=False)
    """What virtual machines are cloned of."""
    pool: Pool = field(init=False)
    """Clones that wait."""
    places: Places = field(init=False)
    """Who has which address."""
    collector: Worker = field(default_factory=partial(Worker, "build cache"))
    """Who holds the build cache to its limits: it looks at whole trees, and nobody waits for it."""
    probers: Crew = field(default_factory=partial(Crew, "health checks", PROBERS))
    """Who begins probes of health checks."""
    probe: Probing = field(init=False)
    retries: Retries = field(init=False)
    """Machines that wait to be started again."""
    names: Names = field(init=False)
    """The name server."""
    bases: dict[str, Base] = field(default_factory=dict)
    steps: dict[str, MachineRecord | None] = field(default_factory=dict)
    """Steps of builds that run, by id, and the last word on the machine of each once it is gone:
    its writable layer is the build's.
    """
    whispers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Variables of such steps that are secrets: in no record, and in no file."""
    strata_sizes: dict[int, int] = field(default_factory=dict)
    """Bytes of layers that machines and snapshots stand on, as far as somebody has asked."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def base(self, reference: str, platform: str = "") -> Base:
        """The image called ``reference``; what it means is kept until an image verb changes it."""
        key = f"{reference} {platform}" if platform else reference
        found = self.bases.get(key)
        if found is None:
            try:
                record = resolve(self.store, reference, platform)
            except NotFound as error:
                raise _cannot_run(error) from error
            found = self.base_of(record)
            if record.id != "host":
                self.bases[key] = found
        return found

    def base_of(self, record: ImageRecord) -> Base:
        return Base(
            record, image_config(record), layer_keys(self.store, record), image_views(record)
        )

    def base_of_machine(self, record: MachineRecord) -> Base:
        image = self.store.image(record.image) if record.image else SCRATCH
        if image is None:
            raise NotFound(
                f"cannot start {record.name}: its image {record.spec.image} is gone", exit_code=125
            )
        base = self.base_of(image)
        return self.base_above(base, record.layers) if record.layers else base

    def base_above(self, base: Base, layers: tuple[str, ...]) -> Base:
        """What a step of a build stands on: an image, and ``layers`` (diff IDs) above it."""
        whole = msgspec.structs.replace(base.record, layers=layers)
        keys = (*base.layers, *layer_keys(self.store, whole))
        return replace(base, layers=keys, above=(*base.above, *layers))

    def whispered(self, record: MachineRecord) -> MachineSpec:
        """Its spec, with the variables that nothing may keep."""
        spec, more = record.spec, self.whispers.get(record.build)
        return msgspec.structs.replace(spec, env=(*spec.env, *more)) if more else spec

    def record(self, key: int) -> MachineRecord:
        return self.store.machine(key)

    def update(self, key: int, **changes: Any) -> MachineRecord:
        """The record of a machine with ``changes``, written. Another thread's changes are kept."""
        with self.lock:
            record = msgspec.structs.replace(self.store.machine(key), **changes)
            self.store.put_machine(record)
            return record

    def publish(
        self, action: str, record: MachineRecord, attributes: dict[str, str] | None = None
    ) -> None:
        """Tell everybody what happened to a machine; its labels, name and image are told along."""
        whole = self._labels(record) | (attributes or {})
        self.events.publish(action, (record.id, record.name, record.spec.image), whole)

    def publish_image(self, action: str, image: ImageRecord | str, name: str = "") -> None:
        """Tell everybody what happened to an image, by its id if it may be gone."""
        image_id = image if isinstance(image, str) else image.id
        found = self.store.image(image) if isinstance(image, str) else image
        labels = dict(image_config(found).labels) if found else {}
        self.events.publish(action, (image_id, name or image_id, ""), labels, type="image")

    def _labels(self, record: MachineRecord) -> dict[str, str]:
        """Its image's, and its own over them."""
        base = self.bases.get(record.spec.image)
        if base is not None and base.record.id == record.image:
            return base.config.labels | record.spec.labels
        image = self.store.image(record.image)
        return (image_config(image).labels if image else {}) | record.spec.labels


def effective(limits: Limits) -> Limits:
    """The limits with cove's defaults where none was asked for."""
    return msgspec.structs.replace(
        limits, pids=limits.pids or PIDS, storage=limits.storage or STORAGE
    )


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _cannot_run(error: CoveError) -> CoveError:
    """A missing image is a command that cannot be carried out: 125, as Docker has it."""
    return type(error)(
        error.message, origin=error.origin, host=error.host, hint=error.hint, exit_code=125
    )
