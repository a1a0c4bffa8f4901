"""Clients that attached to a machine before its start, as ``docker run`` does; and what exec was
asked for and has not begun, or has ended. Only memory, and no more of it than is told here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from cove.engine.calls import Event, Session, Streams
from cove.engine.events import Subscription
from cove.engine.machines.exec import Extra
from cove.errors import Conflict, NotFound
from cove.spec.machine import ExecSpec
from cove.store.records import MachineRecord

MOST = 16
"""That wait for one machine; the monitor serves as many."""
MACHINES = 4096
"""That somebody waits for: the oldest are given up."""
EXECS = 1024
"""Processes that can be asked about: the oldest that runs no more is forgotten for one more."""


CHANGES = ("start", "die", "destroy")
"""Events after which who waits for a machine may not have to wait any more."""


@dataclass(slots=True)
class Waiting:
    session: Session
    streams: Streams
    detach_keys: str
    give_up: Callable[[], None]
    finished: float = 0.0
    """When the machine had ended last, as its client knew: it waits for what comes after that."""


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

    def held(self, machine: str) -> tuple[Waiting, ...]:
        with self._lock:
            return tuple(self._of.get(machine, ()))

    def claim(self, machine: str, waiting: Waiting) -> bool:
        """Whether it was still waiting, which it is no more."""
        with self._lock:
            held = self._of.get(machine, [])
            left = [each for each in held if each is not waiting]
            if left:
                self._of[machine] = left
            else:
                self._of.pop(machine, None)
        return len(left) < len(held)

    def drop(self, machine: str, waiting: Waiting) -> None:
        """Its client has left. One that was taken is given up by who took it, once it is used."""
        if self.claim(machine, waiting):
            waiting.give_up()


class Changes(Subscription):
    """Hears what happens to machines that somebody waits for, as it is published: ``told`` is
    called with the machine's id, and must not block.
    """

    def __init__(self, pending: Pending, told: Callable[[str], object]) -> None:
        super().__init__()
        self._pending, self._told = pending, told

    def put(self, event: Event) -> None:
        if event.type == "container" and event.action in CHANGES and self._pending.held(event.id):
            self._told(event.id)

    def wake(self) -> None:
        pass


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

    @property
    def busy(self) -> bool:
        """Running, or about to."""
        return self.begun and self.exit_code is None


@dataclass(slots=True)
class Execs:
    _of: OrderedDict[str, Exec] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, asked: Exec) -> None:
        with self._lock:
            self._of[asked.id] = asked
            if len(self._of) > EXECS:
                oldest = next((one for one in self._of.values() if not one.busy), None)
                if oldest is not None:
                    del self._of[oldest.id]

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
