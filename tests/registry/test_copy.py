"""``cove image copy``: what arrives is byte by byte what was there, nothing is sent twice, nothing
is stored; a source or target that lies is named, and no name is changed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import zstandard

from tests.conftest import need
from tests.driver import Cove
from tests.images.tars import Tar
from tests.registry.depots import Depot, say, take_part
from tests.registry.registries import (
    INDEX,
    MANIFEST,
    Fake,
    FakeImage,
    body,
    cut,
    digest,
    redirect,
    status,
)
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]

NOISE = os.urandom(9_000_000)
"""Of two chunks."""


@pytest.fixture
def depot() -> Iterator[Depot]:
    server = Depot()
    try:
        yield server
    finally:
        server.close()


def multi(fake: Fake, name: str = "multi:1") -> tuple[str, list[FakeImage]]:
    """An index of two images and what is none: a note of who built them."""
    layers = [Tar().file("a", b"a" * 70_000).data(), Tar().file("b", NOISE).data()]
    images = [
        FakeImage(layers, pack=gzip.compress, architecture="amd64"),
        FakeImage(layers[:1], pack=zstandard.ZstdCompressor().compress, architecture="arm64"),
    ]
    note = FakeImage([b"{}"])
    note.document["layers"][0]["mediaType"] = "application/vnd.in-toto+json"
    for image in (*images, note):
        fake.blobs |= image.blobs
        fake.put(name.partition(":")[0] + ":" + "x", MANIFEST, image.manifest)
    entries = [image.descriptor(architecture=image.here, os="linux") for image in images]
    entries.append(note.descriptor(architecture="unknown", os="unknown"))
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    return fake.put(name, INDEX, data), [*images, note]


def raw(host: str, name: str) -> bytes:
    need("skopeo")
    return subprocess.check_output(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{host}/{name}"],
        timeout=120,
    )


def nothing_stored(cove: Cove) -> None:
    assert os.listdir(cove.root / "blobs/sha256") == []
    assert os.listdir(cove.root / "tmp") == []
    assert cove("images", "-q").out.count("\n") <= 1


def refused(cove: Cove, *words: str, code: int = 1) -> str:
    return cove("image", "copy", *words, code=code).err


# ---- between registries ----


def test_everything_arrives_as_it_was(fresh: Cove, fake: Fake, depot: Depot, plain: str) -> None:
    source, images = multi(fake)
    done = fresh("image", "copy", "--all", source, f"docker://{depot.host}/x:1")
    kind, data = depot.manifests["/v2/x/manifests/1"]
    assert (kind, data) == fake.manifests["/v2/multi/manifests/1"]
    assert done.out == f"{depot.host}/x:1: digest: {digest(data)} size: {len(data)}\n"
    for image in images:
        assert depot.manifests[f"/v2/x/manifests/{digest(image.manifest)}"] == (
            MANIFEST,
            image.manifest,
        )
        assert all(depot.blobs[name] == blob for name, blob in image.blobs.items())
    assert sum("copied" in line for line in done.err.splitlines()) == len(depot.blobs)
    before = len(depot.sent("PATCH"))
    again = fresh("image", "copy", "-q", "-a", source, f"{depot.host}/x:2")
    assert (again.out, again.err) == (f"{depot.host}/x:2\n", "")
    assert len(depot.sent("PATCH")) == before
    nothing_stored(fresh)
    # into Debian's registry, and within it from one repository to another
    fresh("image", "copy", "--all", f"{depot.host}/x:1", f"{plain}/copied:1")
    moved = fresh("image", "copy", "--all", f"{plain}/copied:1", f"{plain}/moved:1").err
    assert raw(plain, "moved:1") == data
    assert "mounted from copied" in moved and "copying" not in moved


def test_one_platform(fresh: Cove, fake: Fake, depot: Depot) -> None:
    source, images = multi(fake)
    fresh("image", "copy", "--platform", "linux/arm64", source, f"{depot.host}/x:arm")
    assert depot.manifests["/v2/x/manifests/arm"] == (MANIFEST, images[1].manifest)
    assert set(depot.blobs) == set(images[1].blobs)
    said = refused(fresh, "--platform", "linux/s390x", source, f"{depot.host}/x:no")
    assert f"cannot copy {source}: it has nothing for linux/s390x" in said
    assert "linux/amd64, linux/arm64" in said
    said = refused(fresh, "--all", "--platform", "amd64", source, f"{depot.host}/x:no", code=125)
    assert "all platforms and one of them" in said


def test_what_is_cut_goes_on(fresh: Cove, fake: Fake, depot: Depot) -> None:
    image = FakeImage([NOISE])
    source = fake.add("cut:1", image)
    fake.fault(image.layer, cut(1_000_000))
    depot.fault("PATCH", "uploads", take_part(300_000))
    fresh("image", "copy", source, f"{depot.host}/x:1")
    assert depot.blobs[image.layer] == NOISE
    asked = [h.get("range", "") for _, path, h in fake.requests if path.endswith(image.layer)]
    assert asked == ["", "bytes=1000000-"]


def test_what_is_there_is_not_copied_again(fresh: Cove, fake: Fake, depot: Depot) -> None:
    """One that failed in the middle is taken up: layer by layer."""
    image = FakeImage([NOISE, Tar().file("more").data()])
    source = fake.add("again:1", image)
    depot.fault("PUT", "manifests", say(400))
    refused(fresh, source, f"{depot.host}/x:1")
    assert depot.manifests == {}
    before = len(fake.requests)
    fresh("image", "copy", source, f"{depot.host}/x:1")
    assert not any("/blobs/" in path for _, path, _ in fake.requests[before:])


def test_logins_are_each_place_s_own(fresh: Cove, fake: Fake, basic: str, tmp_path: Path) -> None:
    from tests.registry.registries import PASSWORD, USER

    env = {"HOME": str(tmp_path), "DOCKER_CONFIG": ""}
    source = fake.add("in:1", FakeImage([Tar().file("f").data()]))
    said = fresh("image", "copy", source, f"{basic}/in:1", env=env, code=1).err
    assert f"cannot copy to {basic}/in:1: access denied" in said
    assert f"from: {source} {basic}/in:1" in said
    fresh("login", "-u", USER, "--password-stdin", basic, stdin=PASSWORD, env=env)
    fresh("image", "copy", source, f"{basic}/in:1", env=env)
    assert not any("authorization" in headers for _, _, headers in fake.requests)


# ---- directories and archives ----


def test_layouts_and_archives(fresh: Cove, fake: Fake, depot: Depot, tmp_path: Path) -> None:
    need("skopeo")
    source, images = multi(fake)
    index = fake.manifests["/v2/multi/manifests/1"][1]
    where = {"cwd": str(tmp_path)}
    said = fresh("image", "copy", "-a", source, "oci:dir:1", **where).out
    assert said == f"oci:dir:1: digest: {digest(index)} size: {len(index)}\n"
    theirs = subprocess.check_output(["skopeo", "inspect", "--raw", f"oci:{tmp_path}/dir:1"])
    assert theirs == index
    fresh("image", "copy", "-a", "oci:dir", "oci-archive:all.tar:new", **where)
    fresh("image", "copy", "-a", "oci-archive:all.tar:new", f"{depot.host}/x:1", **where)
    assert depot.manifests["/v2/x/manifests/1"] == (INDEX, index)
    assert all(depot.blobs[name] == blob for one in images for name, blob in one.blobs.items())
    # one platform as what Docker and Podman load
    fresh("image", "copy", "--platform", "amd64", source, "docker-archive:d.tar:web:1", **where)
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{tmp_path}/d.tar:web:1",
         f"oci:{tmp_path}/theirs:1"], check=True, timeout=120,
    )  # fmt: skip
    for name in ("docker-archive:d.tar:web:1", "docker-archive:d.tar"):
        fresh("image", "copy", "--platform", "amd64", name, f"{depot.host}/x:2", **where)
        assert set(images[0].blobs) <= set(depot.blobs)
    over_http = ("-H", f"unix://{fresh.root}/run/api.sock", "image", "copy", "-q", "-a")
    assert fresh(*over_http, "oci:dir", "oci-archive:http.tar:1", **where).out
    assert fresh(*over_http, "oci-archive:http.tar", f"{depot.host}/x:3", **where).out
    assert depot.manifests["/v2/x/manifests/3"] == (INDEX, index)
    said = fresh("image", "copy", "-a", source, "docker-archive:all.d", code=125, **where).err
    assert "a docker-archive has one platform" in said
    assert sorted(os.listdir(tmp_path)) == ["all.tar", "d.tar", "dir", "http.tar", "theirs"]
    said = fresh("image", "copy", source, "oci:dir", code=1, **where).err
    assert "cannot write dir: directory not empty" in said
    nothing_stored(fresh)


def test_an_archive_as_skopeo_writes_it(fresh: Cove, plain: str, tmp_path: Path) -> None:
    """One without a manifest: its layers are taken as they are."""
    need("skopeo")
    image = FakeImage([Tar().file("some", b"x" * 9000).data()])
    layout(tmp_path / "in", image)
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/in:1",
         f"docker-archive:{tmp_path}/a.tar:web:1"], check=True, timeout=120,
    )  # fmt: skip
    fresh("image", "copy", f"docker-archive:{tmp_path}/a.tar:web:1", f"{plain}/archive:1")
    (layer,) = json.loads(raw(plain, "archive:1"))["layers"]
    assert layer["digest"] == image.layer
    fresh("pull", "-q", f"{plain}/archive:1")
    said = refused(fresh, f"docker-archive:{tmp_path}/a.tar:no:1", f"{plain}/archive:1")
    assert "it has no image called no:1" in said


def layout(place: Path, image: FakeImage, index: object = None) -> Path:
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)
    for name, data in {**image.blobs, digest(image.manifest): image.manifest}.items():
        (blobs / name.partition(":")[2]).write_bytes(data)
    notes = {"annotations": {"org.opencontainers.image.ref.name": "1"}}
    index = index or {"schemaVersion": 2, "manifests": [image.descriptor() | notes]}
    (place / "index.json").write_text(json.dumps(index))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def test_words_that_mean_no_place(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    web = f"{fake.host}/x:1"
    for words, said in (
        (("dir:/tmp/x", web), "images are not taken from or brought to dir: here"),
        (("containers-storage:x", web), "not taken from or brought to containers-storage: here"),
        (("https://x", web), "not taken from or brought to https: here"),
        (("oci:", web), "it names no directory"),
        (("docker://UPPER", web), "must be lowercase"),
    ):
        assert said in refused(fresh, *words, code=125), words
    assert "no such file or directory" in refused(fresh, f"oci:{tmp_path}/no", web)
    assert "a digest is no place to copy to" in refused(
        fresh, web, f"{fake.host}/y@sha256:{'0' * 64}", code=125
    )
    said = refused(fresh, web, f"{fake.host}/y:1")
    assert "no such image" in said and f"from: {web} {fake.host}/y:1" in said


# ---- who lies ----


WRONG = b"y" * len(NOISE)


def test_a_source_that_lies(fresh: Cove, fake: Fake, depot: Depot, tmp_path: Path) -> None:
    image = FakeImage([NOISE])
    source = fake.add("lies:1", image)
    target = f"{depot.host}/x:1"
    for fault, word in (
        (body(WRONG), f"what comes as {image.layer} has the digest {digest(WRONG)}"),
        (body(NOISE + b"x"), "the registry has 9000001 bytes of it"),
        (redirect("http://169.254.169.254/latest"), "a cloud's metadata service"),
        (redirect("file:///etc/passwd"), "no web address"),
        (status(403), "access denied"),
    ):
        fake.fault(image.layer, *[fault] * 9)
        said = refused(fresh, source, target)
        assert word in said and f"from: {source} {target}" in said
        if "digest" in word:
            fake.faults[image.layer].clear()
            fake.fault(image.layer, fault)
            assert word in refused(fresh, source, f"oci:{tmp_path}/out")
        fake.faults.clear()
    assert depot.manifests == {}
    assert image.layer not in depot.blobs
    assert os.listdir(tmp_path) == []
    nothing_stored(fresh)


def endless(event: threading.Event) -> object:
    """A body that has no end and does not say how long it is."""

    def fault(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        request.send_response(200)
        request.end_headers()
        try:
            while not event.is_set():
                request.wfile.write(b"[" * 65536)
        except OSError:
            pass
        request.close_connection = True
        return True

    return fault


def test_bodies_without_an_end(fresh: Cove, fake: Fake, depot: Depot) -> None:
    over = threading.Event()
    image = FakeImage([Tar().file("f").data()])
    source = fake.add("endless:1", image)
    try:
        fake.fault("/manifests/1", endless(over))  # type: ignore[arg-type]
        assert "larger than 4 MiB" in refused(fresh, source, f"{depot.host}/x:1")
        fake.fault(image.layer, endless(over))  # type: ignore[arg-type]
        assert "sends more than" in refused(fresh, source, f"{depot.host}/x:1")
    finally:
        over.set()


def test_a_target_that_lies(fresh: Cove, fake: Fake, depot: Depot) -> None:
    """Uploads are led nowhere that tells secrets, and secrets are told nowhere else."""
    other = Depot()
    try:
        source = fake.add("to:1", FakeImage([Tar().file("f").data()]))
        for fault, word in (
            (say(202, Location="http://169.254.169.254/latest"), "is not followed"),
            (say(202, Location="http://[fd00:ec2::254]/"), "is not followed"),
            (say(202, Location="gopher://127.0.0.1/"), "is not followed"),
            (say(202), "does not say where to"),
        ):
            depot.fault("POST", "uploads", *[fault] * 9)
            said = refused(fresh, source, f"{depot.host}/x:1")
            assert f"cannot copy to {depot.host}/x:1" in said and word in said
            depot.faults.clear()
        other.uploads["u0"] = bytearray()
        depot.fault(
            "POST", "uploads", say(202, Location=f"http://{other.host}/v2/x/blobs/uploads/u0")
        )
        fresh("image", "copy", source, f"{depot.host}/x:1")
        assert not any("authorization" in headers for _, _, headers in other.requests)
    finally:
        other.close()


def test_layouts_that_lie(fresh: Cove, depot: Depot, tmp_path: Path) -> None:
    image = FakeImage([Tar().file("f").data()])
    target = f"{depot.host}/x:1"
    blob = image.layer.partition(":")[2]

    out = layout(tmp_path / "out", image)
    (out / "blobs/sha256" / blob).unlink()
    (out / "blobs/sha256" / blob).symlink_to("/etc/passwd")
    said = refused(fresh, f"oci:{out}", target)
    assert f"cannot read oci:{out}: blobs/sha256/{blob}: too many levels" in said

    above = layout(tmp_path / "above", image)
    (above / "blobs").rename(tmp_path / "blobs")
    (above / "blobs").symlink_to(tmp_path / "blobs")
    assert "not a directory" in refused(fresh, f"oci:{above}", target)

    fifo = layout(tmp_path / "fifo", image)
    (fifo / "blobs/sha256" / blob).unlink()
    os.mkfifo(fifo / "blobs/sha256" / blob)
    assert "is no regular file" in refused(fresh, f"oci:{fifo}", target)

    short = layout(tmp_path / "short", image)
    (short / "blobs/sha256" / blob).write_bytes(b"x")
    assert "has 1 bytes, its manifest says" in refused(fresh, f"oci:{short}", target)

    swapped = layout(tmp_path / "swapped", image)
    (swapped / "blobs/sha256" / blob).write_bytes(bytes(len(image.blobs[image.layer])))
    assert "has the digest" in refused(fresh, f"oci:{swapped}", target)

    way = {"schemaVersion": 2, "manifests": [{"digest": "sha256:../../etc/passwd", "size": 1}]}
    assert "cannot use digest" in refused(
        fresh, f"oci:{layout(tmp_path / 'way', image, way)}", target
    )
    assert depot.manifests == {}


def nested(place: Path, depth: int, width: int = 1) -> Path:
    """Indexes within indexes; of a loop, whose digests nobody can make, this is all there is."""
    image = FakeImage([Tar().file("f").data()])
    layout(place, image)
    entries = [image.descriptor()]
    for number in range(depth):
        data = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "n": number}
        ).encode()
        (place / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        entries = [{"mediaType": INDEX, "digest": digest(data), "size": len(data)}]
    (place / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": entries * width})
    )
    return place


def test_layouts_that_are_too_much(fresh: Cove, depot: Depot, tmp_path: Path) -> None:
    target = f"{depot.host}/x:1"
    deep = nested(tmp_path / "deep", 9)
    assert "indexes within indexes" in refused(fresh, "-a", f"oci:{deep}", target)
    assert "indexes within indexes" in refused(fresh, f"oci:{deep}", target)

    huge = layout(tmp_path / "huge", FakeImage([Tar().file("f").data()]))
    with (huge / "index.json").open("wb") as file:
        file.truncate(5 << 30)
    assert "index.json is larger than 4 MiB" in refused(fresh, f"oci:{huge}", target)
    (huge / "index.json").write_bytes(b"[" * 4_000_000)
    assert "cannot read index.json" in refused(fresh, f"oci:{huge}", target)

    many = layout(tmp_path / "many", FakeImage([Tar().file("f").data()]))
    children = []
    for number in range(2100):
        data = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "n": number}
        ).encode()
        (many / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
        children.append({"mediaType": INDEX, "digest": digest(data), "size": len(data)})
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).encode()
    (many / "blobs/sha256" / hashlib.sha256(data).hexdigest()).write_bytes(data)
    (many / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [
            {"mediaType": INDEX, "digest": digest(data), "size": len(data)}]})
    )  # fmt: skip
    assert "more than 2000 manifests" in refused(fresh, "-a", f"oci:{many}", target)
    assert depot.manifests == {} and depot.blobs == {}


def test_archives_that_lie(fresh: Cove, depot: Depot, tmp_path: Path) -> None:
    target, place = f"{depot.host}/x:1", tmp_path / "a.tar"

    def archive(**members: bytes) -> str:
        with tarfile.open(place, "w") as tar:
            for name, data in members.items():
                entry = tarfile.TarInfo(name.replace("__", "."))
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return f"docker-archive:{place}"

    for manifest, word in (
        (b"7", "no list of images"),
        (b"[7]", "no list of images"),
        (b"[]", "it has no image"),
        (b'[{"Config": "../../etc/passwd"}]', "it lacks ../../etc/passwd"),
        (b'[{"Config": "c", "Layers": ["l"]}]', "has no layers"),
        (b'[{"Config": "c"}, {"Config": "c"}]', "it holds 2 images"),
    ):
        said = refused(fresh, archive(manifest__json=manifest, c=b"{}", l=b""), target)
        assert word in said, (manifest, said)
    place.write_bytes(b"no tar")
    refused(fresh, f"oci-archive:{place}", target)
    assert depot.manifests == {}
