"""``cove pull`` and pulling on run, through the real command and its daemon."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.driver import Cove, new_cove, wait_until
from tests.images.tars import Tar
from tests.registry.registries import (
    INDEX,
    PASSWORD,
    USER,
    Fake,
    FakeImage,
    body,
    digest,
    push,
)


@pytest.fixture
def fresh() -> Iterator[Cove]:
    """A cove of this test's own, without images."""
    need_root()
    driver = new_cove()
    try:
        yield driver
        wait_until(lambda: os.listdir(driver.root / "tmp") == [])
    finally:
        driver.close()


@pytest.fixture(scope="module")
def bb(bb_tar: Path) -> FakeImage:
    """busybox, and more layers that take a moment."""
    more = [Tar().file(f"data{n}", os.urandom(2_000_000)).data() for n in range(4)]
    return FakeImage([bb_tar.read_bytes(), *more])


@pytest.fixture
def web(fake: Fake, bb: FakeImage) -> str:
    return fake.add("team/web:1", bb)


def last(image: FakeImage) -> str:
    return str(image.document["layers"][-1]["digest"])


# ---- pull ----


def test_what_pull_says(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    done = fresh("pull", web)
    name = digest(bb.manifest)
    downloaded = f"Digest: {name}\nStatus: Downloaded newer image for {web}\n{web}\n"
    assert done.out == downloaded
    lines = done.err.splitlines()
    assert lines[0] == "1: pulling from team/web"
    for layer in bb.document["layers"]:
        short = layer["digest"][7:19]
        stages = [line.partition(": ")[2] for line in lines if line.startswith(short)]
        assert stages[0] == "waiting" and stages[-1] == "pull complete"
    again = fresh("pull", web)
    assert again.out == downloaded.replace("Downloaded newer image", "Image is up to date")
    assert again.err == ""
    fresh("rmi", web)
    done = fresh("image", "pull", "-q", web)
    assert (done.out, done.err) == (f"{web}\n", "")
    fake.add("team/web", bb)
    done = fresh("pull", f"{fake.host}/team/web")
    assert done.out.startswith("Using default tag: latest\nDigest: ")
    listed = fresh("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").out
    assert f"{fake.host}/team/web 1 {name}" in listed.splitlines()
    assert json.loads(fresh("image", "inspect", web).out)[0]["RepoDigests"] == [
        f"{fake.host}/team/web@{name}"
    ]


def test_images_that_are_known_by_digest(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    """A row of their own without a tag, more with --digests, and Docker's lines when they go."""
    name, sha = f"{fake.host}/team/web", digest(bb.manifest)
    fresh("pull", "-q", f"{name}@{sha}")
    plain, full = "{{.Repository}} {{.Tag}}", "{{.Repository}} {{.Tag}} {{.Digest}}"

    def rows(form: str, *words: str) -> list[str]:
        lines = fresh("images", "--format", form, *words).out.splitlines()
        return [line for line in lines if not line.startswith("host")]

    assert rows(plain) == [f"{name} <none>"]
    assert rows(full) == [f"{name} <none> {sha}"]
    assert rows(plain, "--filter", "dangling=true") == [f"{name} <none>"]
    assert rows(plain, name) == [f"{name} <none>"] and rows(plain, "other") == []
    fresh("pull", "-q", web)
    fresh("tag", web, "mine:1")
    assert sorted(rows(full)) == sorted([f"{name} 1 {sha}", "mine 1 <none>"])
    assert rows(plain, "mine") == ["mine 1"]
    assert fresh("rmi", web).out == f"Untagged: {web}\nUntagged: {name}@{sha}\n"
    fresh("pull", "-q", web)
    assert fresh("rmi", f"{name}@{sha}").out == f"Untagged: {name}@{sha}\n"
    assert rows(full) == [f"{name} 1 <none>", "mine 1 <none>"]
    said = fresh("rmi", "mine:1", web).out.splitlines()
    assert said[:2] == ["Untagged: mine:1", f"Untagged: {web}"]
    assert len(said) == 3 + len(bb.tars) and said[2].startswith("Deleted: sha256:")
    fresh("pull", "-q", f"{name}@{sha}")
    said = fresh("image", "prune", "-f").out.splitlines()
    assert said[:2] == ["Deleted Images:", f"untagged: {name}@{sha}"]


def test_what_pull_refuses(fresh: Cove, fake: Fake, web: str) -> None:
    for words, message, code in (
        (("-a", web), "it names one", 125),
        (("--disable-content-trust=false", web), "cove checks digests, not signatures", 125),
        (("Web:1",), "must be lowercase", 125),
        (("host",), '"host" is built in', 125),
        ((f"{fake.host}/team/web:2",), "no such image", 1),
        (("--platform", "linux/s390x", web), "there is no image for linux/s390x", 1),
        (("localhost:1/web",), "localhost:1 cannot be reached: connection refused", 1),
    ):
        done = fresh("pull", *words, code=code)
        assert message in done.err, done.err
        assert "Digest" not in done.out


def test_all_tags(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    small = FakeImage([Tar().file("other").data()])
    fake.add("team/web:2", small)
    name = f"{fake.host}/team/web"
    fake.pages("team/web", [["1"], ["2"]])
    done = fresh("pull", "-a", "--disable-content-trust", name)
    assert done.out == (
        f"{name}:1: {digest(bb.manifest)}\n{name}:2: {digest(small.manifest)}\n"
        f"Status: Downloaded newer image for {name}\n{name}\n"
    )
    assert fresh("images", "--format", "{{.Tag}}", name).out.split() == ["1", "2"]
    again = fresh("pull", "--all-tags", "-q", name)
    assert (again.out, again.err) == (f"{name}\n", "")
    assert f"Status: Image is up to date for {name}\n" in fresh("pull", "-a", name).out


def test_a_pull_is_an_event(fresh: Cove, web: str) -> None:
    fresh("pull", "-q", web)
    form = "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}"
    words = ("--since", "1h", "--until", "0s", "--filter", "event=pull", "--format", form)
    assert fresh("events", *words).out == f"pull {web} {web.removesuffix(':1')}\n"


@pytest.mark.parametrize("words", ['{"tags": [5]}', '{"tags": ["../x"]}', "[]", "{"])
def test_a_hostile_list_of_tags(fresh: Cove, fake: Fake, web: str, words: str) -> None:
    fake.fault("/tags/list", body(words.encode()))
    done = fresh("pull", "-a", f"{fake.host}/team/web", code=1)
    assert "it is no list of tags" in done.err


def test_a_list_of_tags_without_end(fresh: Cove, fake: Fake, web: str) -> None:
    fake.pages("team/web", [["1"]] * 200)
    done = fresh("pull", "-a", f"{fake.host}/team/web", code=1)
    assert "more than 100 pages" in done.err
    done = fresh("pull", "-a", f"{fake.host}/team/none", code=1)
    assert "no such image" in done.err


def test_the_same_over_http(fresh: Cove, web: str) -> None:
    fresh("ps")
    host = {"COVE_HOST": f"unix://{fresh.root}/run/api.sock"}
    assert "Downloaded newer" in fresh("pull", web, env=host).out
    done = fresh("pull", "localhost:1/web", env=host, code=1)
    assert "connection refused" in done.err


def test_logins_of_docker(fresh: Cove, basic: str, layout: Path, tmp_path: Path) -> None:
    name = f"{basic}/login/web:1"
    push(f"oci:{layout}:1.0", name, "--dest-creds", f"{USER}:{PASSWORD}")
    done = fresh("pull", name, code=1, env={"HOME": str(tmp_path)})
    assert "access denied" in done.err
    coded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {basic: {"auth": coded}}}))
    fresh("pull", name, env={"DOCKER_CONFIG": str(tmp_path)})
    (tmp_path / ".docker").mkdir()
    (tmp_path / "config.json").rename(tmp_path / ".docker/config.json")
    fresh("rmi", name)
    fresh("pull", "-q", name, env={"HOME": str(tmp_path)})


