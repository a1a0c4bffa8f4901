"""A daemon that is killed while it takes away what nobody needs: images, the build cache, all that
a `system prune` does. What has a name or a machine is whole, what goes is gone or whole, and the
next collection leaves nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.test_build_crash import rooms
from tests.build.test_handing_crash import LONG, STRIDE, settled, walked
from tests.driver import Cove, wait_until
from tests.kernel.test_walks import Crashing

COARSE = 1 if STRIDE == 1 else 3 * STRIDE
"""Of what has many steps, and much to make good after each."""
TEXT = """\
FROM bb AS tool
RUN --mount=type=cache,target=/cache echo tool >>/cache/f && tail -n 1 /cache/f >/tool
FROM bb
COPY f /f
COPY --from=tool /tool /tool
"""
SAID = "f\ntool\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(TEXT)
    (place / "f").write_text("f\n")
    return place


def built(cove: Cove, context: Path, where: str) -> None:
    """What is left of the cache is used, or made anew."""
    cove("build", "-t", "walked", str(context))
    assert cove("run", "--rm", "walked", "cat", "/f", "/tool").out == SAID, where


@LONG
def test_a_daemon_killed_at_any_step_of_a_prune_of_the_cache(
    fresh_cove: Cove, context: Path, tmp_path: Path
) -> None:
    cove = fresh_cove
    cove("run", "--rm", "host", "true")
    before = rooms(cove)
    built(cove, context, "")
    cove("rmi", "walked")
    begin, words = "cove.engine.builds.collecting:_prune", ("builder", "prune", "-af")
    for number, where in enumerate(walked(cove, begin, words, tmp_path / "where")):
        settled(cove, where)
        if number % 2:
            built(cove, context, where)
            cove("rmi", "walked")
        cove("builder", "prune", "-af")
        wait_until(lambda: rooms(cove) == before, f"left by one killed at {where}")
        assert cove("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}").out.endswith(
            "Build Cache 0 0B\n"
        ), where
        built(cove, context, where)
        cove("rmi", "walked")


@LONG
def test_a_daemon_killed_at_any_step_of_the_collector(
    fresh_cove: Cove, context: Path, tmp_path: Path
) -> None:
    """It begins behind a build, by itself: the image that was built is whole, its cache used."""
    cove, settings = fresh_cove, fresh_cove.root / "builder.json"
    cove("run", "--rm", "host", "true")
    before, report, last, steps = rooms(cove), tmp_path / "where", 1, 0
    died = True
    while died:
        settings.write_text('{"gc": {"enabled": false}}')
        cove("build", "-t", "other", "-", stdin="FROM bb\nRUN echo other >/other\n")
        cove("rmi", "other")
        kept = {one.name for one in cove.root.glob("roots/l*")}
        settings.write_text('{"gc": {"defaultMaxUsedSpace": "1"}}')
        cove.stop_daemon()
        daemon = Crashing(cove, last, report, "cove.engine.builds.collecting:_prune")
        cove("build", "-t", "walked", str(context), code=None)
        wait_until(
            lambda kept=kept: report.exists() or kept - {p.name for p in cove.root.glob("roots/l*")}
        )
        died = daemon.died()
        where = report.read_text() if died else "the end"
        settled(cove, where)
        assert cove("run", "--rm", "walked", "cat", "/f", "/tool").out == SAID, where
        assert "cannot" not in cove("build", "-t", "walked", str(context)).err, where
        cove("rmi", "walked")
        cove("builder", "prune", "-af")
        wait_until(lambda: rooms(cove) == before, f"left by one killed at {where}")
        last += STRIDE
        steps += died
    assert steps, "the walk never began"


# ---- images ----


@pytest.fixture
def archive(fresh_cove: Cove, tmp_path: Path) -> Iterator[Path]:
    """Of two images that share layers: one has another one, and all are labelled."""
    cove, text = fresh_cove, "FROM bb\nLABEL walked=1\nRUN echo shared >/shared\n"
    (tmp_path / "both").mkdir()
    for name, more in (("one", ""), ("two", "RUN echo own >/own\n")):
        cove("build", "-t", name, "-", stdin=text + more)
    cove("save", "-o", str(tmp_path / "both.tar"), "one", "two")
    cove("rmi", "one", "two")
    cove("builder", "prune", "-af")
    yield tmp_path / "both.tar"


def loaded(cove: Cove, archive: Path) -> str:
    """``two`` lost its name, ``one`` is what a machine is made of and has none but that; the id of
    the first.
    """
    cove("load", "-q", "-i", str(archive))
    lost = cove("image", "inspect", "-f", "{{.Id}}", "two").out.strip()
    cove("create", "--name", "user", "one", "cat", "/shared")
    cove("tag", "bb", "two")
    cove("rmi", "two")  # the name meant bb by then: what it was is dangling
    return lost


def ids(cove: Cove) -> set[str]:
    return set(cove("images", "-qa", "--no-trunc").out.split())


@LONG
@pytest.mark.parametrize("flags", ["-f", "-af"], ids=["dangling", "unused"])
def test_a_daemon_killed_at_any_step_of_a_prune_of_images(
    fresh_cove: Cove, archive: Path, tmp_path: Path, flags: str
) -> None:
    cove = fresh_cove
    cove("run", "--rm", "host", "true")
    before = rooms(cove)
    lost = loaded(cove, archive)
    words = ("image", "prune", flags, "--filter", "label=walked=1")
    for where in walked(cove, "cove.image.removing:prune", words, tmp_path / "where"):
        if lost in ids(cove):
            assert cove("run", "--rm", lost, "cat", "/shared", "/own").out == "shared\nown\n", where
        assert cove("start", "-a", "user").out == "shared\n", where
        cove(*words)
        assert lost not in ids(cove), where
        cove("rm", "user")
        cove(*words[:2], "-af", *words[3:])
        wait_until(lambda: rooms(cove) == before, f"left by one killed at {where}")
        said = cove("system", "check", code=None).out
        assert said.startswith("nothing was found"), f"{where}\n{said}"
        assert loaded(cove, archive) == lost


@LONG
def test_a_daemon_killed_at_any_step_of_a_prune_of_all(
    fresh_cove: Cove, archive: Path, context: Path, tmp_path: Path
) -> None:
    """Machines that ended, networks, volumes, images without a name and the build cache; what has a
    name of an image, or a machine that runs has, stays.
    """
    cove = fresh_cove
    cove("run", "--rm", "host", "true")
    before = rooms(cove)
    cove("run", "-d", "--name", "stays", "-v", "kept:/v", "bb", "sleep", "1d")
    (cove.root / "volumes/kept/_data/f").write_text("kept")
    words = ("system", "prune", "-f", "--volumes")

    def full() -> None:
        loaded(cove, archive)
        cove("run", "-v", "/anonymous", "bb", "true")
        built(cove, context, "before")
        cove("rmi", "walked")

    full()
    begin, report = "cove.engine.system.disk:system_prune", tmp_path / "where"
    for where in walked(cove, begin, words, report, stride=COARSE):
        names = cove("images", "--format", "{{.Repository}}").out.split()
        assert {"bb", "one"} <= set(names), where
        assert cove("exec", "stays", "cat", "/v/f").out == "kept", where
        cove(*words)
        assert cove("ps", "-a", "--format", "{{.Names}}").out == "stays\n", where
        assert cove("volume", "ls", "-q").out == "kept\n", where
        assert cove("run", "--rm", "one", "cat", "/shared").out == "shared\n", where
        cove("rmi", "one")
        after = {name: [one for one in found if one != "kept"] for name, found in before.items()}
        wait_until(
            lambda after=after: {k: [one for one in v if one != "kept"]
                                 for k, v in rooms(cove).items()} == after,
            f"left by one killed at {where}",
        )  # fmt: skip
        said = cove("system", "check", code=None).out
        assert said.startswith("nothing was found"), f"{where}\n{said}"
        full()
