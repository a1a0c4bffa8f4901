"""The plan of each recorded case on each recorded host, as text; ``make golden`` rewrites them."""

from __future__ import annotations

import difflib

import pytest

from cove.plan import wire
from tests.golden.cases import HERE, Case, cases

CASES = list(cases())


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}/{c.host}")
def test_plan_is_the_golden_one(case: Case) -> None:
    have, want = case.text(), case.golden.read_text() if case.golden.exists() else ""
    diff = difflib.unified_diff(
        want.splitlines(), have.splitlines(), str(case.golden.relative_to(HERE)), "planned now"
    )
    assert have == want, "\n".join(["the plan changed; read the diff, then: make golden", *diff])


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}/{c.host}")
def test_every_op_says_why_and_survives_the_wire(case: Case) -> None:
    plan = case.plan()
    for part in (plan.host, plan.machine):
        assert [op for op in part if not op.why] == []
        assert wire.decode(wire.encode(part)) == part


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.name}/{c.host}")
def test_registers_are_filled_before_they_are_used(case: Case) -> None:
    """As the executor checks it: a machine has what the host had at clone3, and receives more."""
    plan = case.plan()
    known = {"-", "cgroup", "target", "stdin", "stdout", "stderr"}
    known |= {f"{kind}{i}" for kind in ("bind",) for i in range(8)}
    known |= {"hosts", "hostname", "resolv", "caller1000"}
    if case.name == "network-joined":
        known |= {"userns", "netns"}
    at_clone: set[str] = set()
    for op in plan.host:
        _use(op, known)
        if op.NAME in ("clone3", "clone3_in"):
            at_clone = set(known)
        if op.NAME == "id_map":
            known.add("userns")
    for op in plan.machine:
        _use(op, at_clone)
    pairs = ((plan.host, plan.machine), (plan.machine, plan.host))
    for one, other in pairs:
        sent = [len(op.words()) for op in one if op.NAME == "send"]
        assert sent == [len(op.words()) for op in other if op.NAME == "recv"]
    assert [op.NAME for op in plan.machine].index("execve") == len(plan.machine) - 1


def _use(op: object, known: set[str]) -> None:
    for name, letter, repeated in op.FIELDS:  # type: ignore[attr-defined]
        value = getattr(op, name)
        words = value if repeated else (value,)
        if letter == "f":
            assert set(words) <= known, op
        elif letter == "F":
            known.update(words)


COLD = {
    "limits": "--shm-size: it is mounted ahead",
    "network-host": "a network namespace is made ahead",
    "network-joined": "namespaces are made ahead, and these are there",
    "privileged": "no user namespace, sysfs is writable",
    "sysctls": "/proc/sys becomes read-only ahead",
    "unconfined": "nothing is masked",
    "userns-host": "no user namespace",
}
"""The cases that begin otherwise than a plain machine, with the reason."""


@pytest.mark.parametrize("case", [c for c in CASES if c.is_machine], ids=lambda c: c.name)
def test_a_plan_begins_with_what_was_run_ahead(case: Case) -> None:
    plan, ahead, plain = case.plan(), case.ahead(), case.plain_ahead()
    assert plan.host[: len(ahead.host)] == ahead.host
    assert plan.machine[: len(ahead.machine)] == ahead.machine
    assert (ahead == plain) is (case.name not in COLD)
    assert "execve" not in [op.NAME for op in ahead.machine]


def test_no_golden_is_left_over() -> None:
    wanted = {case.golden for case in CASES}
    assert set(HERE.glob("*/*.plan")) - wanted == set()


def test_a_guest_is_the_same_on_every_host() -> None:
    """What happens in it depends on its own CPU and kernel."""
    texts = {path.read_text() for path in HERE.glob("vm-guest-arm64/*.plan")}
    assert len(texts) == 1
