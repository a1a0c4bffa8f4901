"""A daemon that is killed while a build takes caches or brings them away, or while its result is
written: who reads finds the whole thing, the one before, or none, and the same build again leaves
nothing but its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.test_build_crash import rooms, swept
from tests.driver import Cove, wait_until
from tests.kernel.test_walks import Crashing
from tests.registry.registries import docker_registry

STRIDE = int(os.environ.get("COVE_WALK", "16").replace("all", "1"))
"""Every step takes two starts of a daemon; ``COVE_WALK=all`` walks them all."""
LONG = pytest.mark.timeout(900 if STRIDE > 8 else 7200)
TEXT = """\
FROM bb AS tool
RUN echo tool >/tool
FROM bb
COPY f /f
COPY --from=tool /tool /tool
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(TEXT)
    (place / "f").write_text("f")
    return place


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("caches")) as host:
        yield host


def walked(
    cove: Cove, begin: str, words: tuple[str, ...], report: Path, *, stride: int = STRIDE
) -> Iterator[str]:
    """Kills a daemon at one effect after another of the command, until it comes to its end; gives
    where it was, to who makes all of it good again.
    """
    last, steps = 1, 0
    while True:
        cove.stop_daemon()
        daemon = Crashing(cove, last, report, begin)
        done = cove(*words, code=None)
        if not daemon.died():
            assert done.returncode == 0, done.err
            break
        yield report.read_text()
        steps += 1
        last += stride
    assert steps, "the walk never began"


def settled(cove: Cove, where: str) -> None:
    """Nothing is had by a command that is no more."""
    wait_until(lambda: not cove("ps", "-aq").out, f"the end of a step's machine: {where}")
    wait_until(lambda: swept(cove), f"an empty tmp: {where}")
    names = cove("images", "-a", "--format", "{{.Repository}}").out.split()
    assert set(names) <= {"bb", "host", "walked"}, where
    said = cove("system", "check", code=None).out
    assert said.startswith("nothing was found"), f"{where}\n{said}"


def whole(layout: Path) -> list[str]:
    """The digests of a layout's manifests, all of whose blobs are what they are called."""
    index = json.loads((layout / "index.json").read_text())
    found = []
    for path in (layout / "blobs/sha256").iterdir():
        done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == path.name
    for one in index["manifests"]:
        data = json.loads((layout / "blobs" / one["digest"].replace(":", "/")).read_text())
        for blob in (data["config"], *data["layers"]):
            path = layout / "blobs" / blob["digest"].replace(":", "/")
            assert path.stat().st_size == blob["size"]
        found.append(one["digest"])
    return found


def forget(cove: Cove) -> None:
    cove("rmi", "-f", "walked", code=None)
    cove("builder", "prune", "-af")


@LONG
def test_caches_that_are_brought_away(
    fresh_cove: Cove, context: Path, registry: str, tmp_path: Path
) -> None:
    """A directory is the cache of before or that of now at every moment, a name the same."""
    cove, place = fresh_cove, tmp_path / "out/cache"
    name = f"{registry}/cache:1"
    to = ("--cache-to", f"type=local,dest={place},mode=max", "--cache-to",
          f"type=registry,ref={name},mode=max", "--cache-to", "type=inline")  # fmt: skip
    words = ("build", *to, "-t", "walked", str(context))
    place.parent.mkdir()
    cove(*words)
    for number, where in enumerate(
        walked(cove, "cove.cli.builds.cache:hand_out", words, tmp_path / "where")
    ):
        assert len(whole(place)) == 1, where
        settled(cove, where)
        forget(cove)
        source = f"type=local,src={place}" if number % 2 else f"type=registry,ref={name}"
        said = cove("build", "--progress=plain", "--cache-from", source, *words[1:]).err
        assert said.count("CACHED") == 3 and "cannot use cache" not in said, f"{where}\n{said}"
        assert len(whole(place)) == 1 and os.listdir(place.parent) == ["cache"], where
        settled(cove, where)
        cove("rmi", "walked")  # the next one knows other keys, and says so within it


@LONG
def test_a_cache_that_is_brought_for_the_first_time(
    fresh_cove: Cove, context: Path, tmp_path: Path
) -> None:
    cove, place = fresh_cove, tmp_path / "out/cache"
    words = ("build", "--cache-to", f"type=local,dest={place}", "-t", "walked", str(context))
    place.parent.mkdir()
    cove(*words)
    for where in walked(cove, "cove.cli.builds.cache:hand_out", words, tmp_path / "where"):
        assert not place.exists() or whole(place), where
        cove(*words)
        assert whole(place) and os.listdir(place.parent) == ["cache"], where
        settled(cove, where)
        subprocess.run(["rm", "-r", place], check=True)


@LONG
@pytest.mark.parametrize("kind", ["local", "registry"])
def test_caches_that_are_taken(
    fresh_cove: Cove, context: Path, registry: str, tmp_path: Path, kind: str
) -> None:
    """What a killed build was given is forgotten with it."""
    cove, place = fresh_cove, tmp_path / "cache"
    name = f"{registry}/taken:1"
    to = f"type=local,dest={place}" if kind == "local" else f"type=registry,ref={name}"
    source = f"type=local,src={place}" if kind == "local" else f"type=registry,ref={name}"
    cove("build", "--cache-to", f"{to},mode=max", "-t", "walked", str(context))
    forget(cove)
    cove("run", "--rm", "host", "true")
    before = rooms(cove)
    words = ("build", "--progress=plain", "--cache-from", source, "-t", "walked", str(context))
    for where in walked(cove, "cove.cli.builds.cache:_load", words, tmp_path / "where"):
        settled(cove, where)
        forget(cove)
        wait_until(lambda: rooms(cove) == before, f"left by one killed at {where}")
        said = cove(*words).err
        assert said.count("CACHED") == 3, f"{where}\n{said}"
        settled(cove, where)
        forget(cove)
        wait_until(lambda: rooms(cove) == before, f"left after one killed at {where}")


@LONG
@pytest.mark.parametrize("kind", ["local", "tar", "oci", "layout"])
def test_results_as_files(fresh_cove: Cove, context: Path, tmp_path: Path, kind: str) -> None:
    """A file or a layout is whole or not there, and replaced in one step. A directory of files is
    written into as it is, and is whole once the build has come to its end.
    """
    cove, place = fresh_cove, tmp_path / "out"
    place.mkdir()
    target = place / "result"
    how = "type=oci,tar=false" if kind == "layout" else f"type={kind}"
    words = ("build", "--output", f"{how},dest={target}", str(context))
    cove(*words)
    if kind == "layout":
        subprocess.run(["rm", "-r", target], check=True)
    for where in walked(cove, "cove.cli.builds.output:write", words, tmp_path / "where"):
        if kind != "local":
            assert not target.exists() or is_whole(kind, target), where
        if kind == "layout" and target.exists():
            subprocess.run(["rm", "-r", target], check=True)
        cove(*words)
        assert is_whole(kind, target) and os.listdir(place) == ["result"], where
        if kind == "layout":
            subprocess.run(["rm", "-r", target], check=True)
        settled(cove, where)


def is_whole(kind: str, target: Path) -> bool:
    if kind == "layout":
        return bool(whole(target))
    if kind == "local":
        return (target / "tool").read_text() == "tool\n" and (target / "f").read_text() == "f"
    with tarfile.open(target) as tar:
        names = {one.name.removeprefix("./") for one in tar}
    return {"tool", "f"} <= names if kind == "tar" else "index.json" in names
