"""Mounts of steps and what builds do to them at the same time: CVE-2024-23651, -23652 and -23653 of
BuildKit, tried for real.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.driver import Cove

pytestmark = pytest.mark.usefixtures("tidied")
GUARD = 240
"""Seconds, against hanging."""

SWAP = """\
FROM bb
RUN --mount=type=cache,id=race,target=/c cd /c && touch go; echo swapping; until [ -e stop ]; do \\
    rm -rf d new; ln -s {mark} new; mv -T new d; rm -rf d; \\
    ln -s ../../../../../../../..{mark} new; mv -T new d; rm -rf d; \\
    mkdir -p real/sub real/b; mv -T real d; mv -T d real; done 2>/dev/null; rm -rf /c/*
"""
MOUNT = """\
FROM bb AS files
RUN mkdir /f
FROM bb
RUN --mount=type=cache,id=race,target=/c until [ -e /c/go ] || [ -e /c/stop ]; do :; done
RUN --mount=type=cache,id=race,target=/c --mount=type=tmpfs,target=/c/d/sub \\
    --mount=type=bind,from=files,source=/f,target=/c/d/b,rw \\
    touch /c/d/sub/{n} /c/d/b/{n} /c/d/{n}; :
"""


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host, which stays as it is."""
    top = tmp_path / "mark"
    for name in ("sub", "b", "empty"):
        (top / name).mkdir(parents=True)
    (top / "b" / "precious").write_text("mine")
    before = sorted(top.rglob("*"))
    yield top
    assert sorted(top.rglob("*")) == before
    assert (top / "b" / "precious").read_text() == "mine"


def test_a_cache_that_is_swapped_while_it_is_mounted_in(
    cove: Cove, tmp_path: Path, mark: Path
) -> None:
    """One build makes a folder of a shared cache a link out of it, and back, again and again, and
    others mount into it. They may fail; nothing of the host is made, mounted over or removed.
    """

    def run(text: str, code: int | None) -> str:
        tar = ("build", "--no-cache", "--progress=plain", "-")
        return cove(*tar, stdin=text.encode(), code=code, timeout=GUARD).err

    stop = "FROM bb\nRUN --mount=type=cache,id=race,target=/c touch /c/stop\n"
    failed = []

    def swap() -> None:
        """Nobody waits for one that has not begun."""
        try:
            text = run(SWAP.format(mark=mark), None)
            if "swapping\n" not in text:
                failed.append(text)
        except BaseException as error:
            failed.append(repr(error))
        if failed:
            run(stop, None)

    swapping = threading.Thread(target=swap, daemon=True)
    swapping.start()
    try:
        said = [run(MOUNT.format(n=number), None) for number in range(8)]
    finally:
        run(stop, 0)
        swapping.join(GUARD)
    assert not swapping.is_alive() and not failed, failed
    assert not any("bug:" in one or "Traceback" in one for one in said)
    assert all(f"touch /c/d/sub/{number}" in one for number, one in enumerate(said)), said


def test_a_mount_point_that_leads_out_afterwards_takes_nothing_away(
    build: Build, cove: Cove, mark: Path
) -> None:
    """Neither through a link that was there before, nor one that a step puts in their place."""
    text = (
        f"FROM bb\nRUN ln -s {mark} /x && mkdir -p /y/b\n"
        "RUN --mount=type=tmpfs,target=/x/empty --mount=type=cache,id=stub,target=/x/sub "
        "--mount=type=bind,source=Dockerfile,target=/y/b/new "
        f"touch /x/empty/a /x/sub/a; mv /y /y2; rm -rf /y; ln -s {mark} /y; :\n"
    )
    build(text, "-t", "stubs")
    assert cove("run", "--rm", "stubs", "readlink", "/x").out.strip() == str(mark)


def test_a_step_has_no_more_rights_for_the_asking(build: Build) -> None:
    failed = build("FROM bb\nRUN --security=insecure true\n", code=1)
    assert "RUN --security=insecure is not allowed" in failed.err and "Dockerfile:2" in failed.err


def test_a_part_of_a_cache_is_refused_by_name(build: Build) -> None:
    for words in ("source=sub", "source=../.."):
        text = f"FROM bb\nRUN --mount=type=cache,id=part,{words},target=/c ls /c\n"
        failed = build(text, code=1)
        assert "source= of a cache mount is not supported without from=" in failed.err
    build("FROM bb\nRUN --mount=type=cache,id=part,source=/,target=/c ls /c\n")


def test_a_layer_that_the_cache_has_anew_is_not_kept(build: Build) -> None:
    """Nobody has the one before when its build made no image: ``tidied`` looks for it."""
    for _ in range(2):
        build("FROM bb\nRUN date +%N >/f\nRUN false\n", "--no-cache", code=1)
