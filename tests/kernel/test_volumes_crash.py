"""A daemon that is killed at any step of what it does to volumes; a disk that is full meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.driver import Cove
from tests.kernel.test_changes_crash import NAME, walk
from tests.kernel.test_walks import STRIDE
from tests.kernel.volumes import IMAGE, LISTING, make_image, sh, volumes
from tests.shared import no_scenario


def directories(cove: Cove) -> list[str]:
    return sorted(os.listdir(cove.root / "volumes"))


@no_scenario(
    "it kills the daemon between its steps: tests/vm walks through the steps of virtual machines"
)
@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_first_use(
    fresh_cove: Cove, bb_tar: Path, tmp_path: Path
) -> None:
    """The volume is empty or whole, the anonymous one is its machine's or gone."""
    cove, stride = fresh_cove, 1 if STRIDE == 1 else 4 * STRIDE
    make_image(cove, bb_tar, tmp_path)
    plain = sh(cove, LISTING, image=IMAGE)
    sized = "type=volume,source=sized,target=/etc,size=16m"
    words = ("create", "--name", NAME, "-v", "named:/data", "-v", "/own", "--mount", sized,
             IMAGE, "true")  # fmt: skip
    undo = ("rm", "-v", NAME)
    for where, told in walk(
        cove, tmp_path / "at", "cove.engine.machines.life:new_record", words, again=undo,
        stride=stride,
    ):  # fmt: skip
        made = NAME in cove("ps", "-a", "--format", "{{.Names}}").out
        assert made or not told, where
        kept = volumes(cove)
        assert directories(cove) == sorted(kept), where
        assert len([name for name in kept if len(name) == 64]) == made, where
        if "named" in kept:
            whole = os.listdir(cove.root / "volumes/named/_data")
            assert sorted(whole) in ([], ["deep", "file", "hard", "link", "sparse"]), where
            assert sh(cove, LISTING, "-v", "named:/data", image=IMAGE) == plain, where
        if os.path.exists(cove.root / "volumes/sized/image"):
            assert "passwd" in sh(cove, "ls /x", "-v", "sized:/x"), where
        cove("rm", "-v", NAME, code=None)
        cove("volume", "rm", "-f", "named", "sized")
        assert directories(cove) == [], where


@no_scenario(
    "it kills the daemon between its steps: tests/vm walks through the steps of virtual machines"
)
@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_removal(fresh_cove: Cove, tmp_path: Path) -> None:
    """A volume is there with all that is in it, or gone; so are those of a machine."""
    cove = fresh_cove

    def make() -> None:
        sh(cove, "echo kept > /x/f", "-v", "doomed:/x")

    make()
    words = ("volume", "rm", "doomed")
    steps = walk(cove, tmp_path / "at", "cove.engine.volumes.volumes:remove", words)
    for where, told in steps:
        kept = volumes(cove)
        assert directories(cove) == kept and not (told and kept), where
        if kept:
            assert sh(cove, "cat /x/f", "-v", "doomed:/x") == "kept\n", where
        make()
    words = ("rm", "-fv", NAME)
    create = ("create", "--name", NAME, "-v", "/own", "bb", "true")
    cove(*create)
    verb = "cove.engine.volumes.making:loosen"
    for where, told in walk(cove, tmp_path / "at", verb, words):
        there = bool(cove("ps", "-aq").out)
        assert len(volumes(cove)) == there + ("doomed" in volumes(cove)), where
        assert directories(cove) == volumes(cove) and not (told and there), where
        cove("rm", "-fv", NAME, code=None)
        cove(*create)
