"""The runner of the whole suite: every file once, failures told and tried again."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.driver import ROOT, wait_until
from tools.suite import FAILED, LONG, PASSED, Lanes, failed_in, shares


def test_every_test_file_is_in_one_share() -> None:
    files = [file for share in shares(ROOT / "tests") for file in share]
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(files) == len(set(files)) and set(files) == found
    assert all(share for share in shares(ROOT / "tests"))


def test_what_takes_longest_comes_first() -> None:
    begun = shares(ROOT / "tests")[: len(LONG)]
    assert begun[2] == ("tests/networks/test_crash.py",)
    folders = [share[0].split("/")[1] for share in shares(ROOT / "tests")[len(LONG) :]]
    assert folders == sorted(folders, key=folders.index) and folders[0] == "vm"


GOOD = "def test_good() -> None:\n    pass\n"
BAD = "def test_bad() -> None:\n    assert not 'this'\n"


def told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], **files: str
) -> tuple[int, list[str], str]:
    for name, text in files.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    todo = [(str(tmp_path / f"test_{name}.py"),) for name in files]
    (tmp_path / "reports").mkdir()
    code = Lanes(todo, tmp_path / "reports", lanes=2).run()
    return code, failed_in(tmp_path / "reports"), capfd.readouterr().out


def test_lanes_that_pass(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, failed, out = told(tmp_path, capfd, one=GOOD, two=GOOD, none="")
    assert (code, failed) == (PASSED, [])
    assert out.count("1 passed") == 2 and len(out.splitlines()) == 3


def test_a_failure_in_one_lane(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, failed, out = told(tmp_path, capfd, one=GOOD, two=BAD + GOOD)
    assert code == FAILED and "assert not 'this'" in out
    assert [test.partition("::")[2] for test in failed] == ["test_bad"]


def test_what_is_worse_than_a_failure_is_not_hidden(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dies = "import os\ndef test_dies() -> None:\n    os.kill(os.getpid(), 9)\n"
    code, _, out = told(tmp_path, capfd, one=BAD, two=dies)
    assert code == -9 and "exit code -9" in out


WAITS = """import pathlib, time
def test_waits() -> None:
    try:
        pathlib.Path({began!r}).touch()
        time.sleep(600)
    finally:
        pathlib.Path({tidied!r}).touch()
"""
LANE = "import pathlib, sys; from tools.suite import Lanes; "
LANE += "Lanes([(f,) for f in sys.argv[2:]], pathlib.Path(sys.argv[1]), lanes=1).run()"


def test_an_interrupt_ends_what_runs_and_begins_no_more(tmp_path: Path) -> None:
    began, tidied = tmp_path / "began", tmp_path / "tidied"
    files = [tmp_path / f"test_{name}.py" for name in ("first", "second")]
    files[0].write_text(WAITS.format(began=str(began), tidied=str(tidied)))
    files[1].write_text(GOOD)
    runner = subprocess.Popen([sys.executable, "-c", LANE, tmp_path, *files], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    wait_until(began.exists, "the first file")
    runner.send_signal(signal.SIGINT)
    out, err = runner.communicate(timeout=120)
    assert runner.returncode == -signal.SIGINT and b"KeyboardInterrupt" in err
    assert tidied.exists() and b"test_second" not in out
