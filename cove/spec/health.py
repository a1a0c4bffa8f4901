"""Health checks, as Docker has them: what is asked for, what an image asks for, and what the
answers mean. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from cove.errors import CoveError, UsageError
from cove.spec import values

NONE = ("NONE",)
INTERVAL, TIMEOUT, START_INTERVAL, RETRIES = 30.0, 30.0, 5.0, 3
LEAST, LEAST_OF_IMAGE = 0.001, 1.0
"""Seconds between two probes, of who typed them and of an image: a stranger may not keep the host
busy.
"""
LOG, OUTPUT = 5, 4096
"""How many answers are kept, and how many bytes of each."""
SHELL = ("/bin/sh", "-c")
Status = Literal["starting", "healthy", "unhealthy"]


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a spec; what is empty or 0 is the image's, else Docker's default."""

    test: tuple[str, ...] = ()
    """CMD and an argv; CMD-SHELL and a line; NONE."""
    interval: float = 0.0
    timeout: float = 0.0
    start_period: float = 0.0
    start_interval: float = 0.0
    retries: int = 0


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine is asked, and when."""

    argv: tuple[str, ...]
    interval: float = INTERVAL
    timeout: float = TIMEOUT
    start_period: float = 0.0
    """Failures in so many seconds after the start do not count."""
    start_interval: float = START_INTERVAL
    """The interval in that time, until it is healthy."""
    retries: int = RETRIES


class Answer(msgspec.Struct, frozen=True):
    start: float
    end: float
    code: int
    """-1: none in time, or the check could not be started."""
    output: str


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    status: Status = "starting"
    streak: int = 0
    """Failures in a row."""
    log: tuple[Answer, ...] = ()
    """The last ones, oldest first."""


def parse_test(text: str) -> tuple[str, ...]:
    if not text.strip():
        raise values.bad("health check", text, "it is empty", hint="--no-healthcheck for none")
    return ("CMD-SHELL", text)


def parse_span(text: str) -> float:
    """As long as a probe's times may be: 0, which is the default, or at least a millisecond."""
    span = values.parse_duration(text)
    if 0 < span < LEAST:
        raise values.bad("duration", text, "it is less than 1ms")
    return span


def check_health(health: Health) -> Iterator[CoveError]:
    kind, rest = health.test[:1], health.test[1:]
    wrong = bool(health.test) and not (
        (kind == NONE and not rest) or (kind in (("CMD",), ("CMD-SHELL",)) and rest)
    )
    if wrong or any("\0" in word for word in rest):
        yield UsageError(
            "cannot use such a health check", hint="NONE, or CMD or CMD-SHELL and more"
        )
    times = (health.interval, health.timeout, health.start_period, health.start_interval)
    if any(not (span == 0 or LEAST <= span < 1 << 31) for span in times) or not (
        0 <= health.retries < 1 << 31
    ):
        yield UsageError("cannot use such a health check: its times are 1ms at least, or 0")
    if health.test == NONE and (any(times) or health.retries):
        yield UsageError(
            "cannot use --no-healthcheck together with --health-…", hint="leave one of them out"
        )


def check_of(
    health: Health, image: Mapping[str, object] | None, shell: tuple[str, ...]
) -> Check | None:
    """What follows from a spec, its image's HEALTHCHECK and its image's SHELL; None: no check."""
    of_image = _of_image(image or {})
    test = health.test or of_image.test
    if not test or test == NONE or len(test) < 2:
        return None
    argv = test[1:] if test[0] == "CMD" else ((shell or SHELL) + (test[1],))
    return Check(
        argv,
        health.interval or of_image.interval or INTERVAL,
        health.timeout or of_image.timeout or TIMEOUT,
        health.start_period or of_image.start_period,
        health.start_interval or of_image.start_interval or START_INTERVAL,
        health.retries or of_image.retries or RETRIES,
    )


def _of_image(config: Mapping[str, object]) -> Health:
    """An image's words are a stranger's: what makes no sense is not there."""

    def span(name: str) -> float:
        value = config.get(name)
        seconds = value / 1e9 if isinstance(value, int) else 0.0
        return seconds if LEAST <= seconds < 1 << 31 else 0.0

    def pause(name: str) -> float:
        return max(seconds, LEAST_OF_IMAGE) if (seconds := span(name)) else 0.0

    test, retries = config.get("Test"), config.get("Retries")
    words = test if isinstance(test, list) and all(isinstance(w, str) for w in test) else []
    return Health(
        tuple(words) if words and words[0] in ("NONE", "CMD", "CMD-SHELL") else (),
        pause("Interval"),
        span("Timeout"),
        span("StartPeriod"),
        pause("StartInterval"),
        retries if isinstance(retries, int) and 0 < retries < 1 << 31 else 0,
    )


def pause_before(check: Check, state: State, running: float) -> float:
    """Seconds to the next probe of a machine that has been running for so long."""
    if running < check.start_period and state.status == "starting":
        return check.start_interval
    return check.interval


def after(check: Check, state: State, answer: Answer, started: float) -> State:
    """What an answer makes of the state."""
    log = (*state.log, answer)[-LOG:]
    if answer.code == 0:
        return State("healthy", 0, log)
    if state.status == "starting" and answer.start - started < check.start_period:
        return State("starting", state.streak, log)
    streak = state.streak + 1
    return State("unhealthy" if streak >= check.retries else state.status, streak, log)
