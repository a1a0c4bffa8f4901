"""The verbs of a machine's end: stop, kill, wait, remove; and whether it runs at all."""

from __future__ import annotations

import select
import signal
import threading
from collections.abc import Iterable
from functools import partial

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import ending, pause
from cove.engine.machines.outcomes import give_up
from cove.errors import Conflict, HostError
from cove.linux.pidfd import wait_exit
from cove.planner.defaults import STOP_SIGNAL, STOP_TIMEOUT
from cove.spec.values import parse_signal
from cove.store.records import MachineRecord

SETTLED = 1.0
"""Seconds that the record of an ended machine may take to say so."""

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)
"""Signals that ask a machine to end, if it has no signal of its own for that: who sends one wants
no restart policy to start it again.
"""

KILL_WAIT = 10.0
"""Seconds that a killed machine may take to end before that is an error."""
AWAY_WAIT = 120.0
"""Seconds that the monitor of one that has ended may take to tear everything down: with hundreds of
others, on a busy host, more than ten.
"""


def stop(home: Home, record: MachineRecord, timeout: int | None, signal_name: str) -> None:
    """The stop signal, then SIGKILL when the machine has not ended in time (-1: never)."""
    while (live := running(home, record)) is None:
        ending_live = home.lives.get(record.key)
        if ending_live is not None:
            home.events.wait_until(partial(has_ended, home, ending_live))
        if give_up(home, record.key):  # also one that waited to be started again
            home.events.nudge()
            return
    own = STOP_TIMEOUT if record.spec.stop_timeout is None else record.spec.stop_timeout
    seconds = own if timeout is None else timeout
    image = home.base_of_machine(record).config.stop_signal
    number = parse_signal(signal_name or record.spec.stop_signal or image or STOP_SIGNAL)
    home.update(record.key, stopping=True)
    live.asked = live.asked or "stop"
    home.publish("kill", record, {"signal": str(number)})
    send_signal(home, live, number)
    pause.go_on(home, live)
    ended = partial(has_ended, home, live)
    if seconds >= 0 and number != signal.SIGKILL:
        end = partial(home.worker.do, partial(_strike, home, record, live))
        live.timers.append(home.reactor.after(seconds, end))
    home.events.wait_until(ended)
    give_up(home, record.key)  # its policy was starting it just then
    home.publish("stop", record)


def _strike(home: Home, record: MachineRecord, live: Live) -> None:
    """The end of a machine that did not end by itself."""
    if running(home, record) is live:
        home.publish("kill", record, {"signal": str(int(signal.SIGKILL))})
    ending.kill(home, live, "stop")


def kill(home: Home, record: MachineRecord, signal_name: str) -> None:
    live, number = running(home, record), parse_signal(signal_name)
    if live is None:
        if home.record(record.key).state == "restarting" and give_up(home, record.key):
            home.events.nudge()
            return
        raise Conflict(f"cannot kill {record.name}: it is not running")
    own = ""
    if number != signal.SIGKILL:
        own = record.spec.stop_signal or home.base_of_machine(record).config.stop_signal
    if number == (parse_signal(own) if own else number) and (own or number in ASKING):
        home.update(record.key, stopping=True)
    home.publish("kill", record, {"signal": str(number)})
    if number == signal.SIGKILL:
        ending.kill(home, live, "kill")
        wait_end(home, record, live)
    else:
        send_signal(home, live, number)
        if not own or number == parse_signal(own):  # as in Docker: another one waits
            pause.go_on(home, live)


def send_signal(home: Home, live: Live, number: int) -> None:
    """To the machine's first process, by its pidfd: never to whoever has its number by now."""
    if live.pidfd < 0:
        # Still starting: nobody is there to receive a signal yet.
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            ending.kill(home, live, live.asked or "kill")
        return
    if live.virtual and number == signal.SIGSTOP:
        number = ending.HALT_SIGNAL
    try:
        signal.pidfd_send_signal(live.pidfd, number)
    except ProcessLookupError:
        pass


def running(home: Home, record: MachineRecord) -> Live | None:
    """The live machine, unless its first process has ended: a caller may know of that before its
    monitor has told this daemon.
    """
    live = home.lives.get(record.key)
    if live is None or live.ended is not None or live.failure is not None:
        return None
    return None if live.pidfd >= 0 and wait_exit(live.pidfd, 0) else live


def has_ended(home: Home, live: Live) -> bool:
    return live.over or live.key not in home.lives


def settle(home: Home, keys: Iterable[int]) -> None:
    """Wait for the records of machines whose program has ended: the caller saw a command end, and
    what it asks next must know of it.
    """
    keys = tuple(keys)
    for live in [live for key in keys if (live := home.lives.get(key))]:
        catch_up(home, live, SETTLED)
    poll = select.poll()
    by_fd = {live.pidfd: live for key in keys if (live := home.lives.get(key)) and live.pidfd >= 0}
    for fd in by_fd:
        poll.register(fd, select.POLLIN)
    for fd, _ in poll.poll(0) if by_fd else ():
        home.events.wait_until(partial(has_ended, home, by_fd[fd]), timeout=SETTLED)


