"""Starting a machine: from its record to a monitor that has its plan.

The record is written before anything of the machine exists; every step here can be undone from it
(``ending.put_away``). What the host gives into the machine (bind sources, devices, host
directories) is opened here, just before, and only descriptors go on.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from functools import partial

from cove.engine import files, uppers
from cove.engine.calls import Session
from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.images.foreign import interpreters
from cove.engine.live import Live
from cove.engine.machines import ending, monitors
from cove.engine.machines.devices import devices_of
from cove.engine.networks import joining, linking
from cove.engine.networks.plugging import plug_in
from cove.engine.networks.taps import open_cards, take_seats
from cove.engine.ranges import range_base
from cove.engine.slots import Slot, end_monitor, listen, open_directory, open_group
from cove.engine.vms import virtual
from cove.engine.vms.carried import carry
from cove.engine.vms.clones import start_clone
from cove.engine.vms.pool import Entry
from cove.engine.vms.resumed import moment_of, start_resumed
from cove.engine.volumes.binds import open_binds
from cove.engine.volumes.users import publish_mounts
from cove.errors import Bug, CoveError, HostError
from cove.executor.messages import Start, StartFlag, Stream, send_start
from cove.linux.cgroups.tree import Group
from cove.linux.probe import DeviceNode
from cove.plan import wire
from cove.plan.ops import Plan
from cove.planner import BindSource, Place, plan_machine
from cove.planner.virtual.jail import JAIL_IMAGE
from cove.spec.machine import ExecSpec, MachineSpec
from cove.spec.network import machine_of
from cove.spec.values import parse_detach_keys
from cove.store.lock import ROOM
from cove.store.records import MachineRecord

FD_BITS = (("stdin", "in", 1), ("stdout", "out", 2), ("stderr", "err", 4))


@dataclass(frozen=True, slots=True)
class Foreground:
    """The caller's session, and which of its streams take part."""

    session: Session
    streams: tuple[str, ...]
    sig_proxy: bool = True
    detach_keys: str = ""
    bound: bool = False
    """What is started ends when this session is lost."""
    begun: bool = False
    """The start returns once the program runs, and raises why it does not, as without a session."""

    @property
    def which(self) -> Stream:
        return Stream(sum(bit for stream, _, bit in FD_BITS if stream in self.streams))

    def direct(self, *, stdin: bool) -> dict[str, int]:
        """What the monitor may use itself, by name. A terminal stays with the front, which relays
        it.
        """
        session = self.session
        return {
            name: session.stdio[index]
            for index, (stream, name, bit) in enumerate(FD_BITS)
            if stream in self.streams
            and session.stdio[index] >= 0
            and not session.terminals & bit
            and (stdin or stream != "stdin")
        }


def launch(
    home: Home, record: MachineRecord, base: Base, live: Live, foreground: Foreground | None
) -> None:
    """Start the machine of ``record``, which is written already and says that it runs.

    With a foreground this returns as soon as a monitor has the session; without, once the machine's
    program runs. Whatever fails is undone, and raised.
    """
    try:
        shown = linking.with_variables(home, record, base)
        if record.endpoints:  # before it can ask, and before others hear of it
            home.names.tell(record)
        _hand_over(home, shown, base, live, foreground)
    except BaseException as error:
        if live.slot is not None:
            live.slot.close()
        if live.ctl is not None:
            end_monitor(live.ctl)
        failed = _told(record, error)
        ending.start_failed(home, live, failed)
        ending.put_away(home, live)
        if isinstance(error, (CoveError, OSError)):
            raise failed from error
        raise
    if record.deadline:
        ending.set_deadline(home, live, record.deadline)
    if record.spec.isolation == "vm":
        ending.set_patience(home, live)
    if record.endpoints and record.spec.isolation == "container":
        plug_in(home, live, record)
    if foreground is None:
        monitors.wait_started(home, live)
    elif not live.gone:
        monitors.watch(home, live)


def _hand_over(
    home: Home, record: MachineRecord, base: Base, live: Live, foreground: Foreground | None
) -> None:
    group = live.group
    assert group is not None
    slot, live.slot = live.slot, None
    with Descriptors() as fds, Descriptors() as ready:
        if slot is not None:
            _take_slot(ready, live, slot)
        _prepare(home, record, base, ready, ready_made=slot is not None)
        if foreground is not None:
            fds["front"] = foreground.session.front
            fds.update(foreground.direct(stdin=record.spec.stdin_open))
        if record.spec.isolation == "vm":
            size = foreground.session if foreground and record.spec.tty else None
            entry = slot if isinstance(slot, Entry) else None
            slot = None
            message = partial(_message, record, foreground=foreground)
            live.cards = live.cards or open_cards(
                home, record.key, record.name, wanted=bool(record.endpoints)
            )
            take_seats(home, record)
            with moment_of(home, record, live) as held:
                if held is not None:
                    virtual.seed_scratch(record, ready["dir"], held.disk)
                if held is not None and held.shape is not None:
                    start_resumed(home, record, base, live, held, ready, fds, size, message)
                    return
            volumes = carry(home, record, live, fds)
            if not volumes.shown and start_clone(
                home, record, base, live, entry, ready, fds, size, message
            ):
                return
            plan = virtual.plan_start(
                home, record, base, group, ready["dir"], fds, size, live.cards, volumes
            )
        else:
            plan = _plan_container(home, record, base, group, foreground, fds)
        live.plan = plan
        if slot is not None and slot.ahead is not None:
            rest = plan.after(slot.ahead)
            if rest is not None and _sent(live, _message(record, rest, foreground), fds):
                return
            live.close_monitor()
            live.drop_network()
        ready["state"] = home.state_fd
        if (cgroup := open_group(group)) >= 0:
            ready.mine("cgroup", cgroup)
        live.ctl = live.ctl or home.forker.fork()
        send_start(live.ctl, _message(record, plan, foreground), fds | ready)


