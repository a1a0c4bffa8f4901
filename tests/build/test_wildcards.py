"""Sources of COPY and ADD that match nothing, several of them, and whose they are."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.build.test_builds import put, says
from tests.driver import Cove

pytestmark = pytest.mark.usefixtures("tidied")


@pytest.mark.parametrize("word", ["COPY", "ADD", "COPY --link", "COPY --chown=1:1 --chmod=600"])
def test_a_wildcard_may_match_nothing(cove: Cove, build: Build, tmp_path: Path, word: str) -> None:
    """Lock files of package managers, of which a project has one: BuildKit's AllowEmptyWildcard."""
    put(tmp_path, package="p", yarn="y")
    text = f"FROM bb\n{word} package yarn* pnpm-lock* sub[0]* /d/\n{word} no*thing /none/\n"
    build(text, "-t", "wild")
    assert says(cove, "wild", "ls /d; ls -d /non* || true").split() == ["package", "yarn"]
    assert build(text).err.count("CACHED") == 2


def test_a_wildcard_may_match_nothing_elsewhere(cove: Cove, build: Build, tmp_path: Path) -> None:
    (tmp_path / "other/d").mkdir(parents=True)
    text = (
        "FROM bb AS one\nRUN mkdir -p /d/e && touch /d/f\nFROM bb\n"
        "COPY --from=one /d/f /d/*.none /got/\nCOPY --from=there d/?* /got/\n"
        "COPY --parents d/*.none other/**/*.none /got/\n"
    )
    (tmp_path / "d").mkdir()
    build(text, "--build-context", f"there={tmp_path}/other", "-t", "wild")
    assert says(cove, "wild", "ls /got") == "f\n"


@pytest.mark.parametrize(
    "words",
    [
        "nofolder/*",
        "--parents nofolder/./*",
        "--parents none",
        "--from=one /nofolder/* /",
        "f none",
    ],
)
def test_what_is_no_wildcard_has_to_be_there(build: Build, tmp_path: Path, words: str) -> None:
    put(tmp_path, f="f")
    failed = build(f"FROM bb AS one\nFROM bb\nCOPY {words} /got/\n", code=1)
    assert "Dockerfile:3" in failed.err and " is not in " in failed.err


def test_folders_become_one(cove: Cove, build: Build, tmp_path: Path) -> None:
    """Without a slash behind the target, too, which files need."""
    for name in ("one", "two"):
        (tmp_path / name / "same").mkdir(parents=True)
        (tmp_path / name / "same" / name).touch()
    build("FROM bb\nCOPY one two /both\n", "-t", "both")
    assert says(cove, "both", "ls /both/same").split() == ["one", "two"]
    put(tmp_path, f="f")
    failed = build("FROM bb\nCOPY one f /both\n", code=1)
    assert "/both is no folder, and there are more sources than one" in failed.err


def test_an_archive_of_a_high_owner_says_whose_it_is(
    cove: Cove, build: Build, tmp_path: Path
) -> None:
    put(tmp_path, f="f")
    with tarfile.open(tmp_path / "high.tar", "w") as tar:
        info = tar.gettarinfo(tmp_path / "f", "d/f")
        info.uid, info.gid = 5, 89939
        tar.addfile(info, io.BytesIO(b"f"))
    failed = build("FROM bb\nADD high.tar /w/\n", code=1)
    assert "/w/d/f would be 89939's, and ids of a machine end at 65535" in failed.err
    assert "--chown" in failed.err and "Dockerfile:2" in failed.err
    build("FROM bb\nADD --chown=7:8 high.tar /w/\n", "-t", "low")
    assert says(cove, "low", "stat -c %u:%g /w/d/f") == "7:8\n"
