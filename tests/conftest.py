"""Fixtures every folder shares. A skip names the missing fact; where COVE_MUST_RUN names the folder
of the test, a skip is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from tests.driver import ROOT, Cove, busybox_tar, end_spawned, front_path, new_cove
from tests.foreign import other_busybox, other_probe, other_tar
from tests.leaks import no_leaks
from tests.shared import (
    give_guests,
    guests_at_end,
    isolation,
    pytest_collection_finish,
    pytest_generate_tests,
    pytest_terminal_summary,
)

__all__ = [
    "guests_at_end",
    "isolation",
    "no_leaks",
    "other_busybox",
    "other_probe",
    "other_tar",
    "pytest_collection_finish",
    "pytest_generate_tests",
    "pytest_terminal_summary",
]

# A loaded host must not fail a test; what CI tries is the same every time.
settings.register_profile("any host", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("any host")

# Daemons that this process itself starts, by the Python API, make no bridges in the host's network.
os.environ["COVE_DEFAULT_NETWORK"] = "none"

# A shell starts what it puts in the background with SIGINT and SIGQUIT ignored, nohup with SIGHUP
# ignored, and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)

# Images are made of files that the tests write: with a stricter one nobody but root could use them.
os.umask(0o022)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call" and call.excinfo is not None:
        end_spawned()
    must = set(filter(None, os.environ.get("COVE_MUST_RUN", "").split(",")))
    folder = item.path.relative_to(ROOT / "tests").parts[0]
    if report.skipped and folder in must and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but COVE_MUST_RUN has {folder}: {report.longrepr}"
    return report


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")


def need(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static program that tries what a hostile one would."""
    program = tmp_path_factory.mktemp("probe") / "probe"
    source = ROOT / "tests/probe/probe.c"
    subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True
    )
    return program


@pytest.fixture(scope="session")
def bb_tar(tmp_path_factory: pytest.TempPathFactory, probe: Path) -> Path:
    """The tar of image ``bb``: busybox and /bin/probe."""
    return busybox_tar(tmp_path_factory.mktemp("bb") / "bb.tar", extra={"bin/probe": probe})


@contextmanager
def open_cove(
    bb_tar: Path, isolation: str = "container", *, network: str = "none"
) -> Iterator[Cove]:
    """A cove with a state directory of its own and image ``bb``, which makes machines of that
    isolation; needs root.
    """
    need_root()
    front_path()
    driver = new_cove(isolation, network=network)
    try:
        driver("image", "import", str(bb_tar), "bb")
        if isolation == "vm":
            need(f"qemu-system-{os.uname().machine}")
            need("mkfs.erofs")
            give_guests(driver)
        yield driver
    finally:
        driver.close()


@pytest.fixture(scope="session")
def cove(bb_tar: Path, isolation: str) -> Iterator[Cove]:
    """Shared by all tests of the session."""
    with open_cove(bb_tar, isolation) as driver:
        yield driver


@pytest.fixture
def fresh_cove(bb_tar: Path, isolation: str) -> Iterator[Cove]:
    """A test's own, to be killed and crashed."""
    with open_cove(bb_tar, isolation) as driver:
        yield driver
