"""The static program, built once per state of its sources and kept between runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.driver import ROOT
from tests.native.monitors import Monitors
from tests.native.plans import Launcher
from tools.build_init import build


def _fingerprint() -> str:
    """Of every source's name and text, and of how they are built."""
    found = hashlib.sha256()
    for file in (*sorted((ROOT / "init").iterdir()), ROOT / "tools/build_init.py"):
        found.update(f"{file.name}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def built(name: str, *, sanitize: bool) -> Path:
    """The program of this state of the sources; one process builds, the others wait for it."""
    cache = Path(tempfile.gettempdir()) / f"cove-tests-{os.geteuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    if cache.stat().st_uid != os.geteuid():
        raise RuntimeError(f"{cache} is another user's")
    binary = cache / f"{name}-{_fingerprint()}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            # Another run may still be at work with the one before.
            for old in sorted(cache.glob(f"{name}-*"), key=os.path.getmtime)[:-8]:
                old.unlink()
            build(binary, sanitize=sanitize)
    return binary


@pytest.fixture(scope="session")
def init_binary() -> Path:
    return built("init", sanitize=False)


@pytest.fixture(scope="session")
def sanitized_binary() -> Path:
    """With ASan and UBSan: any error of memory ends it with a report."""
    return built("sanitized", sanitize=True)


@pytest.fixture
def monitors(init_binary: Path, tmp_path: Path) -> Iterator[Monitors]:
    """A forker and the monitors it makes, as root."""
    need_root()
    with closing(Monitors(init_binary, tmp_path)) as made:
        yield made


@pytest.fixture
def launcher(init_binary: Path, tmp_path: Path) -> Launcher:
    """Runs hand-written plans as root."""
    need_root()
    return Launcher(init_binary, tmp_path)
