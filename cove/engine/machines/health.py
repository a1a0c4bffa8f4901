"""Health checks of machines that run: a command in the machine, again and again, as ``spec.health``
says.

Between two probes (``probes``) a check is one timer of the reactor's. What the answers mean is in
the machine's record as soon as it changes; the next daemon goes on from there.
"""

from __future__ import annotations

import time
from functools import partial

from cove.engine.home import Home
from cove.engine.live import Live
from cove.linux.timers import Timer
from cove.spec.health import Answer, Check, State, after, pause_before
from cove.store.records import MachineRecord


def at_start(record: MachineRecord) -> State | None:
    """Of a machine that starts just now: what was before tells nothing of it, but is kept."""
    if record.check is None:
        return None
    return State(log=record.health.log if record.health else ())


def watch(home: Home, live: Live, record: MachineRecord) -> None:
    """From now on until its end: it was started, or taken over."""
    if record.check is not None and live.checks is None:
        live.checks = checks = Checks(home, live, record.check, record.health or State(),
                                      record.started)  # fmt: skip
        live.closers.append(checks.stop)
        checks.plan_next()


class Checks:
    """Of one machine. Everything but the beginning of a probe is done on the reactor's thread."""

    def __init__(self, home: Home, live: Live, check: Check, state: State, started: float) -> None:
        self._home, self._live, self._check, self._started = home, live, check, started
        self.state = state
        self._timer: Timer | None = None
        self._over = False

    def plan_next(self) -> None:
        if not self._over:
            wait = pause_before(self._check, self.state, time.time() - self._started)
            begin = partial(self._home.probers.do, self._begin)
            self._timer = self._home.reactor.after(wait, begin)

    def stop(self) -> None:
        """No more answers; a probe that is under way ends with the machine."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _paused(self) -> bool:
        return self._home.record(self._live.key).state == "paused"

    def _begin(self) -> None:
        home = self._home
        if self._over or home.closing or not home.store.has_machine(self._live.key):
            return
        if self._paused():
            self.plan_next()
            return
        home.probe(home, home.record(self._live.key), self._check, self._heard)

    def _heard(self, answer: Answer) -> None:
        if self._over or self._live.ended is not None:
            return
        if not self._paused():  # what stood still could not answer
            self._take(answer)
        self.plan_next()

    def _take(self, answer: Answer) -> None:
        home, before = self._home, self.state
        self.state = after(self._check, before, answer, self._started)
        if (self.state.status, self.state.streak) == (before.status, before.streak):
            return
        with home.lock:
            if self._over or not home.store.has_machine(self._live.key):
                return
            record = home.update(self._live.key, health=self.state)
        if self.state.status != before.status:
            home.publish(f"health_status: {self.state.status}", record)
