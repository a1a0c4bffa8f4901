"""The files of a virtual machine that does not run. They are on a disk that it wrote itself, which
no kernel but a guest's may mount: a guest of the visitors' own does, in the jail that every guest
is in. What holds the machine's root there is the archiver, which waits; visitors join it as they
join a machine that runs.

Each visit ends with sync(2) in the guest, which may therefore be killed at any time: ext4's journal
makes the disk whole, as after a power cut. It stays a moment for the next visit: a ``cp`` is three.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import msgspec

from cove.engine.calls import Call
from cove.engine.descriptors import Descriptors
from cove.engine.events import Cancelled
from cove.engine.home import Base, Home
from cove.engine.slots import Slot, open_group
from cove.engine.vms import emulators, virtual
from cove.engine.vms.emulators import jail_place
from cove.engine.vms.ground import (
    BOOT,
    CLONE,
    Ground,
    card_registers,
    command,
    ground_of,
    passed_to,
    program,
)
from cove.engine.vms.guests import why_no_guest
from cove.engine.vms.pool import CPUS
from cove.engine.vms.templates import empty_slot, where_of
from cove.engine.vms.virtual import MEMORY
from cove.errors import Conflict, CoveError, HostError, NotFound
from cove.executor.archiver import Archiver, run_archiver
from cove.linux.cgroups.tree import Group
from cove.linux.ready import readable
from cove.linux.timers import Timer
from cove.plan.ops import Barrier, Plan
from cove.planner.files.archive import plan_stopped
from cove.planner.virtual.guest import guest_place, plan_visit
from cove.planner.virtual.jail import JAIL_IMAGE, jail_spec, plan_jail, plan_vm
from cove.spec.machine import MachineSpec
from cove.store.records import MachineRecord
from cove.vm import qmp
from cove.vm.kernels import Kernels
from cove.vm.templates import Loaded

LINGER = 3.0
"""Seconds that a guest stays after its last visitor."""
GONE = 20.0
"""Seconds that processes may take to go which were killed."""
TICK = 0.1
HOLDER = MachineSpec(JAIL_IMAGE, stdin_open=True)
"""What waits in the guest, until its input ends; the disk is written before its end is told."""


@dataclass(slots=True, eq=False)
class Beside:
    """A guest that runs, to whose processes one more is added."""

    record: MachineRecord
    """The machine's, with the key and ids under which its guest is reached."""
    group: Group
    pidfd: int
    """Of the first process of its jail."""


@dataclass(slots=True, eq=False)
class OpenDisks(Beside):
    """One with the disks of a machine that does not run. Whoever uses it has the machine alone."""

    stack: ExitStack
    timer: Timer | None = None

    def alive(self) -> bool:
        return not readable(self.pidfd, 0)

    def close(self) -> None:
        """Returns when nobody has the disks any more."""
        if self.timer is not None:
            self.timer.cancel()
        self.stack.close()


def open_ground(home: Home) -> Ground:
    """Of the guests of visits: this host's own CPU, whichever the machine's is."""
    return ground_of(home, home.facts.arch)


@contextmanager
def open_root(home: Home, record: MachineRecord) -> Iterator[int]:
    """The image's disk. It may have to be made, which waits for ``home.lock``: before the visitor
    has the machine alone, because who removes one waits for that with the lock.
    """
    fd = home.disks.open(home, home.base_of_machine(record))
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_disks(
    home: Home, record: MachineRecord, root: int, call: Call, what: str
) -> Iterator[OpenDisks]:
    """For the one visitor of a machine that does not run."""
    kept = home.visits.guests.pop(record.key, None)
    if kept is not None and not kept.alive():
        kept.close()
        kept = None
    if kept is None:
        with Descriptors() as disks:
            disk = disks.mine("scratch", _open_scratch(home, record))
            opened = _open(home, record, root, disk, call, what)
    else:
        opened = kept
    if opened.timer is not None:
        opened.timer.cancel()
    try:
        yield opened
    except NotFound:  # an answer like any other
        _keep(home, record.key, opened)
        raise
    except BaseException:
        opened.close()
        raise
    _keep(home, record.key, opened)


@contextmanager
def open_copy(
    home: Home, record: MachineRecord, root: int, disk: int, call: Call, what: str
) -> Iterator[OpenDisks]:
    """With a disk that is no machine's, and goes with the visit. The guest writes to it: what its
    journal holds has to be read, too.
    """
    opened = _open(home, record, root, disk, call, what)
    try:
        yield opened
    finally:
        opened.close()


def _keep(home: Home, key: int, opened: OpenDisks) -> None:
    if home.closing:
        opened.close()
        return
    home.visits.guests[key] = opened
    close = partial(home.worker.do, partial(_close_idle, home, key, opened))
    opened.timer = home.reactor.after(LINGER, close)


def _close_idle(home: Home, key: int, opened: OpenDisks) -> None:
    lock = home.visits.alone(key)
    if not lock.acquire(blocking=False):
        return  # somebody uses it, and will keep it again
    try:
        if home.visits.guests.get(key) is opened:
            del home.visits.guests[key]
            opened.close()
    finally:
        lock.release()


def _open(
    home: Home, record: MachineRecord, root: int, scratch: int, call: Call, what: str
) -> OpenDisks:
    """A clone of the template where there is one, else a guest that boots."""
    ground, base = open_ground(home), home.base_of_machine(record)
    with Descriptors() as disks:
        disks["rootdisk"], disks["scratch"] = root, scratch
        guest = partial(_guest, home, record, base, ground, disks, call, what=what)
        loaded = home.templates.take(home, ground, MEMORY, CPUS)
        if loaded is None:
            booted = guest(None)
            # When it goes, not beside it: somebody waits for what it reads.
            want = partial(home.pool.want_template, ground.arch, MEMORY, CPUS, lambda: True)
            booted.stack.callback(want)
            return booted
        try:
            return guest(loaded)
        except Cancelled:
            raise
        except (CoveError, OSError) as error:
            emulators.tell(f"clone a guest for the files of {record.name}", error)
            home.templates.discard(home, loaded.template.key)
        finally:
            loaded.close()
        return guest(None)


