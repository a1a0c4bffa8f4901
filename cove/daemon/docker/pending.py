"""Clients that attached to a machine before its start, as ``docker run`` does; and what exec was
asked for and has not begun, or has ended. Only memory, and no more of it than is told here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cove.engine.calls import Session, Streams
from cove.engine.machines.exec import Extra
from cove.errors import Conflict, NotFound
from cove.spec.machine import ExecSpec
from cove.store.records import MachineRecord

MOST = 16
"""That wait for one machine; the monitor serves as many."""
MACHINES = 4096
"""That somebody waits for: the oldest are given up."""


@dataclass(slots=True)
class Waiting:
    session: Session
    streams: Streams
    detach_keys: str
    give_up: Callable[[], None]


@dataclass(slots=True)
class Pending:
    _of: OrderedDict[str, list[Waiting]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, machine: str, waiting: Waiting) -> None:
        dropped: list[Waiting] = []
        with self._lock:
            held = self._of.setdefault(machine, [])
            if len(held) >= MOST:
                raise Conflict(f"cannot attach: {MOST} others wait for its start already")
            held.append(waiting)
            while len(self._of) > MACHINES:
                dropped += self._of.popitem(last=False)[1]
        for each in dropped:
            each.give_up()

    def take(self, machine: str) -> list[Waiting]:
        with self._lock:
            return self._of.pop(machine, [])

    def drop(self, machine: str, waiting: Waiting) -> None:
        """Its client has left. One that was taken is given up by who took it, once it is used."""
        with self._lock:
            held = self._of.get(machine, [])
            left = [each for each in held if each is not waiting]
            if left:
                self._of[machine] = left
            else:
                self._of.pop(machine, None)
        if len(left) < len(held):
            waiting.give_up()


@dataclass(slots=True)
class Exec:
    """One more process that was asked for; ``extra`` once it was begun."""

    id: str
    machine: MachineRecord
    spec: ExecSpec
    streams: Streams
    extra: Extra | None = None
    begun: bool = False
    told: int | None = None
    """The exit code, as its caller heard it: maybe before the daemon did."""

    def end(self, code: int) -> None:
        self.told = code

    @property
    def exit_code(self) -> int | None:
        return self.extra.exit_code if self.told is None and self.extra else self.told

    @property
    def running(self) -> bool:
        return self.extra is not None and self.exit_code is None


@dataclass(slots=True)
class Execs:
    _of: OrderedDict[str, Exec] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, asked: Exec) -> None:
        with self._lock:
            self._of[asked.id] = asked
            while len(self._of) > MACHINES:
                self._of.popitem(last=False)

    def find(self, name: str) -> Exec:
        found = self._of.get(name)
        if found is None:
            raise NotFound(f"No such exec instance: {name}")
        return found

    def begin(self, name: str) -> Exec:
        """Each is begun once."""
        with self._lock:
            found = self.find(name)
            if found.begun:
                raise Conflict(f"cannot start exec {name}: it was started already")
            found.begun = True
            return found

    def of(self, machine: str) -> list[str]:
        """Those that run."""
        return [
            each.id
            for each in list(self._of.values())
            if each.machine.id == machine and each.running
        ]
