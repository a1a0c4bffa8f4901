"""One daemon for this folder, with a state directory of its own; nothing of it may be left at the
end: no process, control group, mount or file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cove.engine import calls
from cove.engine.engine import Engine
from tests.conftest import need_root, open_cove
from tests.driver import Cove, Done, new_cove
from tests.leaks import check_nothing_left


@contextlib.contextmanager
def closed_cove(
    bb_tar: Path, isolation: str = "container", *, network: str = "none"
) -> Iterator[Cove]:
    with open_cove(bb_tar, isolation, network=network) as driver:
        yield driver
    check_nothing_left(driver.root)


@contextlib.contextmanager
def open_engine(bb_tar: Path) -> Iterator[Engine]:
    """An engine in this process, with image ``bb``; needs root."""
    need_root()
    root = new_cove().root
    restart = (sys.executable, "-P", "-m", "cove.daemon", "--root", str(root))
    environment = {"PATH": os.environ["PATH"]}
    with Engine.open(str(root), restart=restart, environment=environment, lock_fd=None) as made:
        with open(bb_tar, "rb") as file:
            list(made.image_import(calls.ImageImport("bb"), calls.Call(body=file.fileno())))
        yield made
    check_nothing_left(root)
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def cove(bb_tar: Path, isolation: str) -> Iterator[Cove]:
    """Shared by the tests of this folder that do not harm the daemon."""
    with closed_cove(bb_tar, isolation) as driver:
        yield driver


@pytest.fixture
def fresh_cove(bb_tar: Path, isolation: str) -> Iterator[Cove]:
    """A test's own, to be killed and crashed."""
    with closed_cove(bb_tar, isolation) as driver:
        yield driver


Machine = Callable[..., Done]


@pytest.fixture
def machine(cove: Cove) -> Machine:
    """``machine("id", flags=("-u", "ada"))``: a command in an ephemeral machine of its own."""

    def run(*words: str, flags: tuple[str, ...] = (), image: str = "bb", **options: object) -> Done:
        return cove("run", "--rm", *flags, image, *words, **options)  # type: ignore[arg-type]

    return run
