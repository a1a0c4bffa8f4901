"""The images of our own Dockerfiles are those that buildah makes: config field by field, layers and
roots entry by entry, less the differences that are listed with their reasons.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.build.dockerfile.file import INSTRUCTIONS
from cove.build.dockerfile.flags import KNOWN
from tests.build.beside import (
    Buildah,
    build_ours,
    cases,
    differing,
    images,
    listed,
    make_context,
)
from tests.conftest import need, need_root
from tests.driver import Cove

ELSEWHERE = {
    ("ADD", "checksum"): "of what comes from the web: tests/build/test_builds.py",
    ("ADD", "keep-git-dir"): "of git repositories",
    ("FROM", "platform"): "of another CPU's image: the corpus says what is planned",
    ("RUN", "device"): "refused by name: the corpus",
    ("RUN", "security"): "refused by name: the corpus",
}
"""What is not compared, and where it is tried."""


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory, where it may be: vfs copies the root at each step. buildah wants a short path."""
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        try:
            os.setxattr(memory, "user.tried", b"")
        except OSError:  # before Linux 6.6
            memory = stack.enter_context(tempfile.TemporaryDirectory())
        yield Path(memory)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("tidied")
def test_images_are_as_buildah_makes_them(cove: Cove, place: Path) -> None:
    need_root()
    need("buildah")
    version = subprocess.check_output(["buildah", "--version"], text=True)
    if " 1.28." not in version:  # no skip, which is a failure where builds must be tried
        pytest.xfail(
            f"the differences are those of Debian 12's buildah 1.28, not {version.strip()}"
        )
    buildah, context = Buildah(place), place / "context"
    buildah.begin(cove)
    make_context(context)
    known, used, new = listed(), set(), []
    for case in cases():
        ours, theirs = build_ours(cove, case, context, place), buildah.build(case, context)
        for where, one, other in differing(*images(case, ours, theirs)):
            fitting = [each for each in known if each.fits(case, where, one, other)]
            used.update(fitting)
            if not fitting:
                new.append(f"{case.name}: {where}: {one} | {other}")
    assert new == [], "mend cove, or list it in differences.toml\n" + "\n".join(new)
    assert [each for each in known if each not in used] == [], "no longer true: take them away"


def words() -> list[str]:
    return [line for case in cases() for line in case.ours.read_text().splitlines()]


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_instruction_is_compared(name: str) -> None:
    assert any(line.startswith(f"{name} ") for line in words())


@pytest.mark.parametrize(("name", "flag"), [(n, f) for n, flags in KNOWN.items() for f in flags])
def test_every_flag_is_compared_or_tried_elsewhere(name: str, flag: str) -> None:
    found = any(line.startswith(f"{name} ") and f"--{flag}" in line for line in words())
    assert found is not ((name, flag) in ELSEWHERE)
