"""One model: most scenarios are run for containers and for virtual machines, and docs/scenarios.md
says of each other one why not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.driver import ROOT
from tools import scenarios

SHARE = 85


def test_the_table_is_fresh() -> None:
    assert scenarios.TARGET.read_text() == scenarios.text(), "stale: run make docs"


def test_most_scenarios_are_shared() -> None:
    """As a run of all of them counts, and each that is not shared is in the table."""
    words = ["-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COVE_", "PYTEST_"))}
    env["COVE_TEST_VMS"] = "all"
    folders = ["tests/kernel", "tests/attack", "tests/networks", "tests/vm"]
    ran = subprocess.run(
        [sys.executable, *words, *folders], cwd=ROOT, env=env, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = r"(\d+) of (\d+) scenarios are shared .* and (\d+) run for both here \((\d+) for cont"
    told = re.search(said, ran.stdout)
    assert told, ran.stdout[-2000:]
    shared, whole, here, only = map(int, told.groups())
    assert shared * 100 >= whole * SHARE, told[0]
    assert here == shared, "a scenario does not run for virtual machines, and has no mark"
    marked = sum(len(list(scenarios.marked(file, "container_only"))) for file in scenarios.files())
    assert only == marked, "a scenario for containers only is not in the table"