def test_two_at_once(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    fresh("ps")
    both = [fresh.spawn("pull", web) for _ in range(2)]
    for one in both:
        out, err = one.communicate(timeout=180)
        assert one.returncode == 0, err
        assert b"Status: " in out
    for layer in bb.document["layers"]:
        assert fake.count(layer["digest"]) == 1


def test_bars_on_a_terminal(fresh: Cove, web: str, bb: FakeImage) -> None:
    fresh("ps")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (40, 100))
    child = fresh.spawn("pull", web, stdout=slave, stderr=slave, stdin=slave)
    os.close(slave)
    shown = b""
    try:
        while select.select([master], [], [], 180)[0]:
            shown += os.read(master, 65536)
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
    assert child.wait(180) == 0
    child.stdout, child.stderr = None, None
    for layer in bb.document["layers"]:
        assert layer["digest"][7:19].encode() + b": pull complete" in shown
    assert b"\x1b[" in shown and b"Status: Downloaded" in shown


# ---- run ----


def test_run_pulls_what_is_missing(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    done = fresh("run", "--rm", web, "echo", "hello")
    assert done.out == "hello\n"
    assert done.err.startswith(f'cove: cannot find image "{web}" locally: pulling it\n')
    assert f"Status: Downloaded newer image for {web}\n" in done.err
    before = len(fake.requests)
    assert fresh("run", "--rm", web, "echo", "again").err == ""
    assert len(fake.requests) == before, "an image that is here asks nobody"
    assert "up to date" in fresh("run", "--rm", "--pull", "always", web, "true").err
    done = fresh("run", "--rm", "--pull", "always", "-q", web, "true")
    assert (done.out, done.err) == ("", "")
    fresh("rmi", web)
    done = fresh("run", "--rm", "--pull", "never", web, "true", code=125)
    assert f'cannot find image "{web}"' in done.err and "pulling" not in done.err
    made = fresh("create", "--name", "made", web, "true")
    assert "pulling" in made.err and len(made.out) == 65
    moved = FakeImage([*bb.tars, Tar().file("new").data()])
    fake.add("team/web:1", moved)
    assert fresh("run", "--rm", "--pull", "always", web, "ls", "/new").out == "/new\n"
    fresh("rm", "made")


def test_run_for_a_platform(fresh: Cove, fake: Fake, bb: FakeImage) -> None:
    """What is here for another platform is as good as missing."""
    other = "arm64" if bb.here != "arm64" else "amd64"
    foreign = FakeImage(bb.tars, architecture=other)
    entries = [
        bb.descriptor(architecture=bb.here, os="linux"),
        foreign.descriptor(architecture=other, os="linux"),
    ]
    for image in (bb, foreign):
        fake.add("both", image)
    web = fake.put("both:1", INDEX, json.dumps({"manifests": entries, "schemaVersion": 2}).encode())
    fresh("pull", web)
    done = fresh("run", "--rm", "--platform", f"linux/{bb.here}", web, "echo", "here")
    assert (done.out, done.err) == ("here\n", "")
    done = fresh("create", "--platform", f"linux/{other}", web)
    assert f'cannot find image "{web}" for linux/{other} locally: pulling it' in done.err
    shown = json.loads(fresh("image", "inspect", web).out)[0]
    assert shown["Architecture"] == other
    done = fresh("create", "--platform", f"linux/{bb.here}", "--pull", "never", web, code=125)
    assert f"it is an image for linux/{other}" in done.err
    done = fresh("run", "--platform", f"linux/{other}", "host", "true", code=125)
    assert "cannot run host as" in done.err
    fresh("rm", fresh("ps", "-aq").out.strip())


def test_run_of_what_is_nowhere(fresh: Cove, fake: Fake, web: str, tmp_path: Path) -> None:
    for image, message in (
        (f"{fake.host}/team/no:1", "no such image"),
        ("localhost:1/web", "connection refused"),
        ("sha256:0123456789ab", 'cannot find image "sha256:0123456789ab"'),
        ("0" * 64, "cannot find image"),
    ):
        done = fresh("run", "--rm", "--cidfile", f"{tmp_path}/id", image, "true", code=125)
        assert message in done.err, done.err
        assert not (tmp_path / "id").exists()
    assert "`host`" in fresh("run", "localhost:1/web", code=125).err
    assert fresh("ps", "-aq").out == ""


# ---- ends in the middle: see test_resume too ----


def test_a_full_disk(fake: Fake, tmp_path: Path) -> None:
    need_root()
    image = FakeImage([Tar().file("big", os.urandom(40 << 20)).data()])
    reference = fake.add("big:1", image)
    place = Path(f"/tmp/cove-full-{os.getpid()}")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", place], check=True)
    driver = Cove(place / "s")
    try:
        done = driver("pull", reference, code=None)
        assert done.returncode in (1, 125)
        assert "no space left" in done.err, done.err
        assert driver("images", "-q").out.split() == ["host"]
        wait_until(lambda: os.listdir(driver.root / "tmp") == [])
    finally:
        driver.close()
        subprocess.run(["umount", place], check=True)
        place.rmdir()
