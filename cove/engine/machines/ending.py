"""The end of a machine: its cause, what waits for it, and everything of it put away.

The exit code has reached the front before most of this runs. Putting away undoes a start backwards
and deletes the record last, so that a daemon killed in between finishes at its next start.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from functools import partial
from typing import Any

import msgspec

from cove.engine import files, uppers
from cove.engine.home import Home, effective
from cove.engine.live import Live
from cove.engine.machines import causes, refusals
from cove.engine.machines.outcomes import outcome
from cove.engine.networks import finding, places, policies, ports
from cove.engine.ranges import range_base
from cove.engine.vms import guests, serving
from cove.engine.volumes import making
from cove.engine.volumes.users import publish_unmounts
from cove.errors import CoveError, error_to_json, one_line
from cove.executor.messages import ExitRecord, Kind, Report, send
from cove.linux.disk import usage
from cove.linux.heap import give_back
from cove.plan import text
from cove.planner.virtual.jail import keeps_disk
from cove.store.records import Cause, MachineRecord

REASON_MAX = 2000
ENDED: dict[str, Any] = {"state": "exited"}
IDLE = 5.0
"""Seconds without an end of a machine after which the store's log is written home."""
END_SIGNAL = 64
"""To the process that stands in for a guest's program: SIGKILL, there."""
HALT_SIGNAL = 63
"""The same for SIGSTOP."""
GUEST_PATIENCE = 5.0
"""Seconds that a guest may take to end a killed program and to write its disk."""
SETTLE = 0.02
"""Seconds that audit records of a machine's last system calls may take to arrive."""


def tell(ctl: socket.socket, kind: Kind, *, value: int = 0, payload: bytes = b"") -> None:
    """A message to a monitor that may be gone."""
    try:
        send(ctl, kind, value=value, payload=payload, flags=socket.MSG_DONTWAIT)
    except OSError:
        pass


def reason_words(text: str, data: dict[str, object]) -> bytes:
    """What a session is told at its end: a line for people and, behind a NUL, the same as data for
    programs. A front shows what comes before the NUL.
    """
    said, more = text.encode("utf-8", "replace"), msgspec.json.encode(data)
    room = REASON_MAX - len(said) - 1
    return said + b"\0" + more if len(more) <= room else said[:REASON_MAX]


def failure_words(error: CoveError) -> bytes:
    return reason_words(error.render(), error_to_json(error))