def _plan_container(
    home: Home,
    record: MachineRecord,
    base: Base,
    group: Group,
    foreground: Foreground | None,
    fds: Descriptors,
) -> Plan:
    spec = home.whispered(record)
    binds = open_binds(home, fds, spec)
    publish_mounts(home, record)
    place = make_place(home, record, base, group, binds, devices_of(spec))
    if foreground is not None and spec.tty:
        session = foreground.session
        place = replace(place, rows=session.rows, columns=session.columns)
    return plan_machine(spec, base.config, home.facts, place)


def _take_slot(ready: Descriptors, live: Live, slot: Slot) -> None:
    """What was made ahead belongs to this start from now on."""
    live.ctl, live.netns, slot.netns = slot.ctl, slot.netns, -1
    live.cards, slot.cards = slot.cards, ()
    ready.mine("dir", slot.directory)
    ready.mine("listen", slot.listener)
    for register, fd in slot.generated.items():
        ready.mine(register, fd)


def _prepare(
    home: Home, record: MachineRecord, base: Base, ready: Descriptors, *, ready_made: bool
) -> None:
    """The directories, the socket and the generated files, as far as no slot has them."""
    spec, key, layout = record.spec, record.key, home.store.layout
    if not ready_made:
        ready.mine("dir", open_directory(layout.machine(key)))
        ready.mine("listen", listen(home.run_fd, key))
    if not ready_made or not files.is_default(spec):
        # Written in place: what a slot's monitor has mounted already changes with it.
        hostname = joining.hostname(home, record)
        for register, fd in files.write_generated(
            ready["dir"], spec, hostname, joining.where(home, record)
        ).items():
            ready.mine(register, fd)
    if machine_of(spec.network):
        joining.open_namespaces(home, record, ready)
    # Of a virtual machine this is the root of its jail, which shows what the host's image shows.
    views = home.base(JAIL_IMAGE).views if spec.isolation == "vm" else base.views
    if not ready_made or (views and spec.isolation != "vm") or record.strata:
        uppers.prepare(home, record, len(views), anew=ready_made)


def _sent(live: Live, message: Start, fds: Descriptors) -> bool:
    """Whether the monitor that waited has its start; one that was killed meanwhile has not."""
    assert live.ctl is not None
    try:
        send_start(live.ctl, message, fds)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def make_place(
    home: Home,
    record: MachineRecord,
    base: Base,
    group: Group,
    binds: tuple[BindSource, ...],
    devices: tuple[DeviceNode, ...],
) -> Place:
    return Place(
        key=record.key,
        root=home.root,
        base=range_base(record.id_range),
        layers=base.layers,
        strata=record.strata,
        own=record.own,
        views=base.views,
        cgroup_files=group.tasks,
        cgroup_into=bool(group.directory),
        volatile=record.spec.remove,
        binds=binds,
        files=files.TARGETS,
        hostname=joining.hostname(home, record),
        devices=devices,
        interpreters=interpreters(record.spec, base.config, home.facts),
    )


def _message(record: MachineRecord, plan: Plan, foreground: Foreground | None) -> Start:
    spec = record.spec
    flags = StartFlag.LOG
    if spec.restart.policy != "no":
        flags |= StartFlag.STAY
    if spec.stdin_open:
        attached = foreground is not None and "stdin" in foreground.streams
        flags |= StartFlag.STDIN_ONCE if attached else StartFlag.KEEP_STDIN
    if foreground is not None and foreground.sig_proxy:
        flags |= StartFlag.SIG_PROXY
    message = start_message(flags, spec, plan, foreground, base=range_base(record.id_range))
    files = 0 if spec.log_driver == "none" else spec.log_files
    return replace(message, log_max=spec.log_max, log_files=files)


def start_message(
    flags: StartFlag,
    spec: MachineSpec | ExecSpec,
    plan: Plan,
    foreground: Foreground | None,
    *,
    base: int,
) -> Start:
    """With the flags that ``spec`` and the caller's session add."""
    keys, rows, columns = spec.detach_keys, 0, 0
    if spec.tty:
        flags |= StartFlag.TTY
    if spec.stdin_open:
        flags |= StartFlag.STDIN_OPEN
    if foreground is not None:
        flags |= StartFlag.SESSION
        flags |= StartFlag.BOUND if foreground.bound else StartFlag(0)
        keys = foreground.detach_keys or keys
        rows, columns = foreground.session.rows, foreground.session.columns
    return Start(
        flags=flags,
        uid=base,
        gid=base,
        host=wire.encode(plan.host),
        machine=wire.encode(plan.machine),
        rows=rows,
        columns=columns,
        keys=parse_detach_keys(keys),
        which=foreground.which if foreground else 0,
    )


def _told(record: MachineRecord, error: BaseException) -> CoveError:
    """What a record says of it: of a bug, too, after which there is as much to undo."""
    if isinstance(error, CoveError):
        return error
    if not isinstance(error, OSError):
        return Bug(f"bug: {type(error).__name__}: {error}")
    reason = (error.strerror or str(error)).lower()
    where = f" ({error.filename})" if error.filename else ""
    return HostError(
        f"cannot start {record.name}: {reason}{where}",
        hint=ROOM if error.errno == errno.ENOSPC else "",
    )
