"""Who removes a machine that has ended waits until all of it is put away, by a thread that may have
much to do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cove.engine import calls
from cove.engine.engine import Engine
from cove.engine.events import Cancel, Cancelled
from cove.engine.live import Live
from cove.engine.machines import start, stopping
from cove.errors import HostError
from cove.spec.machine import MachineSpec
from tests.driver import wait_until
from tests.kernel.conftest import open_engine
from tests.shared import no_scenario

pytestmark = no_scenario("it holds up a thread of the daemon's")

NOTHING = calls.Call()


@pytest.fixture(scope="module")
def engine(bb_tar: Path) -> Iterator[Engine]:
    with open_engine(bb_tar) as made:
        yield made


def ended(engine: Engine, name: str) -> Live:
    """A machine whose monitor has ended too, and which nobody puts away."""
    engine.run(calls.Run(MachineSpec(image="bb", command=("sleep", "1000"), name=name)), NOTHING)
    (live,) = engine.home.lives.values()
    engine.kill(calls.Kill(name), NOTHING)
    wait_until(lambda: live.gone, "the monitor's end")
    return live


def test_only_the_monitor_has_a_time_to_end_in(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "AWAY_WAIT", 0.0)
    free = threading.Event()
    engine.home.worker.do(lambda: void(free.wait(120)))
    with ThreadPoolExecutor(1) as pool:
        try:
            live = ended(engine, "queued")
            others = len(engine.home.events._listeners)
            removed = pool.submit(engine.remove, calls.Remove("queued"), NOTHING)
            wait_until(lambda: removed.done() or live.leaving._listeners, "who removes it waits")
            # What happens to others does not wake it: of hundreds each would wake all.
            assert len(engine.home.events._listeners) == others
        finally:
            free.set()
        assert removed.result(120).name == "queued"
    assert not engine.home.store.has_machine(live.key)


def test_who_waits_for_that_may_go_away(engine: Engine) -> None:
    free, cancel = threading.Event(), Cancel()
    engine.home.worker.do(lambda: void(free.wait(120)))
    with ThreadPoolExecutor(1) as pool:
        try:
            live = ended(engine, "left")
            left = pool.submit(engine.remove, calls.Remove("left"), calls.Call(cancelled=cancel))
            wait_until(lambda: left.done() or live.leaving._listeners, "who removes it waits")
            cancel.set()
            with pytest.raises(Cancelled):
                left.result(120)
        finally:
            free.set()
    engine.remove(calls.Remove("left"), NOTHING)


def test_what_cannot_be_put_away_is_told_and_tried_again(engine: Engine) -> None:
    engine.run(calls.Run(MachineSpec(image="bb", command=("sleep", "1000"), name="kept")), NOTHING)
    engine.home.worker.do(engine.home.slots.refill)
    engine.home.worker.settle()
    (live,) = engine.home.lives.values()
    doomed = engine.home.remover._tmp
    engine.home.remover.wait_idle()
    away = f"{doomed}-away"
    os.rename(doomed, away)
    open(doomed, "w").close()
    try:
        with pytest.raises(HostError, match="what it leaves cannot be put away") as told:
            engine.remove(calls.Remove("kept", force=True), NOTHING)
        assert "Not a directory" in told.value.host
    finally:
        os.unlink(doomed)
        os.rename(away, doomed)
    engine.remove(calls.Remove("kept"), NOTHING)
    assert not engine.home.store.has_machine(live.key) and live.key not in engine.home.lives


def void(_: object) -> None:
    """What is waited for has no result."""


def test_a_bug_in_a_start_is_undone_like_any_failure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("nobody thought of it")

    spec = MachineSpec(image="bb", command=("true",), name="struck")
    with monkeypatch.context() as patch:
        patch.setattr(start, "plan_machine", broken)
        with pytest.raises(ValueError, match="nobody thought of it"):
            engine.run(calls.Run(spec), NOTHING)
    (record,) = engine.home.store.machines()
    said = "bug: ValueError: nobody thought of it"
    assert (record.state, record.cause.text) == ("created", said)
    assert not engine.home.lives
    engine.start(calls.Start("struck"), NOTHING)
    engine.remove(calls.Remove("struck", force=True), NOTHING)
