"""The start of a virtual machine without a boot: a warm clone that waits, or one of the template
that is made now. Where neither can be had, the caller boots, and the next start finds a template.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.live import Live
from cove.engine.slots import end_monitor
from cove.engine.vms import emulators, virtual
from cove.engine.vms.emulators import Emulator, Where
from cove.engine.vms.ground import Ground, ground_for
from cove.engine.vms.pool import Entry
from cove.engine.vms.virtual import Size, cpus_of, memory_of
from cove.errors import CoveError
from cove.executor.messages import Start, send_start
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.virtual.jail import JAIL_IMAGE, RUN_REST, plan_vm
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
    emulator: Emulator | None = None
    if entry is not None:
        emulator, entry.emulator = entry.emulator, None
    try:
        ground = ground_for(home, base)
        guest = virtual.guest_of(home, record, base, ground.inside)
        with Descriptors() as more:
            root = more.mine("root", home.disks.open(home, base))
            scratch = more.mine("disk", virtual.open_scratch(home, record, ready["dir"]))
            try:
                if emulator is not None:
                    qmp.put_disks(emulator.control, root, scratch)
                else:
                    emulator = _clone(home, record, ground, live, ready, (root, scratch))
                if emulator is None:
                    return False
                rest = guest.after(ground.ahead)
                hand_over(
                    home, record, live, emulator, guest, rest or guest, ready, fds, size, message,
                    how=RUN_REST if rest else 0,
                )  # fmt: skip
            except (CoveError, OSError) as error:
                emulators.tell(f"clone {record.name}", error)
                _give_up(home, record, ground, live, spoiled=entry is None)
                return False
    finally:
        if emulator is not None:
            emulator.close()
    home.pool.refill()
    return True


def hand_over(
    home: Home,
    record: MachineRecord,
    live: Live,
    emulator: Emulator,
    guest: Plan,
    left: Plan | None,
    ready: Descriptors,
    fds: Descriptors,
    size: Size | None,
    message: Callable[[Plan], Start],
    *,
    how: int,
) -> None:
    """The rest of the plan to the monitor that has run the first part. ``left``: what of ``guest``
    was not done there; ``how`` it is to be taken up.
    """
    rows, columns = (size.rows, size.columns) if size else (0, 0)
    place = Place(record.key, home.root, rows=rows, columns=columns)
    how |= virtual.how_it_ends(record)
    plan = live.plan = plan_vm(record.spec, place, emulator.plan, guest, how=how)
    with Descriptors() as rest:
        _second(emulator, ready["dir"], rest)
        rest.mine("guestplan", virtual.memory_of_plan(left, size))
        second = Plan((), plan.machine[len(emulator.plan.machine) :])
        send_start(emulator.ctl, message(second), fds | rest)


def _clone(
    home: Home,
    record: MachineRecord,
    ground: Ground,
    live: Live,
    ready: Descriptors,
    disks: tuple[int, int],
) -> Emulator | None:
    """None: there is no template of this size, but there will be."""
    assert live.group is not None
    where = Where(record.key, record.id_range, live.group, ready, live.cards)
    memory, cpus = memory_of(record.spec.limits), cpus_of(record.spec.limits, ground.facts)
    loaded = home.templates.take(home, ground, memory, cpus)
    if loaded is None:
        home.pool.want_template(ground.arch, memory, cpus, lambda: live.started or live.over)
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
    home: Home, record: MachineRecord, ground: Ground, live: Live, *, spoiled: bool
) -> None:
    """It is ended, and the machine boots in its place: from directories as they were."""
    if live.ctl is not None:
        end_monitor(live.ctl)
        live.close_monitor()
    if spoiled:
        memory, cpus = memory_of(record.spec.limits), cpus_of(record.spec.limits, ground.facts)
        home.templates.discard(home, emulators.key_of(ground, memory, cpus))
    prepare_root(home.root, record.key, views=len(home.base(JAIL_IMAGE).views))