def _open_scratch(home: Home, record: MachineRecord) -> int:
    """Made now if it never ran; with a journal, because who visits may be cut off."""
    if record.resume:  # its disk is made when it starts, and what is written now is lost then
        raise Conflict(
            f"cannot reach the files of {record.name}: it goes on from a snapshot at its next "
            "start",
            hint=f"start it first: cove start {record.name}",
        )
    path = home.store.layout.machine(record.key)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        spec = msgspec.structs.replace(record.spec, remove=False)
        kept = msgspec.structs.replace(record, spec=spec)
        return virtual.open_scratch(home, kept, directory)
    finally:
        os.close(directory)


def _guest(
    home: Home,
    record: MachineRecord,
    base: Base,
    ground: Ground,
    disks: Descriptors,
    call: Call,
    loaded: Loaded | None,
    *,
    what: str,
) -> OpenDisks:
    spec = msgspec.structs.replace(record.spec, mounts=())  # its volumes may be another guest's
    inside = plan_stopped(spec, ground.inside, guest_place(spec, hostname=""), ("hold",))
    identity = virtual.identity_of(home, record, base)
    guest = plan_visit(inside, identity)
    with ExitStack() as stack:
        slot = stack.enter_context(_slot(home))
        # Closed before anybody waits: then the other ends are in the jail alone.
        with Descriptors() as fds:
            fds.update(disks)
            plan = _plan(home, record, ground, slot, guest, loaded, fds)
            why = partial(why_no_guest, home.store.layout.machine(slot.key), plan)
            run = run_archiver(plan, fds, what=what, reads=True, why=why)
            archiver = stack.enter_context(run)
        with home.visits.entered(record.key, archiver):
            if loaded is not None:
                _resume(home, slot, loaded)
            _wait_holder(archiver, call)
        pidfd = _first_in_jail(home, slot, archiver, what)
        stack.callback(os.close, pidfd)
        there = msgspec.structs.replace(record, key=slot.key, id_range=slot.id_range)
        return OpenDisks(there, slot.group, pidfd, stack.pop_all())


def _plan(
    home: Home,
    record: MachineRecord,
    ground: Ground,
    slot: Slot,
    guest: Plan,
    loaded: Loaded | None,
    fds: Descriptors,
) -> Plan:
    """The plan of a machine's start, for a launcher without a monitor. ``fds``: what it refers to.
    It ends with the daemon because the holder's input does.
    """
    fds.update(slot.generated)
    if (cgroup := open_group(slot.group)) >= 0:
        fds.mine("cgroup", cgroup)
    virtual.open_channels(home, slot.key, slot.directory, fds)
    fds.mine("guestplan", virtual.memory_of_plan(guest, None))
    if loaded is None:
        layout = home.store.layout
        kernels = Kernels(layout)
        fds.mine("kernel", kernels.open_kernel(ground.kernel))
        fds.mine("initrd", kernels.open_initrd(ground.kernel, program(layout, ground.arch)))
    else:
        fds["memory"] = loaded.memory
    passed = passed_to(ground, CLONE if loaded is not None else BOOT)
    fds.update(card_registers(slot.cards))
    line = command(ground, MEMORY, CPUS, passed)
    jail = jail_spec(record.spec, memory=MEMORY)
    around = home.base(jail.image)
    place = jail_place(home, where_of(slot), around)
    inside = plan_jail(jail, around.config, ground.facts, place, emulator=line, passed=passed)
    whole = plan_vm(HOLDER, place, inside, guest)
    host = tuple(op for op in whole.host if not isinstance(op, Barrier))
    return Plan(host, whole.machine, guest)


def _resume(home: Home, slot: Slot, loaded: Loaded) -> None:
    state = qmp.reopened(loaded.state)
    try:
        control = qmp.Control.connect(home.run_fd, slot.key)
        try:
            control.greet()
            qmp.resume(control, state)
        finally:
            control.close()
    finally:
        os.close(state)


def _wait_holder(archiver: Archiver, call: Call) -> None:
    """It says that it is there; one that ends before says why."""
    while not readable(archiver.stdout, TICK):
        if call.cancelled is not None and call.cancelled.is_set():
            raise Cancelled("interrupted")
    if not os.read(archiver.stdout, 1):
        archiver.finish()
        raise HostError("cannot start a guest: it ended without a word")


def _first_in_jail(home: Home, slot: Slot, archiver: Archiver, what: str) -> int:
    for pid in home.groups.pids(slot.group):
        with suppress(OSError):
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            if parent == archiver.pid:
                return os.pidfd_open(pid)
    raise HostError(f"cannot {what}: its guest has ended")


@contextmanager
def _slot(home: Home) -> Iterator[Slot]:
    """Whatever is in its group has gone when this returns: the disks may be another's then."""
    slot = empty_slot(home, MEMORY)
    home.visits.slots[slot.key] = slot
    try:
        yield slot
    finally:
        try:
            _empty(home, slot)
        finally:
            home.slots.give_up(slot)
            del home.visits.slots[slot.key]


def _empty(home: Home, slot: Slot) -> None:
    late = time.monotonic() + GONE
    while home.groups.pids(slot.group):
        home.groups.kill(slot.group)
        if time.monotonic() > late:
            raise HostError("cannot end an emulator: the kernel keeps its processes")
        select.select([], [], [], 0.002)
