"""One more process in a running machine: exec. It leaves no record; its monitor ends with it."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from cove.engine.descriptors import Descriptors
from cove.engine.home import Home, close_quietly
from cove.engine.machines import ending
from cove.engine.machines.pause import check_not_paused
from cove.engine.machines.start import Foreground, start_message
from cove.engine.machines.stopping import running
from cove.engine.networks import joining, linking
from cove.engine.ranges import range_base
from cove.engine.slots import open_group
from cove.engine.vms import virtual
from cove.engine.vms.guests import tell_cut
from cove.errors import Bug, Conflict, CoveError, HostError
from cove.executor.archiver import GUEST_LOST
from cove.executor.explain import explain
from cove.executor.messages import (
    Kind,
    Message,
    Start,
    StartFlag,
    decode_exit,
    decode_report,
    receive,
    send_start,
)
from cove.linux.cgroups.tree import Group
from cove.plan.ops import Plan
from cove.planner import Place, plan_exec
from cove.spec.machine import ExecSpec
from cove.store.records import MachineRecord

COMMAND_MAX = 1024


@dataclass(slots=True, eq=False)
class Extra:
    """A process that exec added, while its monitor lives."""

    id: str
    machine: MachineRecord
    spec: ExecSpec
    plan: Plan | None
    ctl: socket.socket
    session: bool
    ended: Callable[[Extra], None] | None = None
    pid: int = 0
    started: bool = False
    exit_code: int | None = None
    failure: CoveError | None = None
    created: float = field(default_factory=time.time)


def exec_in(
    home: Home,
    record: MachineRecord,
    spec: ExecSpec,
    foreground: Foreground | None,
    *,
    name: str = "",
    ended: Callable[[Extra], None] | None = None,
) -> Extra:
    """Start ``spec`` in the machine; detached: return once it runs. ``ended`` hears of its end, on
    the reactor's thread.
    """
    live = running(home, record)
    if live is None or live.pidfd < 0:
        raise _not_running(record)
    check_not_paused(record, "exec in")
    group = live.group
    assert group is not None
    with Descriptors() as fds:
        if foreground is not None:
            fds["front"] = foreground.session.front
            fds.update(foreground.direct(stdin=spec.stdin_open))
        fds["target"] = live.pidfd
        try:
            if (cgroup := open_group(group)) >= 0:
                fds.mine("cgroup", cgroup)
        except FileNotFoundError as error:  # it ended just now
            raise _not_running(record) from error
        plan = _plan(home, record, spec, group, foreground, fds)
        session = foreground is not None
        ctl = home.forker.fork()
        extra = Extra(name or secrets.token_hex(32), record, spec, plan, ctl, session, ended)
        try:
            send_start(ctl, _message(extra, range_base(record.id_range), foreground), fds)
        except OSError as error:
            ctl.close()
            raise HostError(f"cannot exec in {record.name}: its monitor did not start") from error
    home.extras[extra.id] = extra
    _publish(home, extra, "exec_create")
    if foreground is None:
        _wait_started(home, extra)
    else:
        home.reactor.watch(ctl.fileno(), extra, partial(_ready, home, extra))
    return extra


def _not_running(record: MachineRecord) -> Conflict:
    return Conflict(
        f"cannot exec in {record.name}: it is not running",
        hint=f"start it first: cove start {record.name}",
    )


def _plan(
    home: Home,
    record: MachineRecord,
    spec: ExecSpec,
    group: Group,
    foreground: Foreground | None,
    fds: Descriptors,
) -> Plan:
    base, size = home.base_of_machine(record), foreground.session if foreground else None
    with suppress(Conflict):  # one that it is linked to has ended: nothing is told of it
        record = linking.with_variables(home, record, base)
    if record.spec.isolation == "vm":
        return virtual.plan_more(home, record, spec, base, group, fds, size)
    place = Place(
        key=record.key,
        root=home.root,
        base=range_base(record.id_range),
        cgroup_files=group.tasks,
        cgroup_into=bool(group.directory),
        hostname=joining.hostname(home, record),
        rows=size.rows if size else 0,
        columns=size.columns if size else 0,
    )
    return plan_exec(spec, record.spec, base.config, home.facts, place)


def _message(extra: Extra, base: int, foreground: Foreground | None) -> Start:
    assert extra.plan is not None
    flags = StartFlag.EXEC
    flags |= StartFlag.STDIN_ONCE if extra.spec.stdin_open else StartFlag(0)
    return start_message(flags, extra.spec, extra.plan, foreground, base=base)


def _wait_started(home: Home, extra: Extra) -> None:
    while not extra.started and extra.failure is None:
        try:
            message = receive(extra.ctl)
        except ConnectionResetError:
            message = None
        if message is None:
            _forget(home, extra)
            raise HostError(f"cannot exec in {extra.machine.name}: its monitor ended")
        _hear(home, extra, message)
    home.reactor.watch(extra.ctl.fileno(), extra, partial(_ready, home, extra))
    if extra.failure is not None:
        raise extra.failure


def _ready(home: Home, extra: Extra, events: int) -> None:
    while extra.id in home.extras:
        try:
            message = receive(extra.ctl, flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except (ConnectionResetError, Bug):
            message = None
        if message is None:
            _forget(home, extra)
        else:
            _hear(home, extra, message)


def _hear(home: Home, extra: Extra, message: Message) -> None:
    for fd in message.fds:
        close_quietly(fd)
    if message.kind == Kind.STARTED:
        extra.started, extra.pid, extra.plan = True, message.value, None
        _publish(home, extra, "exec_start")
    elif message.kind == Kind.FAILED:
        assert extra.plan is not None
        extra.failure = error = explain(extra.plan, decode_report(message.payload))
        extra.exit_code = error.exit_code
        if extra.session:
            text = ending.failure_words(error)
            ending.tell(extra.ctl, Kind.REASON, value=error.exit_code, payload=text)
    elif message.kind == Kind.EXITED:
        record = decode_exit(message.payload)
        extra.exit_code = record.code if record else message.value
        if extra.exit_code == GUEST_LOST and extra.machine.spec.isolation == "vm":
            directory = home.store.layout.machine(extra.machine.key)
            tell_cut(directory, extra.machine.name, extra.created)
        if extra.session:
            ending.tell(extra.ctl, Kind.REASON)
        attributes = {"execID": extra.id, "exitCode": str(extra.exit_code)}
        home.publish("exec_die", extra.machine, attributes)
    elif message.kind == Kind.GONE:
        _forget(home, extra)


def _publish(home: Home, extra: Extra, action: str) -> None:
    """Docker puts the command line into the action; no more of it is remembered than tells it."""
    words = " ".join(extra.spec.command)[:COMMAND_MAX]
    home.publish(f"{action}: {words}", extra.machine, {"execID": extra.id})


def _forget(home: Home, extra: Extra) -> None:
    if home.extras.pop(extra.id, None) is not None:
        home.reactor.forget(extra.ctl.fileno(), extra)
        extra.ctl.close()
        if extra.ended is not None:
            extra.ended(extra)
