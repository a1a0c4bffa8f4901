"""The examples do what they say, run as users run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import need
from tests.driver import ROOT, Cove


def run(cove: Cove, name: str, *words: str, code: int = 0) -> str:
    program = [sys.executable, str(ROOT / "examples" / name), *words]
    done = subprocess.run(program, env=cove.env, capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_submissions_are_graded(cove: Cove) -> None:
    rows = [line.split() for line in run(cove, "grade.py").splitlines()]
    assert {row[0]: row[1] for row in rows} == {
        "ada": "OK",
        "bob": "WRONG",
        "cleo": "TIMEOUT",
        "dan": "MEMORY",
        "eve": "CRASH",
        "finn": "FORKBOMB",
        "gus": "OUTPUT",
    }


def test_a_verdict_comes_with_its_cause(cove: Cove) -> None:
    said = run(cove, "grade.py")
    assert "of 128 MiB" in said
    assert "killed by SIGSEGV" in said
    assert "at 16 processes" in said


def test_another_folder_is_graded(cove: Cove, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("7\n")
    (tmp_path / "expected.txt").write_text("14\n")
    (tmp_path / "zoe.py").write_text("print(int(input()) * 2)\n")
    assert run(cove, "grade.py", str(tmp_path)).split()[:2] == ["zoe", "OK"]


def test_a_hundred_snippets_run_at_once(cove: Cove) -> None:
    said = run(cove, "snippets.py", "100")
    assert said == "100 snippets: 80 printed, 10 out of memory, 10 failed\n"
    assert cove("ps", "-aq").out == ""


def test_a_build_leaves_its_artefact_and_nothing_else(cove: Cove) -> None:
    need("cc")
    need("make")
    said = run(cove, "buildenv.py")
    assert said.splitlines()[-2:] == ["hello: made", "built in a machine that is gone"]
    assert cove("ps", "-aq").out == ""


def test_a_build_that_fails_says_so(cove: Cove, tmp_path: Path) -> None:
    need("make")
    (tmp_path / "Makefile").write_text("hello:\n\tfalse\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/buildenv.py"), str(tmp_path)],
        env=cove.env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert "cannot exec test" in done.stderr
