"""Clients of Docker's API that attach to a machine in the moment in which it starts, ends or goes:
an engine that answers in the order that would be a race.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from cove.daemon.docker.ask import Ask, Hijack
from cove.daemon.docker.attach import attach, look
from cove.daemon.docker.pending import Changes, Pending
from cove.engine.calls import Session
from cove.engine.engine import Engine
from cove.engine.events import Events
from cove.errors import Conflict, NotFound
from cove.spec.machine import MachineSpec
from cove.store.records import MachineRecord

ID = "a" * 64
SESSION = Session(-1, (-1, -1, -1), 0, 0, 0)


class Moment:
    """An engine with one machine. ``then`` happens once somebody was told that it does not run."""

    def __init__(self, then: Callable[[Moment], None] = lambda engine: None) -> None:
        spec = MachineSpec(image="bb")
        self.machine: MachineRecord | None = MachineRecord(1, ID, "ada", spec, "", "created", 1.5)
        self.attached = 0
        self.deaf = False
        self._then = [then]

    def change(self, **fields: Any) -> None:
        assert self.machine is not None
        self.machine = msgspec.structs.replace(self.machine, **fields)

    def found(self, text: str) -> MachineRecord:
        if self.machine is None:
            raise NotFound(f"no such machine: {text}")
        return self.machine

    def is_running(self, text: str) -> bool:
        running = self.found(text).state == "running"
        while self._then:
            self._then.pop()(self)
        return running

    def attach(self, params: object, call: object) -> None:
        if self.deaf:
            raise Conflict("cannot attach to ada: it is not running")
        self.attached += 1


def begun(engine: Moment, pending: Pending) -> list[str]:
    """A client attaches; what is released of it."""
    released: list[str] = []
    ask = Ask(
        cast(Engine, engine), {"name": "ada"},
        {"stream": ["1"], "stdout": ["1"]}, pending=pending,
    )  # fmt: skip
    made = attach(ask)
    assert isinstance(made, Hijack)
    made.begin(SESSION, lambda: released.append("released"))
    return released


def start(engine: Moment) -> None:
    engine.change(state="running", pid=7, finished=0.0)


def run(engine: Moment) -> None:
    engine.change(state="exited", finished=3.0)


def remove(engine: Moment) -> None:
    engine.machine = None


@pytest.mark.parametrize(("meanwhile", "attached"), [(start, 1), (run, 0), (remove, 0)])
def test_nobody_waits_for_what_has_happened(
    meanwhile: Callable[[Moment], None], attached: int
) -> None:
    """After it was told that the machine does not run, and before it waits for its start."""
    engine, pending = Moment(meanwhile), Pending()
    assert begun(engine, pending) == ["released"]
    assert engine.attached == attached and pending.held(ID) == ()


@pytest.mark.parametrize(("later", "attached"), [(start, 1), (run, 0), (remove, 0)])
def test_who_waits_is_served_by_whatever_happens(
    later: Callable[[Moment], None], attached: int
) -> None:
    engine, pending = Moment(), Pending()
    released = begun(engine, pending)
    look(cast(Engine, engine), pending, ID)
    assert not released and len(pending.held(ID)) == 1
    later(engine)
    look(cast(Engine, engine), pending, ID)
    assert released == ["released"] and engine.attached == attached and pending.held(ID) == ()


def test_an_end_that_was_known_is_not_the_one_that_is_waited_for() -> None:
    engine, pending = Moment(), Pending()
    engine.change(state="exited", finished=2.0)
    released = begun(engine, pending)
    look(cast(Engine, engine), pending, ID)  # the event of that end, which comes late
    assert not released
    start(engine)
    look(cast(Engine, engine), pending, ID)
    assert released and engine.attached == 1


def test_a_guest_that_boots_is_waited_for_and_one_that_has_ended_is_not() -> None:
    engine, pending = Moment(), Pending()
    engine.change(state="running", pid=0)
    released = begun(engine, pending)
    assert not released and engine.attached == 0
    start(engine)
    engine.deaf = True
    look(cast(Engine, engine), pending, ID)
    assert released and pending.held(ID) == ()


def test_what_is_published_is_heard_of_machines_that_are_waited_for() -> None:
    engine, pending, told, events = Moment(), Pending(), list[str](), Events()
    with events.subscribe(Changes(pending, told.append)):
        events.publish("start", (ID, "ada", "bb"))
        begun(engine, pending)
        for action in ("create", "start", "die", "destroy", "rename"):
            events.publish(action, (ID, "ada", "bb"))
        events.publish("destroy", (ID, "web", ""), type="network")
        events.publish("start", ("b" * 64, "bob", "bb"))
        events.nudge()
    assert told == [ID] * 3
