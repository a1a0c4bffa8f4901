"""The rate of the time stamp counter, which an emulated guest must be told."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86 CPU")
def test_the_counter_is_measured_the_same_twice(init_binary: Path) -> None:
    def measured() -> int:
        done = subprocess.run([init_binary, "tsc"], capture_output=True, text=True, check=True)
        return int(done.stdout)

    first, second = measured(), measured()
    assert 100_000 < first < 20_000_000
    assert abs(first - second) < first / 1000
