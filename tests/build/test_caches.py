"""Cache mounts: who has them, and who waits for whom."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cove.build.dockerfile.mounts import Mount as Wish
from cove.engine.builds.caches import sharing_of, taken, volume_of
from tests.build.conftest import Build
from tests.build.test_builds import says
from tests.driver import Cove

GUARD = 120
"""Seconds, against hanging."""


def wish(cache: str, sharing: str = "locked") -> Wish:
    return Wish("cache", id=cache, sharing=sharing)


def test_who_waits_for_a_cache_has_none_that_comes_after_it(tmp_path: Path) -> None:
    home: Any = SimpleNamespace(root=str(tmp_path))
    low, high = sorted("ab", key=volume_of)
    waits, done = threading.Event(), threading.Event()

    def other() -> None:
        with taken(home, [wish(high), wish(low)], waits.set) as names:
            assert names == {low: volume_of(low), high: volume_of(high)}
        done.set()

    thread = threading.Thread(target=other, daemon=True)
    with taken(home, [wish(low)], lambda: None):
        thread.start()
        assert waits.wait(GUARD)
        begun = threading.Timer(GUARD, waits.clear)
        begun.start()

        def gone() -> None:
            assert waits.is_set(), "the other has what it does not need yet"

        with taken(home, [wish(high)], gone):
            assert not done.is_set()
        begun.cancel()
    assert done.wait(GUARD)
    thread.join()


def test_of_several_ways_to_have_a_cache_one_serves_all() -> None:
    wishes = [wish("a", ""), wish("b", "private"), wish("a", "shared"), wish("c", "shared"),
              wish("b", "locked"), wish("c", "private")]  # fmt: skip
    assert sharing_of(wishes) == {"a": "shared", "b": "locked", "c": "private"}


def test_a_private_cache_is_another_ones_while_it_is_held(tmp_path: Path) -> None:
    home: Any = SimpleNamespace(root=str(tmp_path))
    base = volume_of("a")

    def mine() -> Any:
        return taken(home, [wish("a", "private"), wish("a", "private")], pytest.fail)

    with mine() as one, mine() as two:
        assert (one["a"], two["a"]) == (base, f"{base}-1")
    with taken(home, [wish("a", "shared")], pytest.fail) as one, mine() as two:
        assert (one["a"], two["a"]) == (base, f"{base}-1")


@pytest.mark.usefixtures("tidied")
def test_caches_in_opposite_orders_and_twice(cove: Cove, build: Build) -> None:
    def run(*ids: str) -> str:
        mounts = [f"--mount=type=cache,id={one},sharing=locked,target=/{n}" for n, one in
                  enumerate(ids)]  # fmt: skip
        return f"RUN {' '.join(mounts)} touch /1/said; echo $N >>/0/said && cat /1/said >/seen\n"

    text = f"""\
FROM bb AS one
ENV N=1
{run("a", "b", "a") * 3}
FROM bb AS two
ENV N=2
{run("b", "a", "b") * 3}
FROM bb
RUN --mount=type=cache,id=a,sharing=locked,target=/x \\
    --mount=type=cache,id=a,sharing=locked,target=/y,readonly \\
    echo both >/x/f && cat /y/f >/got && ! touch /y/g
COPY --from=one /seen /one
COPY --from=two /seen /two
"""
    build(text, "-t", "caches", timeout=GUARD)
    assert says(cove, "caches", "cat /got") == "both\n"


@pytest.mark.usefixtures("tidied")
def test_what_a_step_made_anew_takes_the_place_of_what_it_made(cove: Cove, build: Build) -> None:
    """Of a stage of which no image has a layer: no layer is there without something that has it."""
    text = """\
FROM bb AS one
RUN cat /proc/sys/kernel/random/uuid >/f
FROM bb
COPY --from=one /bin/busybox /other
"""
    build(text, "-t", "anew")
    (before,) = cove.root.glob("roots/l*/f")
    build(text, "-t", "anew", "--no-cache")
    (after,) = cove.root.glob("roots/l*/f")
    assert after != before
