"""``--mount=type=cache`` that begins with something: files of a stage, an image or a context, an
owner and a mode.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.build.conftest import Build
from tests.build.test_builds import says
from tests.driver import Cove

pytestmark = pytest.mark.usefixtures("tidied")
GUARD = 60
"""Seconds, against hanging."""

FILES = """\
FROM bb AS files
RUN mkdir -p /top/sub && echo one >/top/sub/f && ln -s /top/sub /link && ln -s /../../etc /out \\
    && chown 7:8 /top/sub && chmod 2750 /top/sub && ln -s nowhere /top/sub/dangling
"""


def step(words: str, what: str) -> str:
    return f"RUN --mount=type=cache,{words},target=/c {what}\n"


def test_what_a_cache_begins_with(cove: Cove, build: Build, tmp_path: Path) -> None:
    """Once: what steps put there stays. Where it begins it is looked up inside what it comes of."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "g").write_text("of the context\n")
    named = tmp_path.parent / f"{tmp_path.name}-named"
    named.mkdir()
    (named / "n").write_text("named\n")
    stat = "stat -c '%u:%g %a' /c"
    text = (
        FILES
        + "FROM files\n"
        + step("id=a,from=files,source=top/sub", f"{stat} >/1; cat /c/f >>/1; echo two >>/c/f")
        + step("id=a,from=files,source=/top/sub/.", "cat /c/f >/2; readlink /c/dangling >>/2")
        + step("id=a,from=files,source=link,uid=1,gid=2,mode=0711", f"{stat} >/3; cat /c/f >>/3")
        + step("id=a,from=files,source=out", "test -e /c/group -o ! -e /c/shadow; ls /c >/4")
        + step("id=a,from=bb,source=bin,readonly", "ls /c | grep -x busybox >/5; ! touch /c/x")
        + step("id=a,from=ctx,sharing=locked", "cat /c/n >/6")
        + step("id=a", "ls -A /c >/7; touch /c/mine")
    )
    flags = ("--build-context", f"ctx={named}")
    build(text, "-t", "based", *flags)
    said = says(cove, "based", "for n in 1 2 3 5 6 7; do cat /$n; echo -; done").split("-\n")
    assert said[:3] == ["7:8 2750\none\n", "one\ntwo\nnowhere\n", "1:2 711\none\n"]
    assert said[3:6] == ["busybox\n", "named\n", ""]
    assert build(text, *flags).err.count("CACHED") == 8
    anew = text.replace("cat /c/f >/2", "cat /c/f >/2; : anew")
    build(anew, "-t", "based", *flags)
    assert says(cove, "based", "cat /2") == "one\ntwo\nnowhere\n"


def test_other_files_are_another_cache(cove: Cove, build: Build) -> None:
    """And make the step anew, which no cache does that begins with nothing."""

    def said(word: str) -> str:
        text = f"FROM bb AS one\nRUN mkdir /d && echo {word} >/d/f\nFROM bb\n" + step(
            "id=x,from=one,source=d", "cat /c/f >/said; echo more >>/c/f"
        )
        build(text, "-t", "other")
        return says(cove, "other", "cat /said")

    assert [said("a"), said("b")] == ["a\n", "b\n"]
    cove("builder", "prune", "-af", "--filter", "type=regular")
    assert [said("a"), said("b")] == ["a\nmore\n", "b\nmore\n"]


def test_another_owner_has_another_cache(build: Build) -> None:
    """Who may not write what somebody else's step made begins with one of his own."""
    text = (
        "FROM bb\n" + step("id=own", "touch /c/root")
        + "USER 7\n" + step("id=own,uid=7", "touch /c/mine && test ! -e /c/root")
        + step("id=own,uid=7,mode=0755,gid=0", "test -e /c/mine")
        + "USER 0\n" + step("id=own,uid=0,gid=0,mode=755", "test -e /c/root")
    )  # fmt: skip
    build(text)


@pytest.mark.parametrize("sharing", ["shared", "private", "locked"])
def test_all_who_come_at_once_find_the_whole(build: Build, sharing: str) -> None:
    """The one that makes it, and those that wait, share or have another."""
    stages = "".join(
        f"FROM bb AS s{n}\n"
        + step(
            f"id=at-once,from=files,source=many,sharing={sharing}",
            f"test $(ls /c | grep -c f) = 500 && touch /c/{n} /made",
        )
        for n in range(4)
    )
    copies = "".join(f"COPY --from=s{n} /made /{n}\n" for n in range(4))
    many = "FROM bb AS files\nRUN mkdir /many && cd /many && for n in $(seq 500); do : >f$n; done\n"
    build(f"{many}{stages}FROM bb\n{copies}")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("from=files,source=none", '"none" is not in stage 0'),
        ("from=files,source=top/sub/f", '"top/sub/f" of stage 0 is no directory'),
        ("from=files,source=../../../root/none", "is not in stage 0"),
        ("from=files,source=top/sub/dangling", "is not in stage 0"),
        ("from=ctx,source=out", '"out" is not in named ctx'),
        ("from=ctx,source=none", '"none" is not in named ctx'),
        ("from=scratch,source=sub", "is not supported without from="),
        ("from=later", "later"),
    ],
)
def test_what_no_cache_begins_with(
    cove: Cove, build: Build, tmp_path: Path, words: str, why: str
) -> None:
    """It is said where, and nothing is left of the cache."""
    named = tmp_path.parent / f"{tmp_path.name}-named"
    named.mkdir()
    os.symlink("/etc", named / "out")
    text = FILES + "FROM bb\n" + step(words, "ls /c") + "FROM bb AS later\n"
    failed = build(text, "--build-context", f"ctx={named}", "--target", "1", code=None)
    assert failed.returncode == 1 and why in failed.err and "Dockerfile:5" in failed.err, failed.err
    assert not cove("volume", "ls", "-q").out


def test_links_that_are_swapped_in_a_cache_lead_nowhere(
    cove: Cove, build: Build, tmp_path: Path
) -> None:
    """CVE-2024-23651, for caches that begin with a stage: one step makes links of its folders while
    others take the same cache, with and without a lock.
    """
    mark = tmp_path / "mark"
    (mark / "d").mkdir(parents=True)
    swaps = f"FROM bb AS files\nRUN mkdir -p /top/d && ln -s {mark} /top/l\nFROM bb\n" + step(
        "id=swap,from=files,source=top",
        "touch /c/go; n=0; while [ ! -e /c/stop ] && [ $n -lt 100000 ]; do n=$((n+1)); "
        f"rm -rf /c/d; ln -s {mark} /c/d; rm -f /c/d; mkdir /c/d; done 2>/dev/null",
    )
    takes = (
        f"FROM bb AS files\nRUN mkdir -p /top/d && ln -s {mark} /top/l\nFROM bb\n"
        + step("id=swap,from=files,source=top", "until [ -e /c/go ]; do :; done")
        + "".join(
            step(f"id=swap,from=files,source=top{more}", f"touch /c/d/{n} /c/l/{n}; :")
            for n, more in enumerate(("", "/d", "", "/."))
        )
        + step("id=swap,from=files,source=top", "touch /c/stop")
    )
    said: list[str] = []

    def run(text: str) -> None:
        said.append(cove("build", "--no-cache", "-", stdin=text.encode(), timeout=GUARD).err)

    other = threading.Thread(target=run, args=(swaps,), daemon=True)
    other.start()
    run(takes)
    other.join(GUARD)
    assert not other.is_alive() and len(said) == 2
    assert sorted(mark.rglob("*")) == [mark / "d"]
