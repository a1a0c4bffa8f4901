"""The start of a virtual machine without a boot: a warm clone that waits, or one of the template
that is made now. Where neither can be had, the caller boots, and the next start finds a template.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from cove.engine import emulators, virtual
from cove.engine.descriptors import Descriptors
from cove.engine.emulators import Emulator, Ground, Where, ground_of
from cove.engine.home import Base, Home
from cove.engine.live import Live
from cove.engine.pool import Entry
from cove.engine.virtual import Size, cpus_of, memory_of
from cove.errors import CoveError
from cove.executor.messages import Start, send_start
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.jail import JAIL_IMAGE, plan_vm
from cove.roots import prepare_root
from cove.store.records import MachineRecord
from cove.vm import qmp


def start_clone(
    home: Home,
    record: MachineRecord,
    base: Base,
    live: Live,
    entry: Entry | None,
    ready: Descriptors,
    fds: Descriptors,
    size: Size | None,
    message: Callable[[Plan], Start],
) -> bool:
    """Whether a monitor has the machine. ``ready``: what was set aside for it, ``fds``: its
    session's.
    """
    ground = ground_of(home)
    guest = virtual.guest_of(home, record, base, ground.inside, clone=True)
    group = live.group
    assert group is not None
    where = Where(record.key, record.id_range, group, ready)
    with Descriptors() as more:
        root = more.mine("root", home.disks.open(home, base))
        scratch = more.mine("disk", virtual.open_scratch(home, record.spec, ready["dir"]))
        emulator: Emulator | None = None
        try:
            if entry is not None:
                emulator, entry.emulator = entry.emulator, None
                assert emulator is not None
                qmp.put_disks(emulator.control, root, scratch)
            else:
                emulator = _clone(home, record, ground, where, live, (root, scratch))
            if emulator is None:
                return False
            place = Place(record.key, home.root, rows=size.rows if size else 0,
                          columns=size.columns if size else 0)  # fmt: skip
            plan = live.plan = plan_vm(record.spec, place, emulator.plan, guest)
            with Descriptors() as rest:
                _second(emulator, ready["dir"], rest)
                rest.mine("guestplan", virtual.memory_of_plan(guest, size))
                done = len(emulator.plan.machine)
                second = Plan((), plan.machine[done:])
                send_start(emulator.ctl, message(second), fds | rest)
            emulator.close()
            home.pool.refill()
            return True
        except (CoveError, OSError):
            _give_up(home, record, live, emulator, spoiled=entry is None)
            return False


def _clone(
    home: Home,
    record: MachineRecord,
    ground: Ground,
    where: Where,
    live: Live,
    disks: tuple[int, int],
) -> Emulator | None:
    memory, cpus = memory_of(record.spec.limits), cpus_of(record.spec.limits, ground.facts)
    loaded = home.templates.take(home, ground, memory, cpus)
    if loaded is None:
        home.pool.want_template(memory, cpus)
        return None
    try:
        live.ctl = live.ctl or home.forker.fork()
        return emulators.clone(home, where, ground, loaded, disks, live.ctl)
    finally:
        loaded.close()


def _second(emulator: Emulator, directory: int, fds: Descriptors) -> None:
    """What the rest of the plan refers to."""
    fds["serial"] = emulator.agent.sock.fileno()
    fds["hub"], fds["console"] = emulator.hub, emulator.console
    for name, register in (("console", "consolelog"), ("end", "end")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fds.mine(register, os.open(name, flags, 0o600, dir_fd=directory))


def _give_up(
    home: Home, record: MachineRecord, live: Live, emulator: Emulator | None, *, spoiled: bool
) -> None:
    """It is ended, and the machine boots in its place: from directories as they were."""
    emulators.undo(live.ctl, emulator)
    live.ctl = None
    if spoiled:
        ground = ground_of(home)
        memory, cpus = memory_of(record.spec.limits), cpus_of(record.spec.limits, ground.facts)
        home.templates.discard(home, emulators.key_of(ground, memory, cpus))
    prepare_root(home.root, record.key, views=len(home.base(JAIL_IMAGE).views))
