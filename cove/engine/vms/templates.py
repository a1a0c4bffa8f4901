"""Templates in use, and how one is made: a guest boots once, lets go of its disks, and is kept. No
byte of any image has run in it: one serves every image.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from cove.engine import files
from cove.engine.calls.templates import (
    TemplateList,
    TemplateRemove,
    TemplateRemoved,
    TemplatesListed,
)
from cove.engine.home import Home
from cove.engine.machines.names import choose_id
from cove.engine.networks import taps
from cove.engine.slots import Slot
from cove.engine.vms import emulators
from cove.engine.vms.emulators import Emulator, Where, key_of
from cove.engine.vms.ground import TEMPLATE, Ground, command, ground_of, passed_to, program
from cove.errors import CoveError, HostError, NotFound
from cove.oci.config import ImageConfig
from cove.plan.ops import Plan
from cove.planner.virtual.guest import plan_warm
from cove.planner.virtual.jail import JAIL_IMAGE, jail_spec
from cove.spec.machine import MachineSpec
from cove.vm import qmp
from cove.vm import templates as stored
from cove.vm.agent import MACHINE, WARM
from cove.vm.kernels import Kernels
from cove.vm.templates import Loaded, Template

HELD = 2
"""Templates whose memory is kept; the least recently used one goes first."""
PLACEHOLDER = MachineSpec(image="placeholder", command=("/probe", "version"))

FAILURES = 3
"""After so many in a row none of that CPU is made any more until the daemon's next start."""
LARGEST_DISK = 1 << 50
"""Bytes that a guest takes its disks for, none of which are there: no file system that is behind
them later is larger.
"""


class Templates:
    def __init__(self) -> None:
        self._held: dict[str, Loaded] = {}
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}

    def close(self) -> None:
        """Gives the memory of all back; on disk they stay."""
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for loaded in held:
            loaded.close()

    def take(self, home: Home, ground: Ground, memory: int, cpus: int) -> Loaded | None:
        """With descriptors of the caller's own, or None: it must be made first. A damaged one is
        removed.
        """
        key = key_of(ground, memory, cpus)
        with self._lock:
            loaded = self._held.pop(key, None)
            if loaded is None:
                loaded = _load(home, key)
            if loaded is None:
                return None
            self._held[key] = loaded
            while len(self._held) > HELD:
                self._held.pop(next(iter(self._held))).close()
            return Loaded(loaded.template, os.dup(loaded.memory), os.dup(loaded.state))

    def has(self, home: Home, ground: Ground, memory: int, cpus: int) -> bool:
        return os.path.exists(home.store.layout.template(key_of(ground, memory, cpus)))

    def discard(self, home: Home, key: str) -> None:
        """Clones that run are not touched."""
        with self._lock:
            loaded = self._held.pop(key, None)
            if loaded is not None:
                loaded.close()
            stored.remove(home.store.layout, key)

    def make(self, home: Home, ground: Ground, memory: int, cpus: int) -> None:
        """For a worker. Those that it replaces, and that no clone can be made of, go."""
        failures = self._failures.get(ground.arch, 0)
        if failures >= FAILURES or self.has(home, ground, memory, cpus):
            return
        try:
            made = _make(home, ground, memory, cpus)
        except (CoveError, OSError):
            self._failures[ground.arch] = failures + 1
            raise
        self._failures[ground.arch] = 0
        for old in stored.all_of(home.store.layout):
            same = (old.kernel, old.memory, old.cpus) == (made.kernel, memory, cpus)
            if old.key != made.key and same:
                self.discard(home, old.key)


def _load(home: Home, key: str) -> Loaded | None:
    layout = home.store.layout
    try:
        return stored.load(layout, stored.find(layout, key))
    except NotFound:
        return None
    except HostError:
        stored.remove(layout, key)
        return None


def empty_slot(home: Home, memory: int) -> Slot:
    """A key, ids, a group and directories for an emulator without a machine."""
    limits = jail_spec(MachineSpec(JAIL_IMAGE), memory=memory).limits
    group = home.groups.make(limits)
    slot = Slot(home.store.new_key(), choose_id(), group, -1, limits=limits)
    home.slots.fill(slot, views=len(home.base(JAIL_IMAGE).views))
    try:
        slot.cards = taps.open_cards(home, slot.key, "a guest")
    except BaseException:
        home.slots.give_up(slot)
        raise
    return slot