def settled(home: Home, key: int) -> bool:
    """Whether ``settle`` has nothing to wait for."""
    live = home.lives.get(key)
    if live is None:
        return True
    ended = live.pidfd >= 0 and wait_exit(live.pidfd, 0)
    return not ended and (live.started or not _has_spoken(live))


def catch_up(home: Home, live: Live, timeout: float) -> None:
    """Wait until what its monitor has already said of its start is heard."""
    if not live.started and _has_spoken(live):
        home.events.wait_until(partial(_heard, live), timeout=timeout)


def _has_spoken(live: Live) -> bool:
    """Whether its monitor has said something that nobody has heard yet: that it started, and maybe
    ended, which the caller may know already.
    """
    poll = select.poll()
    try:
        poll.register(live.ctl, select.POLLIN)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # none, or closed just now
        return False
    return bool(poll.poll(0))


def _heard(live: Live) -> bool:
    return live.started or live.gone or live.over or live.failure is not None


def wait_end(home: Home, record: MachineRecord, live: Live) -> None:
    """After SIGKILL; a process stuck in the kernel keeps a machine from ending."""
    if not home.events.wait_until(partial(has_ended, home, live), timeout=KILL_WAIT):
        raise HostError(
            f"cannot end {record.name}: it was killed and still runs after {KILL_WAIT:.0f} s",
            host=f"process {live.pid} is held up in the kernel",
        )


def _has_gone(home: Home, key: int, live: Live) -> bool:
    """All of it is put away."""
    return home.lives.get(key) is not live


def remove(
    home: Home,
    record: MachineRecord,
    *,
    force: bool,
    volumes: bool = False,
    cancelled: threading.Event | None = None,
) -> None:
    """Also one that somebody starts at the same time: it goes before or after that, whole. Who
    cancels waits no longer; what was begun goes on.
    """
    while not _remove(home, record, force=force, volumes=volumes, cancelled=cancelled):
        record = home.record(record.key)


def _wait_away(
    home: Home, record: MachineRecord, live: Live | None, cancelled: threading.Event | None
) -> None:
    """Until all of it is put away. Only its monitor may take too long for that: what is left then
    is the daemon's own work, which gets to it after hundreds of others, too.
    """
    if live is None:
        return
    away = partial(_has_gone, home, record.key, live)
    with home.lock:
        again = bool(live.stuck) and not away()
        live.stuck = ""
    if again:
        home.worker.do(partial(ending.put_away, home, live))
    wait = partial(live.leaving.wait_until, cancelled=cancelled)
    if not wait(lambda: live.gone or bool(live.stuck) or away(), timeout=AWAY_WAIT):
        raise HostError(
            f"cannot remove {record.name}: its monitor does not end",
            host=_monitor_of(live),
            hint=f"try again: cove rm {record.name}",
        )
    wait(lambda: bool(live.stuck) or away())
    if not away():
        raise HostError(
            f"cannot remove {record.name}: what it leaves cannot be put away",
            host=live.stuck,
            hint=f"try again: cove rm {record.name}",
        )


def _monitor_of(live: Live) -> str:
    """Its process: the parent of the machine's first one, as long as that is waited for."""
    try:
        signal.pidfd_send_signal(live.pidfd, 0)
        with open(f"/proc/{live.pid}/stat") as file:
            parent = file.read().rpartition(")")[2].split()[1]
    except OSError:
        return f"its first process, {live.pid}, has ended" if live.pid else ""
    return f"its monitor is process {parent}"


def _waits(home: Home, key: int) -> bool:
    """Its restart policy starts it again."""
    return home.record(key).state == "restarting"


def _check_not_waiting(home: Home, record: MachineRecord) -> None:
    if _waits(home, record.key):
        raise Conflict(
            f"cannot remove {record.name}: it is restarting",
            hint=f"stop it first: cove stop {record.name}, or use cove rm -f",
        )


def _remove(
    home: Home,
    record: MachineRecord,
    *,
    force: bool,
    volumes: bool,
    cancelled: threading.Event | None,
) -> bool:
    now, live = home.lives.get(record.key), running(home, record)
    if live is None and not force and home.store.has_machine(record.key):
        _check_not_waiting(home, record)
    if live is not None:
        if not force:
            state = "paused" if home.record(record.key).state == "paused" else "running"
            raise Conflict(
                f"cannot remove {record.name}: it is {state}",
                hint=f"stop it first: cove stop {record.name}, or use cove rm -f",
            )
        live.forget, live.forget_volumes = True, volumes
        home.publish("kill", record, {"signal": str(int(signal.SIGKILL))})
        ending.kill(home, live, "kill")
        wait_end(home, record, live)
    # Not for one that somebody has started anew meanwhile: that is ended, or refused, in its turn.
    _wait_away(home, record, now, cancelled)
    with home.lock:
        if record.key in home.lives:
            return False
        if home.store.has_machine(record.key):
            ending.forget(home, home.record(record.key), volumes=volumes)
        return True
