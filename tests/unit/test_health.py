"""Health checks on paper: what is asked for, and what the answers mean."""

from __future__ import annotations

import pytest

from cove.errors import CoveError
from cove.spec.check import check_machine
from cove.spec.health import (
    NONE,
    Answer,
    Check,
    Health,
    State,
    after,
    check_of,
    parse_span,
    parse_test,
    pause_before,
)
from cove.spec.machine import MachineSpec

IMAGE = {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000, "Retries": 7}


def test_the_spec_stands_above_the_image() -> None:
    assert check_of(Health(), None, ()) is None
    assert check_of(Health(), {"Test": ["NONE"]}, ()) is None
    assert check_of(Health(NONE), IMAGE, ()) is None
    assert check_of(Health(), IMAGE, ()) == Check(("/bin/sh", "-c", "true"), 5.0, retries=7)
    assert check_of(Health(), IMAGE, ("/bin/ash", "-ec")) == Check(
        ("/bin/ash", "-ec", "true"), 5.0, retries=7
    )
    asked = Health(("CMD", "ask", "me"), timeout=2.0, retries=1)
    assert check_of(asked, IMAGE, ()) == Check(("ask", "me"), 5.0, 2.0, retries=1)
    assert check_of(asked, None, ()) == Check(("ask", "me"), 30.0, 2.0, 0.0, 5.0, 1)


@pytest.mark.parametrize(
    "image",
    [
        {"Test": "true"},
        {"Test": []},
        {"Test": ["CMD"]},
        {"Test": ["RUN", "x"]},
        {"Test": ["CMD", 3]},
        {"Test": None, "Interval": "soon"},
    ],
)
def test_an_image_that_makes_no_sense_asks_for_nothing(image: dict[str, object]) -> None:
    assert check_of(Health(), image, ()) is None


def test_times_of_a_stranger() -> None:
    strange = {"Test": ["CMD", "x"], "Interval": -5, "Timeout": 10**30, "Retries": -1}
    assert check_of(Health(), strange, ()) == Check(("x",))
    hasty = {"Test": ["CMD", "x"], "Interval": 10**6, "Timeout": 10**6, "StartInterval": 10**8}
    assert check_of(Health(), hasty, ()) == Check(("x",), 1.0, 0.001, 0.0, 1.0)
    typed = Health(interval=0.05, start_interval=0.01)
    assert check_of(typed, hasty, ()) == Check(("x",), 0.05, 0.001, 0.0, 0.01)


def test_what_is_typed() -> None:
    assert parse_test("curl -f localhost") == ("CMD-SHELL", "curl -f localhost")
    assert (parse_span("0"), parse_span("1ms"), parse_span("1m30s")) == (0.0, 0.001, 90.0)
    for call, text in ((parse_test, " "), (parse_span, "1us"), (parse_span, "soon")):
        with pytest.raises(CoveError):
            call(text)  # type: ignore[operator]
    for health in (
        Health(("CMD",)),
        Health(("RUN", "x")),
        Health(("CMD", "a\0b")),
        Health(retries=-1),
        Health(interval=-1.0),
        Health(NONE, interval=1.0),
    ):
        with pytest.raises(CoveError, match="cannot use"):
            check_machine(MachineSpec("host", health=health))


def answer(code: int, start: float = 100.0) -> Answer:
    return Answer(start, start + 1, code, "")


def test_what_answers_mean() -> None:
    check, state = Check(("x",), start_period=60.0, retries=2), State()
    state = after(check, state, answer(1, 30.0), 0.0)
    assert (state.status, state.streak) == ("starting", 0)
    assert pause_before(check, state, 30.0) == check.start_interval
    assert pause_before(check, state, 60.0) == check.interval
    state = after(check, state, answer(-1), 0.0)
    assert (state.status, state.streak) == ("starting", 1)
    state = after(check, state, answer(1), 0.0)
    assert (state.status, state.streak) == ("unhealthy", 2)
    state = after(check, state, answer(0), 0.0)
    assert (state.status, state.streak) == ("healthy", 0)
    assert pause_before(check, state, 30.0) == check.interval
    state = after(check, state, answer(1, 40.0), 0.0)
    assert (state.status, state.streak) == ("healthy", 1)
    for _ in range(9):
        state = after(check, state, answer(0), 0.0)
    assert len(state.log) == 5
