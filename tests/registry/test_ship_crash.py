"""A daemon that is killed before any of the effects of a push, or of what takes images away: a
registry has the whole image under a name or nothing, and here nothing stays that nobody needs.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.images.tars import Tar
from tests.kernel.test_walks import Crashing
from tests.registry.depots import Depot
from tests.registry.registries import Fake, FakeImage
from tests.registry.test_convert import depot
from tests.registry.test_verbs import fresh

__all__ = ["depot", "fresh"]

STRIDE = 1 if os.environ.get("COVE_WALK") == "all" else 32
"""Every step takes two starts of a daemon; ``COVE_WALK=all`` walks them all."""
SOUND = "nothing was found"


@pytest.fixture
def pulled(fresh: Cove, fake: Fake) -> Iterator[tuple[Cove, str, FakeImage]]:
    """A cove with an image of a large layer and a small one."""
    tars = [Tar().file("walked0", os.urandom(1_200_000)).data(), Tar().file("walked1").data()]
    image = FakeImage(tars, pack=gzip.compress)
    yield fresh, fake.add("walk:1", image), image


def steps(fresh: Cove, begin: str, report: Path, words: tuple[str, ...]) -> Iterator[str]:
    """Kills a daemon at one effect after another until the command comes to its end; gives where
    it was. Who iterates begins the next daemon, and leaves things as they were before.
    """
    last = 1
    while True:
        fresh.stop_daemon()
        daemon = Crashing(fresh, last, report, begin)
        done = fresh(*words, code=None)
        if not daemon.died():
            assert done.returncode == 0, done.err
            fresh("images")  # a daemon that sweeps what the last one was ended in the middle of
            return
        yield report.read_text()
        last += STRIDE


def swept(cove: Cove, where: str) -> None:
    wait_until(lambda: os.listdir(cove.root / "tmp") == [], where)
    said = cove("system", "check", code=None).out
    assert said.startswith(SOUND), f"{where}\n{said}"


@pytest.mark.timeout(900 if STRIDE > 1 else 7200)
def test_a_daemon_killed_at_any_step_of_a_push(
    pulled: tuple[Cove, str, FakeImage], depot: Depot, tmp_path: Path
) -> None:
    fresh, web, image = pulled
    fresh("pull", "-q", web)
    name, place = f"{depot.host}/x:1", "/v2/x/manifests/1"
    fresh("tag", web, name)
    count = 0
    for where in steps(fresh, "cove.image.pushing:_push", tmp_path / "where", ("push", name)):
        assert depot.manifests.get(place, ("", b""))[1] in (b"", image.manifest), where
        if place in depot.manifests:
            assert image.blobs.items() <= depot.blobs.items(), where
        fresh("push", "-q", name)
        assert depot.manifests[place][1] == image.manifest, where
        assert image.blobs.items() <= depot.blobs.items(), where
        swept(fresh, where)
        depot.manifests.clear()
        depot.blobs.clear()
        count += 1
    assert count, "the walk never began"


@pytest.mark.timeout(900 if STRIDE > 1 else 7200)
def test_a_daemon_killed_at_any_step_of_a_removal(
    pulled: tuple[Cove, str, FakeImage], tmp_path: Path
) -> None:
    """What is killed in the middle is there whole, or gone; the next daemon sweeps."""
    fresh, web, image = pulled
    fresh("images")
    rooms = ("packed", "recipes", "blobs/sha256")
    empty = {name: sorted(os.listdir(fresh.root / name)) for name in rooms}
    fresh("pull", "-q", web)
    count = 0
    for where in steps(fresh, "cove.image.removing:remove", tmp_path / "where", ("rmi", web)):
        there = web in fresh("images", "--format", "{{.Repository}}:{{.Tag}}").out.split()
        if there:
            fresh("save", "-o", str(tmp_path / "saved"), web)
            fresh("rmi", web)
        fresh("image", "prune", "-f")
        swept(fresh, where)
        for name, before in empty.items():
            wait_until(
                lambda name=name, before=before: sorted(os.listdir(fresh.root / name)) == before,
                where,
            )
        fresh("pull", "-q", web)
        count += 1
    assert count, "the walk never began"
    assert len(image.blobs) == 3