def where_of(slot: Slot) -> Where:
    fds = {"dir": slot.directory, "listen": slot.listener, **slot.generated}
    return Where(slot.key, slot.id_range, slot.group, fds, slot.cards)


def _make(home: Home, ground: Ground, memory: int, cpus: int) -> Template:
    with contextlib.ExitStack() as stack:
        ram = _file(stack, "memory", memory)
        state = _file(stack, "state", 0)
        slot = empty_slot(home, memory)
        try:
            home.pool.hold(slot)
            emulator = _boot(home, ground, memory, cpus, slot, ram)
            try:
                version = emulator.agent.wait_ready()
                emulator.agent.begin(ground.ahead, channel=MACHINE)
                emulator.agent.begin(warm_plan(ground)[0], channel=WARM)
                qmp.save(emulator.control, state)
            finally:
                emulator.close()
        finally:
            home.pool.hold(None)
            home.slots.give_up(slot)
        template = Template(
            key_of(ground, memory, cpus), ground.kernel.name, ground.kernel.digest, version,
            ground.arch, ground.accel, memory, cpus,
            ".".join(map(str, ground.emulator)), ground.agent, time.time(), 0, (), "", "",
        )  # fmt: skip
        return stored.store(home.store.layout, template, ram, state)


def warm_plan(ground: Ground) -> tuple[Plan, Plan]:
    """Both halves of what a guest is warmed by."""
    texts = dict(files.texts(PLACEHOLDER, "guest"))
    return plan_warm(ImageConfig(), ground.inside, texts, command=PLACEHOLDER.command)


def _boot(home: Home, ground: Ground, memory: int, cpus: int, slot: Slot, ram: int) -> Emulator:
    kernels = Kernels(home.store.layout)
    passed = passed_to(ground, TEMPLATE)
    line = command(ground, memory, cpus, passed)
    jail = jail_spec(MachineSpec(JAIL_IMAGE), memory=memory)
    assert slot.ctl is not None
    with contextlib.ExitStack() as stack:
        given = {
            "memory": ram,
            "rootdisk": qmp.reopened(_file(stack, "root", LARGEST_DISK)),
            "scratch": _file(stack, "scratch", LARGEST_DISK),
            "kernel": kernels.open_kernel(ground.kernel),
        }
        stack.callback(os.close, given["kernel"])
        stack.callback(os.close, given["rootdisk"])
        agent = program(home.store.layout, ground.arch)
        given["initrd"] = kernels.open_initrd(ground.kernel, agent)
        stack.callback(os.close, given["initrd"])
        return emulators.spawn(
            home, where_of(slot), jail, line, passed, given, ground.facts, slot.ctl
        )


def _file(stack: contextlib.ExitStack, name: str, size: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.ftruncate(fd, size)
    return fd


# ---- the verbs ----


def template_list(home: Home, params: TemplateList) -> TemplatesListed:
    kernels = {kernel.digest for kernel in Kernels(home.store.layout).all()}
    found = stored.all_of(home.store.layout)
    ready = []
    for template in found:
        try:
            ground = ground_of(home, template.arch)
            fits = key_of(ground, template.memory, template.cpus) == template.key
        except CoveError:
            fits = False
        ready.append(fits and template.digest in kernels)
    return TemplatesListed(
        found, tuple(ready), tuple(home.pool.count(template.key) for template in found)
    )


def template_remove(home: Home, params: TemplateRemove) -> TemplateRemoved:
    """By key or the beginning of one."""
    names = stored.names(home.store.layout)
    found = [name for name in names if params.template and name.startswith(params.template)]
    if not found:
        raise NotFound(
            f"cannot remove template {params.template}: no such template",
            hint="cove template ls shows them",
        )
    if len(found) > 1:
        raise NotFound(f"cannot remove template {params.template}: there are {len(found)} of them")
    home.pool.drop(found[0])
    home.templates.discard(home, found[0])
    return TemplateRemoved(found[0])
