"""Restart policies: machines that ended are started again, as ``spec.restart`` decides.

The end of a machine and what follows from it are one write: state ``restarting``, and when
(``outcomes``). From then on the record is the intention. Whoever finds it, this daemon's timer or
the next daemon (``Retries.open``), starts the machine, and only while the record still says so
(``life.start``): never twice, and never after somebody stopped or removed it.
"""

from __future__ import annotations

import socket
import time
from functools import partial

from cove.engine.crew import Crew
from cove.engine.home import Home
from cove.engine.machines import ending, life
from cove.engine.machines.outcomes import first_delay, give_up, outcome
from cove.engine.reactor import complain
from cove.errors import CoveError
from cove.executor.messages import Kind
from cove.linux.timers import Timer
from cove.spec.restart import with_host
from cove.store.records import MachineRecord

AT_ONCE = 8
"""So many machines are being started by their policies at the same time."""


def _dismiss(monitor: socket.socket) -> None:
    ending.tell(monitor, Kind.BYE)
    monitor.close()


class Retries:
    """The machines that wait to be started by their policies."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._crew = Crew("restarts", AT_ONCE)
        self._timers: dict[int, Timer] = {}
        self._monitors: dict[int, socket.socket] = {}
        self._open = self._closed = False

    def open(self) -> None:
        """Also for those that an earlier daemon left waiting, and for those that start with the
        host.
        """
        home, self._open = self._home, True
        for record in home.store.machines():
            before = record.state == "exited" and record.boot not in ("", home.boot)
            if before and with_host(record.spec.restart, stopped=record.stopping):
                words = {"stopping": False, "restarts": 0, "delay": first_delay()}
                home.update(record.key, state="restarting", retry=0.0, **words)
            self.arm(record.key)

    def close(self) -> None:
        with self._home.lock:
            self._open, self._closed = False, True
        self._crew.close()
        for key in list(self._monitors):
            self.let_go(key)

    def arm(self, key: int, monitor: socket.socket | None = None, *, ran: bool = False) -> None:
        """Let it be started in time, if it waits for that. ``monitor``: of its last run, which
        stays as long as it waits, to bring this daemon back.

        By its record as it is now: who stopped or removed it a moment ago has found no monitor.
        """
        with self._home.lock:
            record = self._home.record(key) if self._home.store.has_machine(key) else None
            if record is None or record.state != "restarting" or self._closed:
                self.let_go(key)
                if monitor is not None:
                    _dismiss(monitor)
                return
            if monitor is not None and ran:
                self.let_go(key)
                self._monitors[key] = monitor
            elif monitor is not None:
                _dismiss(monitor)
            if self._open:
                self._wind(record)

    def _wind(self, record: MachineRecord) -> None:
        old = self._timers.pop(record.key, None)
        if old is not None:
            old.cancel()
        # A clock that was set back must not make it wait for longer than it was to wait.
        wait = min(record.retry - time.time(), record.delay)
        start = partial(self._crew.do, partial(self._start, record.key))
        self._timers[record.key] = self._home.reactor.after(wait, start)

    def let_go(self, key: int) -> None:
        """Its last monitor: it runs, or will not."""
        monitor = self._monitors.pop(key, None)
        if monitor is not None:
            _dismiss(monitor)

    def _start(self, key: int) -> None:
        home = self._home
        self._timers.pop(key, None)
        with home.lock:
            record = home.record(key) if home.store.has_machine(key) else None
            if record is None or record.state != "restarting" or self._closed:
                self.let_go(key)
                return
        if record.stopping or record.spec.restart.policy == "no":
            give_up(home, key)
            return
        try:
            life.start(home, record, None, again=True)
        except Exception as error:
            self._failed(key, error, record.retry)

    def _failed(self, key: int, error: Exception, retry: float) -> None:
        """It could not be started: it is tried again, as after any end. Where its record said that
        it runs, ``ending.start_failed`` has decided that already: the time for the next start is
        another than ``retry``, by which this one came. What the clock says by now decides nothing.
        """
        home = self._home
        if self._closed:
            return
        if not isinstance(error, CoveError):
            complain("a restart")
        with home.lock:
            if not home.store.has_machine(key) or key in home.lives:
                return
            record = home.record(key)
            if record.state != "restarting" or record.retry != retry:
                return
            code = error.exit_code if isinstance(error, CoveError) else 125
            record = home.update(key, exit_code=code, **outcome(record, code=code, ran=0.0))
            self.arm(key)
        home.events.nudge()
