"""Images that commands have for themselves alone: caches, and results that are only asked for as
files. They go with the last command that has one, and with the daemon; never under another.
"""

from __future__ import annotations

import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cove.image.holding import NOBODY, holders, put, release, release_all
from cove.store.db import Store
from cove.store.records import ImageRecord
from tests.build.conftest import images_of
from tests.build.test_builds import wait_for_line
from tests.driver import Cove

IMAGE = ImageRecord("sha256:" + "ab" * 32, {}, (), 0, 1.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "s") as opened:
        yield opened


# ---- who has what ----


def test_it_goes_with_the_last_who_has_it(store: Store) -> None:
    for holder in ("one", "two", "one"):
        put(store, IMAGE, holder)
    assert release(store, "one") == () and release(store, "one") == ()
    assert store.image(IMAGE.id) is not None
    assert [gone.image for gone in release(store, "two")] == [IMAGE.id]
    assert store.images() == [] and release(store, "two") == ()


def test_what_somebody_wants_for_everybody_stays(store: Store) -> None:
    put(store, IMAGE)
    put(store, IMAGE, "late")  # it was there before
    assert release(store, "late") == ()
    held = ImageRecord("sha256:" + "cd" * 32, {}, (), 0, 1.0)
    put(store, held, "one")
    put(store, held)
    named = ImageRecord("sha256:" + "ef" * 32, {}, (), 0, 1.0)
    put(store, named, "one")
    store.tag("docker.io/library/kept:latest", named.id)
    assert release(store, "one") == ()
    assert {image.id for image in store.images()} == {IMAGE.id, held.id, named.id}
    assert not any(image.holders for image in store.images())


def test_what_a_verb_is_at_work_with_goes_with_who_has_it_next(store: Store) -> None:
    """An equal build has made it, and not yet said that it has it."""
    put(store, IMAGE, "one")
    with store.pinned(IMAGE.id):
        assert release(store, "one") == ()
        assert holders(store.image(IMAGE.id), "two") == ("two",)
        left = store.image(IMAGE.id)
        assert left is not None and left.holders == (NOBODY,)
        put(store, IMAGE, "two")
    assert [gone.image for gone in release(store, "two")] == [IMAGE.id]


def test_the_next_daemon_takes_all_away(store: Store) -> None:
    put(store, IMAGE, "one")
    put(store, IMAGE, "two")
    with store.pinned(IMAGE.id):
        release(store, "one")
        release(store, "two")
    release_all(store)
    assert store.images() == []


# ---- two builds ----

TEXT = "FROM bb\nRUN head -c 4096 /dev/urandom >/random\nCOPY . /c/\n"


class Stalling:
    """A registry that has nothing, and says so when it is let."""

    def __init__(self) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        stalling = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stalling.asked.set()
                stalling.let.wait()
                self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.place = f"127.0.0.1:{self.server.server_port}/nothing"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.let.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def stalls() -> Iterator[tuple[Stalling, Stalling]]:
    pair = Stalling(), Stalling()
    yield pair
    for one in pair:
        one.close()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(TEXT)
    return place


@pytest.fixture
def doors(context: Path) -> Iterator[list[Path]]:
    """For ``--iidfile``: a build goes no further until somebody reads its id. That it is so far is
    told by what it says of a socket in its context.
    """
    found = [context.parent / name for name in "ab"]
    for door in found:
        os.mkfifo(door)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(context / "end"))
        yield found
    for door in found:  # who still waits, of a test that failed
        os.close(os.open(door, os.O_RDONLY | os.O_NONBLOCK))


SO_FAR = b" is a socket, which no image holds"


@pytest.mark.usefixtures("tidied")
def test_a_cache_stays_until_the_last_build_that_has_it_ends(
    cove: Cove, context: Path, tmp_path: Path, stalls: tuple[Stalling, Stalling]
) -> None:
    cache = f"{tmp_path}/cache"
    cove("build", "-t", "made", "--cache-to", f"type=local,dest={cache},mode=max", str(context))
    cove("rmi", "made")
    cove("builder", "prune", "-af")
    before = images_of(cove)
    words = ("build", "--progress=plain", "--cache-from")
    source = f"type=local,src={cache}"
    first = cove.spawn(*words, stalls[0].place, "--cache-from", source, "-t", "a", str(context))
    assert stalls[0].asked.wait(180)
    second = cove.spawn(*words, source, "--cache-from", stalls[1].place, "-t", "b", str(context))
    assert stalls[1].asked.wait(180)
    assert len(images_of(cove)) == len(before) + 1, "the second one has it"
    for build, stall in zip((first, second), stalls, strict=True):
        stall.let.set()
        _, said = build.communicate(timeout=180)
        assert build.returncode == 0 and said.count(b"CACHED") == 2, said.decode()
        assert said.count(b"cannot use cache") == 1, said.decode()
        cove("builder", "prune", "-af")
    assert len(images_of(cove)) == len(before) + 1, "a and b are one; the cache is gone"


@pytest.mark.usefixtures("tidied")
def test_a_result_stays_until_the_last_build_that_writes_it_ends(
    cove: Cove, context: Path, doors: list[Path]
) -> None:
    before = images_of(cove)
    builds = []
    for door in doors:
        words = ("build", "--iidfile", str(door), "-o", f"type=oci,dest={door}.tar", str(context))
        builds.append(cove.spawn(*words))
        wait_for_line(builds[-1], SO_FAR)
    (made,) = set(images_of(cove)) - set(before)
    for build, door in zip(builds, doors, strict=True):
        assert made in images_of(cove)
        assert door.read_text() == made
        _, said = build.communicate(timeout=180)
        assert build.returncode == 0, said.decode()
        with tarfile.open(f"{door}.tar") as archive:
            assert f"blobs/{made.replace(':', '/')}" in archive.getnames()
    assert images_of(cove) == before


@pytest.mark.usefixtures("tidied")
def test_what_another_build_keeps_is_not_taken_away(
    cove: Cove, context: Path, doors: list[Path]
) -> None:
    """Without a name, but into the store."""
    before = images_of(cove)
    words = ("--iidfile", str(doors[0]), "-o", f"type=oci,dest={doors[0]}.tar")
    build = cove.spawn("build", *words, str(context))
    wait_for_line(build, SO_FAR)
    kept = cove("build", "-q", str(context)).out.strip()
    assert doors[0].read_text() == kept
    _, said = build.communicate(timeout=180)
    assert build.returncode == 0, said.decode()
    assert images_of(cove) == [kept, *before]
