"""Every Dockerfile of the corpus is read as its golden says; ``make golden`` rewrites them."""

from __future__ import annotations

import difflib

import pytest

from cove.build.dockerfile.file import INSTRUCTIONS
from cove.build.dockerfile.flags import KNOWN
from cove.build.lint.rules import RULES
from tests.build.recorded import Case, Planned, cases, goldens, plans

CASES = list(cases())
PLANS = list(plans())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_dockerfile_is_read_as_recorded(case: Case) -> None:
    have, want = case.text(), case.golden.read_text() if case.golden.exists() else ""
    diff = difflib.unified_diff(want.splitlines(), have.splitlines(), case.golden.name, "read now")
    assert have == want, "\n".join(["read the diff, then: make golden", *diff])


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.case.name)
def test_a_build_is_planned_as_recorded(plan: Planned) -> None:
    have, want = plan.text(), plan.golden.read_text() if plan.golden.exists() else ""
    diff = difflib.unified_diff(want.splitlines(), have.splitlines(), plan.golden.name, "now")
    assert have == want, "\n".join(["read the diff, then: make golden", *diff])


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.case.name)
def test_the_name_of_a_case_says_whether_a_build_is_refused(plan: Planned) -> None:
    assert plan.case.name.startswith("refused-") is plan.text().startswith("cove: ")


@pytest.mark.parametrize("rule", RULES)
def test_every_warning_is_in_the_corpus(rule: str) -> None:
    texts = [plan.golden.read_text() for plan in PLANS]
    assert any(f"\n{rule}: " in text for text in texts)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_name_of_a_case_says_whether_it_is_an_error(case: Case) -> None:
    assert case.name.startswith("error-") is case.text().startswith("cove: ")


def test_no_golden_is_left_over() -> None:
    assert goldens() - {case.golden for case in (*CASES, *PLANS)} == set()


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_instruction_is_in_the_corpus(name: str) -> None:
    assert any(f" {name} {{" in case.golden.read_text() for case in CASES)


@pytest.mark.parametrize(("name", "flag"), [(n, f) for n, flags in KNOWN.items() for f in flags])
def test_every_flag_is_in_the_corpus(name: str, flag: str) -> None:
    lines = [line for case in CASES for line in case.source.read_text().splitlines()]
    assert any(line.upper().startswith(name) and f"--{flag}" in line for line in lines)