def kill(home: Home, live: Live, asked: str) -> None:
    """End everything in the machine at once. The first reason given stays."""
    live.asked = live.asked or asked
    if live.keeps_disk and not live.ending_guest:
        _end_guest(home, live, asked)
        return
    if live.pidfd >= 0:
        try:
            signal.pidfd_send_signal(live.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if live.group is not None:
        home.groups.kill(live.group)


def _end_guest(home: Home, live: Live, asked: str) -> None:
    """A virtual machine whose disk is kept ends its program from inside, and writes its disk; one
    that does not is ended like any other.
    """
    live.ending_guest = True
    try:
        signal.pidfd_send_signal(live.pidfd, END_SIGNAL)
    except ProcessLookupError:
        return
    end = partial(home.worker.do, partial(kill, home, live, asked))
    live.timers.append(home.reactor.after(GUEST_PATIENCE, end))


def set_deadline(home: Home, live: Live, deadline: float) -> None:
    end = partial(home.worker.do, partial(kill, home, live, "timeout"))
    live.timers.append(home.reactor.after(deadline - time.time(), end))


def set_patience(home: Home, live: Live) -> None:
    """A guest that never greets is ended; without one a start would wait for it for good."""

    def give_up() -> None:
        if not live.started:
            kill(home, live, "boot")

    live.timers.append(home.reactor.after(guests.patience(), partial(home.worker.do, give_up)))


def watch_limits(home: Home, live: Live, record: MachineRecord) -> None:
    """What watches a machine while it runs, begun after it does: the size of its writable layer."""
    live.virtual = record.spec.isolation == "vm"
    live.keeps_disk = live.virtual and keeps_disk(record.spec)
    if live.virtual:
        serving.watch(home, live, record.spec, lost=partial(kill, home, live, "files"))
    # What a step of a build was given to write in: what it had from the start is not its own.
    given = tuple(
        mount.source for mount in record.spec.mounts if mount.within and not mount.read_only
    )
    if home.storage is not None and (given or not live.virtual):  # a disk limits itself
        limit = effective(record.spec.limits).storage
        pids = partial(_pids, home, live)
        path, beside = home.store.layout.upper(record.upper), home.store.layout.machine(live.key)
        generated = tuple(f"{beside}/{name}" for name in files.TARGETS.values())
        limit += sum(map(usage, given))
        home.storage.watch(live.key, path, limit=limit, pids=pids, beside=(*generated, *given))
        live.closers.append(partial(home.storage.forget, live.key))


def storage_full(home: Home, key: int) -> None:
    """More was written than allowed: nothing less than the end stops a writer."""
    live = home.lives.get(key)
    if live is not None:
        kill(home, live, "storage")


def _pids(home: Home, live: Live) -> list[int]:
    return home.groups.pids(live.group) if live.group is not None else []


def limits_hit(home: Home, events: int) -> None:
    """The kernel ended a process for want of memory somewhere, or refused a fork."""
    lives = list(home.lives.values())  # others start machines meanwhile
    by_group = {live.group.name: live for live in lives if live.group is not None}
    for event in home.groups.read_events():
        live = by_group.get(event.name)
        if live is not None and event.kind == "oom" and home.store.has_machine(live.key):
            home.publish("oom", home.record(live.key))


def exited(home: Home, live: Live, end: ExitRecord) -> None:
    """The machine's program ended; its monitor waits a moment for a reason to show."""
    if live.ended is not None:
        return
    live.ended = end
    if end.code and home.audit is not None and not live.asked:
        home.audit.catch_up(SETTLE)
        refusals.drain(home)
    finish(home, live, end)


def finish(home: Home, live: Live, end: ExitRecord) -> None:
    record = home.record(live.key)
    cause = causes.cause_of(_evidence(home, live, record, end), record.spec.limits)
    live.cause = cause
    with home.lock:
        record = home.record(live.key)
        started, finished = end.started_ns / 1e9 or record.started, end.finished_ns / 1e9
        ran = finished - started if started else 0.0
        # One that never ran is not started again unasked, but by its policy it may have been.
        begun = started or record.delay
        record = home.update(
            live.key,
            exit_code=end.code,
            cause=cause,
            pid=0,
            deadline=0.0,
            started=started,
            finished=finished or time.time(),
            resume="" if started else record.resume,
            **(outcome(record, code=end.code, ran=ran, asked=live.asked) if begun else ENDED),
        )
    if live.session and end.code and live.ctl is not None:
        reason = reason_words(causes.last_line(cause), {"cause": cause})
        tell(live.ctl, Kind.REASON, value=end.code, payload=reason)
    live.over = True
    if record.spec.isolation == "vm" and cause is not None and cause.kind == "oom":
        home.publish("oom", record)  # the host's kernel has nothing to tell of it
    home.publish("die", record, _last_words(record, cause))


def _last_words(record: MachineRecord, cause: Cause) -> dict[str, str]:
    """What the event of an end says: Docker's words, and why it ended unless by itself."""
    ran = max(0, round(record.finished - record.started)) if record.started else 0
    words = {"exitCode": str(record.exit_code), "execDuration": str(ran)}
    if cause.kind != "exit":
        words |= {"cause": cause.kind, "reason": cause.text}
    if cause.syscalls:
        words["refused"] = ",".join(cause.syscalls)
    return words


def _evidence(home: Home, live: Live, record: MachineRecord, end: ExitRecord) -> causes.Evidence:
    if record.spec.isolation == "vm":
        return _guest_evidence(home, live, record, end)
    kills = forks = 0
    oom = causes.OutOfMemory()
    limits = effective(record.spec.limits)
    if end.code and live.group is not None:
        kills, forks = home.groups.counters(live.group)
        if kills:
            oom = _out_of_memory(home, live, record)
    return causes.Evidence(
        exit=end,
        asked=live.asked,
        oom_kills=kills,
        oom=oom,
        forks_refused=forks,
        refused=tuple(live.refused),
        timeout=record.spec.timeout,
        storage=limits.storage,
        pids=limits.pids,
    )


def _guest_evidence(
    home: Home, live: Live, record: MachineRecord, end: ExitRecord
) -> causes.Evidence:
    """By the guest's own counters. What its jail was refused is the emulator's affair."""
    directory = home.store.layout.machine(live.key)
    told = guests.read_end(directory)
    if not told.told and not live.asked:
        guests.tell_cut(directory, record.name, record.started)
    limits = effective(record.spec.limits)
    live.refused.clear()
    if told.told and told.code == end.code:
        end = end._replace(signal=told.signal, core=told.core)
    return causes.Evidence(
        exit=end,
        asked=live.asked,
        oom_kills=told.oom_kills,
        oom=told.oom,
        forks_refused=told.forks_refused,
        timeout=record.spec.timeout,
        storage=limits.storage,
        pids=limits.pids,
        lost_guest=not told.told,
        hung=live.ending_guest and not told.told,
        panic=told.panic,
    )


def _out_of_memory(home: Home, live: Live, record: MachineRecord) -> causes.OutOfMemory:
    """The last process that the kernel killed in this machine, in the kernel's own words."""
    if home.kernel_log is None or live.group is None:
        return causes.OutOfMemory()
    kill = home.kernel_log.oom_of(live.group.path, base=range_base(record.id_range))
    return causes.OutOfMemory(kill.name, kill.pid, kill.rss) if kill else causes.OutOfMemory()


def lost(home: Home, live: Live) -> None:
    """The monitor died: nobody holds the machine any more, so it must end too."""
    kill(home, live, "monitor")
    live.asked = "monitor"
    now = time.time_ns()
    began = int(home.record(live.key).started * 1e9)
    live.ended = ExitRecord(137, signal.SIGKILL, False, began, now)
    finish(home, live, live.ended)


def never_began(home: Home, live: Live) -> None:
    """Its time was over before its program ran, as that of a virtual machine that boots may be."""
    live.ended = ExitRecord(137, signal.SIGKILL, False, 0, time.time_ns())
    finish(home, live, live.ended)


def start_failed(home: Home, live: Live, error: CoveError) -> None:
    """The machine never ran: its record says why, and that it can be started again."""
    live.cause = Cause("start", error.message)
    live.failure = error
    with home.lock:
        record, code = home.record(live.key), error.exit_code
        by_policy = outcome(record, code=code, ran=0.0, asked=live.asked) if record.delay else {}
        record = home.update(
            live.key,
            exit_code=code,
            cause=live.cause,
            pid=0,
            deadline=0.0,
            finished=time.time(),
            **(by_policy or {"state": "created"}),
        )
    live.over = True
    home.publish("die", record, _last_words(record, live.cause))


def keep_plan(home: Home, live: Live, report: Report) -> None:
    """plan.txt beside the log: what was to be done, and where it stopped."""
    if live.plan is None or home.record(live.key).build in home.whispers:
        return
    part = ("host", "machine")[report.side & 1]
    lines = (
        f"# stopped at op {report.op} of the {part} part: {os.strerror(report.errno)} "
        f"{one_line(report.detail)}".rstrip()
    )
    try:
        with open(home.store.layout.failed_plan(live.key), "w", encoding="utf-8") as file:
            file.write(f"{lines}\n{text.render(live.plan)}")
    except OSError:
        pass  # the report itself is told all the same


def put_away(home: Home, live: Live) -> None:
    """Undo the start of a machine that ended; an ephemeral one is forgotten altogether."""
    if live.ctl is not None:
        home.reactor.forget(live.ctl.fileno(), live)
    monitor, live.ctl = live.ctl, None
    try:
        _put_away(home, live, monitor)
    except Exception as error:
        live.ctl, live.stuck = monitor, one_line(str(error)) or type(error).__name__
        raise
    finally:
        live.leaving.nudge()


def _put_away(home: Home, live: Live, monitor: socket.socket | None) -> None:
    key = live.key
    if live.group is not None:
        home.groups.remove(live.group)
    live.close()
    record = home.record(key)
    published = record.published
    ports.close(home, live, record)
    for path in home.store.layout.sockets(key):
        unlink(path)
    places.unplug(home, record)
    finding.publish_places(home, "disconnect", record)
    publish_unmounts(home, record)
    kept = not live.forget and (record.restarting or not record.spec.remove)
    if kept:
        with home.lock:
            record = home.update(key, id_range=-1, group="", pid=0, endpoints=(), published=())
            home.store.free_range(key)
            policies.change(home, record)
            home.places.give_back(key)  # who does not find it among the living finds its place free
            home.lives.pop(key, None)
            kept = record.restarting or not record.spec.remove
    if not kept:
        forget(home, record, volumes=live.forget_volumes or record.spec.remove)
        policies.change(home, record)
        home.places.give_back(key)
        home.lives.pop(key, None)
    ports.forbid(home, published)
    home.retries.arm(key, monitor, ran=live.ended is not None)
    home.events.nudge()
    home.worker.do(home.slots.refill)
    _rest_when_idle(home)


def _rest_when_idle(home: Home) -> None:
    """Bring the store's log home once nothing has ended for a while, which waits for the disk, and
    give memory back.
    """

    def rest() -> None:
        home.store.checkpoint()
        give_back()

    if home.idle_timer is not None:
        home.idle_timer.cancel()
    if not home.closing:
        home.idle_timer = home.reactor.after(IDLE, partial(home.worker.do, rest))


def forget(home: Home, record: MachineRecord, *, volumes: bool = False) -> None:
    """Remove what is on disk, then the record; its anonymous volumes if it was asked for."""
    home.visits.end(record.key, removed=True)
    home.retries.let_go(record.key)
    layout = home.store.layout
    if record.build in home.steps:
        home.steps[record.build] = record
    else:
        home.remover.remove(layout.upper(record.upper))
    if record.build not in home.steps or record.spec.isolation != "vm":  # else its disk is there
        home.remover.remove(layout.machine(record.key))
    for path in layout.sockets(record.key):
        unlink(path)
    own = making.loosen(home, record.spec) if volumes else ()
    home.store.remove_machine(record.key)
    making.drop_loose(home, own)
    if record.strata:
        uppers.prune(home)
    home.publish("destroy", record)


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
