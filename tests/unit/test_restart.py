"""Restart policies decide as Docker's do, on paper."""

from __future__ import annotations

import pytest

from cove.errors import CoveError
from cove.spec.check import check_machine
from cove.spec.machine import MachineSpec
from cove.spec.restart import FIRST, MOST, Restart, again, parse_restart, with_host


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("", Restart()),
        ("no", Restart("no")),
        ("always", Restart("always")),
        ("unless-stopped", Restart("unless-stopped")),
        ("on-failure", Restart("on-failure")),
        ("on-failure:0", Restart("on-failure")),
        ("on-failure:5", Restart("on-failure", 5)),
    ],
)
def test_policies_are_read(text: str, policy: Restart) -> None:
    assert parse_restart(text) == policy
    assert parse_restart(str(policy)) == policy
    check_machine(MachineSpec("host", restart=policy))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("never", 'no policy is called "never"'),
        ("always:3", "only on-failure is told how often"),
        ("on-failure:", '"" is no number'),
        ("on-failure:-1", '"-1" is no number'),
        ("on-failure:1e3", '"1e3" is no number'),
        ("ALWAYS", 'no policy is called "ALWAYS"'),
    ],
)
def test_others_are_refused(text: str, reason: str) -> None:
    with pytest.raises(CoveError, match="cannot read restart policy") as found:
        parse_restart(text)
    assert reason in found.value.message


def test_what_makes_no_sense_together() -> None:
    for spec in (
        MachineSpec("host", remove=True, restart=Restart("always")),
        MachineSpec("host", restart=Restart("always", 3)),
        MachineSpec("host", restart=Restart("on-failure", -1)),
    ):
        with pytest.raises(CoveError, match="cannot use"):
            check_machine(spec)
    check_machine(MachineSpec("host", remove=True, restart=Restart("no")))


def decided(policy: str, code: int = 1, **said: float) -> float | None:
    facts = {"restarts": 0, "ran": 0.0, "delay": 0.0, "stopped": False} | said
    return again(parse_restart(policy), code=code, **facts)  # type: ignore[arg-type]


def test_who_is_started_again() -> None:
    assert decided("no") is None
    assert decided("on-failure", 0) is None and decided("on-failure", 137) == FIRST
    assert decided("on-failure:2", restarts=1) == FIRST
    assert decided("on-failure:2", restarts=2) is None
    assert decided("always", 0) == decided("unless-stopped", 0) == FIRST
    for policy in ("on-failure", "always", "unless-stopped"):
        assert decided(policy, stopped=True) is None


def test_the_delay_doubles_up_to_a_minute_and_begins_anew() -> None:
    delays = [FIRST]
    while delays[-1] < MOST:
        waited = decided("always", delay=delays[-1])
        assert waited is not None
        delays.append(waited)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0]
    assert decided("always", delay=MOST) == MOST
    assert decided("always", delay=MOST, ran=9.9) == MOST
    assert decided("always", delay=MOST, ran=10.0) == FIRST


def test_who_starts_with_the_host() -> None:
    assert with_host(Restart("always"), stopped=True)
    assert with_host(Restart("unless-stopped"), stopped=False)
    assert not with_host(Restart("unless-stopped"), stopped=True)
    assert not with_host(Restart("on-failure"), stopped=False)
    assert not with_host(Restart(), stopped=False)
