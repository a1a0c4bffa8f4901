"""What monitors say, and what follows from it. Runs on the reactor's thread, or on a starter's
until its machine runs; what takes long is given to the worker.
"""

from __future__ import annotations

import os
import socket
import time
from functools import partial

from cove.engine.home import Home, close_quietly
from cove.engine.live import Live
from cove.engine.machines import ending, health
from cove.engine.networks import ports
from cove.engine.vms import guests
from cove.errors import Bug, CoveError, HostError, printable
from cove.executor.explain import explain
from cove.executor.messages import (
    Kind,
    Message,
    Report,
    decode_exit,
    decode_report,
    decode_state,
    receive,
)

RUNNING, EXITED = 1, 2
REFILL = 0.02
"""Seconds that a machine runs before its slot is made anew; the end of one comes before that."""


def watch(home: Home, live: Live) -> None:
    """Let the reactor hear this machine's monitor from now on."""
    assert live.ctl is not None
    home.reactor.watch(live.ctl.fileno(), live, partial(_ready, home, live))


def wait_started(home: Home, live: Live) -> None:
    """Return once the machine's program runs; raise what kept it from running."""
    ctl = live.ctl
    assert ctl is not None
    while not (live.started or live.gone or live.failure):
        hear(home, live, receive(ctl))
    if not live.gone:
        watch(home, live)
    if live.failure is not None:
        raise live.failure


def _ready(home: Home, live: Live, events: int) -> None:
    """All that has come; a monitor that says several things at once is heard to its end."""
    ctl = live.ctl
    while ctl is not None and not live.gone:
        try:
            message = receive(ctl, flags=socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except (ConnectionResetError, Bug):
            message = None
        hear(home, live, message)
        if message is None:
            return


def hear(home: Home, live: Live, message: Message | None) -> None:
    if message is None:
        _end_of_file(home, live)
        return
    taken = False
    try:
        if message.kind == Kind.STARTED:
            taken = _started(home, live, message)
        elif message.kind == Kind.EXITED:
            record = decode_exit(message.payload)
            if record is None:
                raise Bug("a monitor's exit record cannot be read")
            ending.exited(home, live, record)
        elif message.kind == Kind.FAILED:
            _failed(home, live, message)
        elif message.kind == Kind.GONE:
            _gone(home, live)
        elif message.kind == Kind.STATE:
            taken = adopt_state(home, live, message)
    finally:
        if not taken:
            message.close()


def _started(home: Home, live: Live, message: Message) -> bool:
    live.pid, live.plan = message.value, None
    if message.fds and live.pidfd < 0:
        live.pidfd = message.fds[0]
        for fd in message.fds[1:]:
            close_quietly(fd)
    state = health.at_start(home.record(live.key))
    record = home.update(live.key, pid=message.value, started=time.time(), resume="", health=state)
    live.started = True  # who waited for that reads the record next
    home.retries.let_go(live.key)
    home.publish("start", record)
    ending.watch_limits(home, live, record)
    health.watch(home, live, record)
    if record.published:
        home.worker.do(partial(ports.serve, home, live))
    if live.asked:  # when there was nobody to be killed yet
        ending.kill(home, live, live.asked)
    # Not yet: program, monitor and caller want the processors, and most programs end at once.
    home.reactor.after(REFILL, partial(home.worker.do, home.slots.refill))
    return True


def adopt_state(home: Home, live: Live, message: Message) -> bool:
    """The answer to a query: what the monitor of an earlier daemon's machine is doing."""
    state = decode_state(message.payload)
    taken = False
    if message.fds and live.pidfd < 0:
        live.pidfd, taken = message.fds[0], len(message.fds) == 1
    live.pid = message.value
    if state.state == EXITED and state.exit is not None:
        live.started = True
        ending.exited(home, live, state.exit)
    elif state.state == RUNNING:
        live.started = True
        record = home.record(live.key)
        if record.pid != message.value or not record.started or record.resume:
            started = record.started or time.time()
            record = home.update(live.key, pid=message.value, started=started, resume="")
        ending.watch_limits(home, live, record)
        health.watch(home, live, record)
        if record.published:
            home.worker.do(partial(ports.serve, home, live))
    return taken


def _failed(home: Home, live: Live, message: Message) -> None:
    report = decode_report(message.payload)
    if live.asked == "timeout":
        ending.never_began(home, live)
        return
    error = _why(home, live, report)
    ending.keep_plan(home, live, report)
    ending.start_failed(home, live, error)
    if live.session and live.ctl is not None:
        text = ending.failure_words(error)
        ending.tell(live.ctl, Kind.REASON, value=error.exit_code, payload=text)


def _why(home: Home, live: Live, report: Report) -> CoveError:
    if live.unplugged is not None:
        return live.unplugged
    if live.asked == "boot":
        return guests.never_up()
    if live.plan is None:
        side = ("host", "machine")[report.side & 1]
        said = f"{os.strerror(report.errno)} {printable(report.detail)}"
        return HostError(
            "cannot start machine: its plan stopped while the daemon was away",
            host=f"op {report.op} of the {side} part: {said}".rstrip(),
        )
    directory = home.store.layout.machine(live.key)
    found = guests.why_no_guest(directory, live.plan, report)
    return explain(live.plan, report) if found is None else found


def _gone(home: Home, live: Live) -> None:
    live.gone = True
    live.leaving.nudge()
    if live.ctl is not None:
        home.reactor.forget(live.ctl.fileno(), live)
    if live.ended is None and live.failure is None:
        ending.lost(home, live)
    home.worker.do(partial(ending.put_away, home, live))


def _end_of_file(home: Home, live: Live) -> None:
    """The monitor is gone without having said so: it was killed."""
    if live.gone:
        return
    if live.ended is None and live.failure is None:
        ending.lost(home, live)
    _gone(home, live)
