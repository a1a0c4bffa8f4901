"""A daemon that is killed before any of the effects of a pull: nothing is lost that was whole, and
nothing stays that nobody needs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.images.tars import Tar
from tests.kernel.test_walks import Crashing
from tests.registry.registries import Fake, FakeImage
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]

STRIDE = 1 if os.environ.get("COVE_WALK") == "all" else 12
"""Every step takes two starts of a daemon; ``COVE_WALK=all`` walks them all."""


def own_layers(cove: Cove) -> list[str]:
    """Other than the built-in image's."""
    found = (cove.root / "roots").glob("l*")
    return sorted(path.name for path in found if list(path.glob("walked*")))


@pytest.mark.timeout(900 if STRIDE > 1 else 7200)
def test_a_daemon_killed_at_any_step_of_a_pull(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    image = FakeImage(
        [Tar().file(f"walked{n}", os.urandom(1_200_000)).data() for n in range(2)]
        + [Tar().file("walked-small").data()]
    )
    web, report = fake.add("walk:1", image), tmp_path / "where"
    fresh("images")
    fresh.stop_daemon()
    last, steps, resumed = 1, 0, 0
    while True:
        daemon = Crashing(fresh, last, report, "cove.image.pulling:_pull")
        done = fresh("pull", web, code=None)
        if not daemon.died():
            assert done.returncode == 0, done.err
            break
        where = report.read_text()
        names = fresh("images", "--format", "{{.Repository}}:{{.Tag}}").out.split()
        assert set(names) in ({"host:built-in"}, {"host:built-in", web}), where
        before = len(fake.requests)
        assert fresh("pull", "-q", web).out == f"{web}\n", where
        resumed += sum("range" in headers for _, _, headers in fake.requests[before:])
        assert len(own_layers(fresh)) == 3, where
        assert os.listdir(fresh.root / "partial") == [], where
        wait_until(lambda: os.listdir(fresh.root / "tmp") == [], where)
        assert fresh("image", "inspect", "-f", "{{len .RootFS.Layers}}", web).out == "3\n", where
        fresh("rmi", web)
        wait_until(lambda: own_layers(fresh) == [], where)
        assert fresh("image", "prune", "-f").out == "Total reclaimed space: 0B\n", where
        fresh.stop_daemon()
        last += STRIDE
        steps += 1
    fresh("images")  # a daemon that sweeps what the last one was ended in the middle of
    assert steps > 3, "the walk never began"
    assert resumed or STRIDE > 1


def test_a_daemon_killed_when_all_was_there(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    """The next pull has nothing to fetch, and still puts away what the last one kept."""
    web, report = fake.add("walk:2", FakeImage([Tar().file("walked").data()])), tmp_path / "where"
    fresh("images")
    fresh.stop_daemon()
    daemon = Crashing(fresh, 1, report, "cove.image.leftovers:end")
    fresh("pull", web, code=None)
    assert daemon.died() and "db.py" in report.read_text()
    assert fresh("pull", "-q", web).out == f"{web}\n"
    fresh("rmi", web)
    wait_until(lambda: own_layers(fresh) == [], "the layer goes with its image")
