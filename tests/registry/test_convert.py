"""``cove image convert``: another form of the same image, which skopeo reads and cove pulls."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.conftest import need
from tests.driver import Cove, kill_process, wait_until
from tests.images.tars import Tar
from tests.kernel.test_faults_images import command_line
from tests.registry.depots import Depot
from tests.registry.registries import Fake, FakeImage, Fault, body, digest, status
from tests.registry.test_copy import multi, raw
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]


@pytest.fixture
def depot() -> Iterator[Depot]:
    server = Depot()
    try:
        yield server
    finally:
        server.close()


def convert(cove: Cove, *words: str, code: int = 0) -> str:
    done = cove("image", "convert", *words, code=code)
    return done.err if code else done.out


def test_there_and_back(fresh: Cove, fake: Fake, plain: str, tmp_path: Path) -> None:
    """Docker's form with gzip, OCI's with zstd: the config is the same, so is the image."""
    need("skopeo")
    source, (image, _, _) = multi(fake)
    one = ("--platform", "linux/amd64")
    convert(fresh, *one, "--format", "docker", source, f"{plain}/forms:docker")
    docker = json.loads(raw(plain, "forms:docker"))
    assert docker["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert [layer["digest"] for layer in docker["layers"]] == [
        layer["digest"] for layer in image.document["layers"]
    ]  # gzip it was, and is
    assert {layer["mediaType"] for layer in docker["layers"]} == {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    }
    convert(fresh, "--compression", "zstd", "--format", "oci", f"{plain}/forms:docker",
            f"oci:{tmp_path}/zstd:1")  # fmt: skip
    oci = json.loads(subprocess.check_output(["skopeo", "inspect", "--raw",
                                              f"oci:{tmp_path}/zstd:1"]))  # fmt: skip
    assert {layer["mediaType"] for layer in oci["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    }
    assert oci["config"]["digest"] == docker["config"]["digest"] == digest(image.config)
    for form in ("gzip", "none"):
        convert(fresh, "--compression", form, f"oci:{tmp_path}/zstd:1", f"{plain}/forms:{form}")
        fresh("pull", "-q", "--platform", "linux/amd64", f"{plain}/forms:{form}")
    found = fresh("image", "inspect", "-f", "{{.Id}}", f"{plain}/forms:none", f"{plain}/forms:gzip")
    assert set(found.out.split()) == {digest(image.config)}
    layers = json.loads(raw(plain, "forms:none"))["layers"]
    assert [layer["digest"] for layer in layers] == [digest(tar) for tar in image.tars]
    assert os.listdir(fresh.root / "tmp") == []


def test_an_index_with_all_it_holds(fresh: Cove, fake: Fake, depot: Depot) -> None:
    source, images = multi(fake)
    convert(fresh, "-a", "--compression", "zstd", source, f"{depot.host}/x:1")
    index = json.loads(depot.manifests["/v2/x/manifests/1"][1])
    amd, arm, note = (
        depot.manifests[f"/v2/x/manifests/{one['digest']}"][1] for one in index["manifests"]
    )
    assert arm == images[1].manifest and note == images[2].manifest  # zstd it was; no image
    assert amd != images[0].manifest
    assert {layer["mediaType"][-4:] for layer in json.loads(amd)["layers"]} == {"zstd"}
    assert index["manifests"][0]["platform"] == {"architecture": "amd64", "os": "linux"}
    before = depot.manifests["/v2/x/manifests/1"]
    convert(fresh, "-a", "--compression", "zstd", f"{depot.host}/x:1", f"{depot.host}/x:2")
    assert depot.manifests["/v2/x/manifests/2"] == before
    said = convert(fresh, "-a", "--format", "docker", "--compression", "gzip", source,
                   f"{depot.host}/x:3", code=125)  # fmt: skip
    assert "it holds what is no image" in said


def test_what_cannot_be(fresh: Cove, fake: Fake, depot: Depot) -> None:
    image = FakeImage([Tar().file("f", b"x" * 100_000).data()])
    source, target = fake.add("no:1", image), f"{depot.host}/x:1"
    assert "into what?" in convert(fresh, source, target, code=125)
    said = convert(fresh, "--format", "docker", "--compression", "zstd", source, target, code=125)
    assert "Docker's form of an image has no zstd" in said
    assert 'no such compression: "xz"' in convert(
        fresh, "--compression", "xz", source, target, code=125
    )
    wrong = Tar().file("f", b"y" * 100_000).data()
    fake.fault(image.layer, body(wrong), body(wrong))
    said = convert(fresh, "--compression", "gzip", source, target, code=1)
    assert f"what comes as {image.layer} has the digest {digest(wrong)}" in said
    no_gzip = body(b"\x1f\x8b" + bytes(len(wrong) - 2))
    fake.fault(image.layer, no_gzip, no_gzip)
    said = convert(fresh, "--compression", "zstd", source, target, code=1)
    assert "its gzip stream is damaged" in said
    assert depot.manifests == {}
    assert os.listdir(fresh.root / "tmp") == []


def halting(event: threading.Event) -> Fault:
    """Half of the body, and the rest once ``event`` is set."""

    def fault(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])
        event.wait(180)
        request.wfile.write(data[len(data) // 2 :])
        return True

    return fault


def encoders(pid: int) -> list[int]:
    """The daemon's children that compress."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in file.read_text().split()]
    return [pid for pid in found if b"/encode.py\0" in command_line(pid)]


def pipes(pid: int) -> int:
    found = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return sum(name.startswith("pipe:") for name in found)


def test_an_encoder_that_is_killed(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    """Who decodes for it ends, too, although there is more than pipes hold; and all are closed."""
    image = FakeImage([Tar().file("f", os.urandom(9_000_000)).data()], pack=gzip.compress)
    source, dead = fake.add("big:1", image), threading.Event()
    words = ("--compression", "zstd", source, f"oci:{tmp_path}/big:1")
    fresh("images")
    pid = fresh.daemon_pid()
    before = pipes(pid)
    served = status(200, image.blobs[image.layer])
    fake.fault(image.layer, served, halting(dead))  # the first looks how it is compressed
    child = fresh.spawn("image", "convert", *words)
    try:
        wait_until(lambda: encoders(pid), "an encoder")
        kill_process(encoders(pid)[0])
    finally:
        dead.set()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1 and b"its process got signal 9" in err, err
    assert os.listdir(tmp_path) == []
    convert(fresh, *words)
    wait_until(lambda: pipes(pid) == before, "the pipes to be closed")
