"""Fixtures of the front's tests: a front with a played daemon, and an end to patience."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.peer import Daemon, listening


@pytest.fixture(autouse=True, name="patience")
def played_patience() -> Iterator[None]:
    """A front that hangs fails its test."""

    def give_up(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.fixture(name="daemon")
def played_daemon(init_binary: Path) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cove-f-", dir="/tmp") as scratch:
        (Path(scratch) / "bin").mkdir()
        front = Path(scratch) / "bin/cove"
        shutil.copy(init_binary, front)
        with listening(Path(scratch) / "root", front) as daemon:
            yield daemon
