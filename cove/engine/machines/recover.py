"""What a daemon does before it listens: find the machines that run, finish what was interrupted,
and remove what nobody records.

Every state a crash can leave is one of these: a monitor answers (its machine is taken over), a
monitor is gone and left an exit record, or it left none (whatever still runs is killed through its
group).
"""

from __future__ import annotations

import os
import select
import socket
import time

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import ending, monitors, pause, remounting, update
from cove.engine.machines.outcomes import outcome
from cove.engine.networks import recover as networks
from cove.engine.volumes import making
from cove.executor.messages import ExitRecord, Kind, decode_exit, receive, send
from cove.linux.in_memory import sweep
from cove.linux.mounts import lower_layers
from cove.spec.restart import SETTLED
from cove.store.gc import LEFTOVER_LIFE, collect, expire, strays
from cove.store.records import Cause, MachineRecord

ANSWERS = 2.0
"""Seconds in which monitors are expected to answer; later answers are heard by the reactor."""


def recover(home: Home) -> None:
    """Runs before the sockets open: no command sees a half-known machine."""
    waiting = [live for record in home.store.machines() if (live := _take_up(home, record))]
    expire(home.store, time.time() - LEFTOVER_LIFE)
    if any(image.holders for image in home.store.images()):
        from cove.image.holding import release_all

        release_all(home.store)  # nobody is left who has anything for himself alone
    collect(home.store)  # layers of an image that was on its way
    home.store.drop_strata()
    # A layer that was replaced because it was broken may be under a machine that runs.
    staying = [live for live in waiting if not home.record(live.key).build]
    used = lower_layers(live.pid or home.record(live.key).pid for live in staying)
    sweep(home.store.layout.in_memory)
    for path in strays(home.store):
        if os.path.basename(path) not in used:
            _sweep(home, path)
    home.groups.sweep({record.group for record in home.store.machines() if record.group})
    _hear_all(home, waiting)
    networks.recover(home)
    making.recover(home)
    for live in waiting:
        if live.started and live.key in home.lives:
            remounting.take_up(home, live)
    for live in waiting:
        if live.key in home.lives and home.record(live.key).build:
            ending.kill(home, live, "kill")  # nobody is left who builds
        if live.ctl is not None and live.key in home.lives:
            monitors.watch(home, live)


def _sweep(home: Home, path: str) -> None:
    if os.path.dirname(path) == home.store.layout.run:
        ending.unlink(path)
    else:
        home.remover.remove(path)


def _take_up(home: Home, record: MachineRecord) -> Live | None:
    """The machine as it is now; a Live only when its monitor may answer."""
    active = record.state in ("running", "paused")
    if not active and (record.limits_before is not None or record.mounts_before is not None):
        record = home.update(record.key, limits_before=None, mounts_before=None)
    if not active and record.id_range < 0 and not record.group:
        if record.spec.remove and record.state == "exited" and not record.restarting:
            ending.forget(home, record, volumes=True)
        return None
    live = Live(record.key, id_range=record.id_range)
    live.group = home.groups.adopt(record.group) if record.group else None
    home.lives[record.key] = live
    if active and record.boot == home.boot:
        live.ctl = _connect(home, record.key)
    if live.ctl is not None:
        live.session = (
            True  # whether a front waits, only the monitor knows: a reason is always told
        )
        pause.restore(home, record, live)
        update.restore(home, record, live)
        if record.deadline:
            ending.set_deadline(home, live, record.deadline)
        if record.spec.isolation == "vm":
            ending.set_patience(home, live)
        return live
    if active:
        _finish_lost(home, live, record)
    ending.put_away(home, live)
    return None


def _connect(home: Home, key: int) -> socket.socket | None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(f"/proc/self/fd/{home.run_fd}/{key}.sock")
        send(sock, Kind.QUERY)
    except OSError:
        sock.close()
        return None
    return sock


def _hear_all(home: Home, waiting: list[Live]) -> None:
    """Take the monitors' answers; one that is in the middle of a start answers later."""
    poll = select.poll()
    by_fd = {live.ctl.fileno(): live for live in waiting if live.ctl is not None}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    late = time.monotonic() + ANSWERS
    while by_fd and (left := late - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            poll.unregister(fd)
            live = by_fd.pop(fd)
            assert live.ctl is not None
            try:
                message = receive(live.ctl, flags=socket.MSG_DONTWAIT)
            except OSError:
                message = None
            monitors.hear(home, live, message)


def _finish_lost(home: Home, live: Live, record: MachineRecord) -> None:
    """A machine without a monitor: it ended while no daemon was there, or must end now."""
    rebooted = record.boot != home.boot
    if live.group is not None and not rebooted:
        home.groups.kill(live.group)
    end = read_exit(home, record.key)
    if end is not None:
        live.ended = end
        ending.finish(home, live, end)
        return
    if not record.started and record.spec.remove and not record.restarting:
        return  # interrupted before it ran: nothing to tell, it is removed
    now = time.time_ns()
    live.asked = "monitor"
    live.ended = ExitRecord(137, 9, False, int(record.started * 1e9), now)
    if rebooted:
        text = "the host was restarted while it ran"
        live.cause = Cause("monitor", text)
        after = outcome(record, code=255, ran=SETTLED)
        home.update(
            record.key, exit_code=255, cause=live.cause, finished=time.time(), pid=0, **after
        )
        live.over = True
        return
    ending.finish(home, live, live.ended)


def read_exit(home: Home, key: int) -> ExitRecord | None:
    try:
        fd = os.open(home.store.layout.exit_file(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return decode_exit(os.read(fd, 64))
    finally:
        os.close(fd)
