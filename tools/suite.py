"""Runs the whole suite, as ``make test`` does.

    python tools/suite.py [WORDS FOR PYTEST…]

Six thousand tests kill processes at moments that a busy host chooses. Where at most ``FEW`` fail,
each is run once more, alone: one that passes then is told by name as *unsteady*, with what it said,
and does not fail the run; one that fails twice does. More than ``FEW``, an error outside of a test
or an interrupt are never tried again.

One daemon serves the tests of a file: what harms it once is told by each test after, hence a dozen.

The files that took longest are listed: that is where time is to be won.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

FEW = 12
FAILED = 1
"""pytest's exit code when tests failed, and nothing else did."""


def run(words: list[str], report: Path) -> int:
    argv = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-o", "junit_family=xunit1"]
    return subprocess.run([*argv, *words], check=False).returncode


def failed_in(report: Path) -> list[str]:
    """Their node ids, each once: a test and its tear-down may both have failed."""
    found: dict[str, None] = {}
    for case in ET.parse(report).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            inner = case.get("classname", "").removeprefix(_module(case)).lstrip(".")
            name = "::".join([*filter(None, inner.split(".")), case.get("name", "")])
            found[f"{case.get('file')}::{name}"] = None
    return list(found)


def _module(case: ET.Element) -> str:
    return case.get("file", "").removesuffix(".py").replace("/", ".")


def longest(report: Path, count: int = 20) -> list[tuple[float, str]]:
    """The files that took most, in seconds."""
    spent: defaultdict[str, float] = defaultdict(float)
    for case in ET.parse(report).iter("testcase"):
        spent[case.get("file", "")] += float(case.get("time", 0))
    return sorted(((seconds, name) for name, seconds in spent.items()), reverse=True)[:count]


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        code = run(sys.argv[1:] or ["tests"], report)
        for seconds, name in longest(report) if report.exists() else ():
            print(f"{seconds:7.1f} s  {name}")
        failed = failed_in(report) if code == FAILED else []
        if not 0 < len(failed) <= FEW:
            return code
        again = {test: run([test], report) for test in failed}
    for test, code in again.items():
        print(f"{'UNSTEADY: failed once, passed alone' if code == 0 else 'FAILED TWICE'}: {test}")
    return max(again.values())


if __name__ == "__main__":
    sys.exit(main())
