"""``cove save`` as OCI alone: what was pulled comes out as the bytes and under the manifest that
its registry has, which skopeo and umoci read.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from pathlib import Path

from tests.conftest import need
from tests.driver import Cove
from tests.images.tars import Tar, tree
from tests.registry.registries import MANIFEST, Fake, FakeImage, digest, push
from tests.registry.test_copy import layout, raw
from tests.registry.test_same_bytes import mixed
from tests.registry.test_verbs import fresh

__all__ = ["fresh"]

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
PARTS = [
    Tar().dir("etc/").file("etc/a", os.urandom(400_000) + b"a" * 300_000, mode=0o4755).data(),
    Tar().file("b", b"b" * 90_000).data(),
]


def packed() -> FakeImage:
    """Of two layers that say what they are: gzip as nobody here makes it."""
    image = FakeImage(PARTS, pack=lambda tar: gzip.compress(tar, 3))
    for layer in image.document["layers"]:
        layer["mediaType"] = f"{LAYER}+gzip"
    return image


def saved(cove: Cove, place: Path, name: str) -> tuple[dict[str, str], dict[str, bytes]]:
    """As a directory, and as an archive with the same: the entry of its index, and its blobs."""
    cove("save", "--format", "oci-dir", "-o", str(place), name)
    cove("save", "--format", "oci-archive", "-o", f"{place}.tar", name)
    files = {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*") if path.is_file()
    }  # fmt: skip
    with tarfile.open(f"{place}.tar") as tar:
        assert files == {
            one.name: file.read() for one in tar if (file := tar.extractfile(one)) is not None
        }
    (entry,) = json.loads(files["index.json"])["manifests"]
    blobs = {
        name.replace("blobs/sha256/", "sha256:"): data
        for name, data in files.items() if name.startswith("blobs/")
    }  # fmt: skip
    assert all(digest(data) == name for name, data in blobs.items())
    return entry, blobs


def unpacked(place: Path, tag: str) -> dict[str, tuple[object, ...]]:
    need("umoci")
    target = place.with_suffix(".bundle")
    words = ["umoci", "unpack", "--image", f"{place}:{tag}", str(target)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return tree(target / "rootfs")


def test_it_has_the_digest_that_its_registry_has(fresh: Cove, plain: str, tmp_path: Path) -> None:
    """Into Debian's registry by skopeo, out of cove, and by skopeo into another repository."""
    image = packed()
    push(f"oci:{layout(tmp_path / 'made', image)}:1", f"{plain}/kept:1")
    wanted = raw(plain, "kept:1")
    fresh("pull", "-q", f"{plain}/kept:1")
    entry, blobs = saved(fresh, tmp_path / "out", f"{plain}/kept:1")
    assert (entry["digest"], entry["mediaType"]) == (digest(wanted), MANIFEST)
    assert blobs == {**image.blobs, digest(wanted): wanted}
    push(f"oci:{tmp_path}/out:1", f"{plain}/again:1")
    push(f"oci-archive:{tmp_path}/out.tar", f"{plain}/third:1")
    assert raw(plain, "again:1") == raw(plain, "third:1") == wanted
    assert unpacked(tmp_path / "out", "1") == unpacked(tmp_path / "made", "1")


def test_so_has_one_that_was_loaded(fresh: Cove, tmp_path: Path) -> None:
    """gzip and zstd; through another archive and back it stays what it is."""
    image = mixed()
    fresh("load", "-q", "-i", str(layout(tmp_path / "web", image)))
    entry, blobs = saved(fresh, tmp_path / "out", "web:1")
    assert blobs == {**image.blobs, entry["digest"]: image.manifest}
    fresh("rmi", "web:1")
    fresh("load", "-q", "-i", str(tmp_path / "out.tar"))
    assert saved(fresh, tmp_path / "again", "web:1") == (entry, blobs)
    assert fresh("system", "check").out.startswith("nothing was found")


def test_dockers_archive_has_no_layer_compressed(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    name = fake.add("plain:1", packed())
    fresh("pull", "-q", name)
    fresh("save", "-o", str(tmp_path / "docker.tar"), name)
    with tarfile.open(tmp_path / "docker.tar") as tar:
        there = {one.name.replace("blobs/sha256/", "sha256:") for one in tar}
    assert {digest(tar) for tar in PARTS} <= there


def test_of_dockers_manifest_it_becomes_ocis(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    """A layout of OCI that names what only Docker knows is none: the layers' bytes stay."""
    image = packed()
    image.document["mediaType"] = DOCKER
    for layer in image.document["layers"]:
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    fake.add("docker:0", image)
    name = fake.put("docker:1", DOCKER, image.manifest)
    fresh("pull", "-q", name)
    entry, blobs = saved(fresh, tmp_path / "out", name)
    assert entry["mediaType"] == MANIFEST
    assert {key: data for key, data in blobs.items() if key != entry["digest"]} == image.blobs
    kinds = {one["mediaType"] for one in json.loads(blobs[entry["digest"]])["layers"]}
    assert kinds == {f"{LAYER}+gzip"}
    assert {"etc/a", "b"} <= unpacked(tmp_path / "out", "1").keys()


def test_what_is_made_of_it_shares_its_bytes(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    """A layer that cove made stands beside those that came, which the archive has once."""
    image = packed()
    name = fake.add("base:1", image)
    fresh("pull", "-q", name)
    fresh("create", "--name", "mm", name)
    (tmp_path / "new").write_text("new")
    fresh("cp", str(tmp_path / "new"), "mm:/new")
    fresh("commit", "mm", "app:1")
    fresh("rm", "mm")
    entry, blobs = saved(fresh, tmp_path / "out", "app:1")
    layers = json.loads(blobs[entry["digest"]])["layers"]
    assert [one["mediaType"] for one in layers] == [f"{LAYER}+gzip", f"{LAYER}+gzip", LAYER]
    assert layers[:2] == image.document["layers"]
    assert {"etc/a", "b", "new"} <= unpacked(tmp_path / "out", "1").keys()
    fresh("save", "--format", "oci-dir", "-o", str(tmp_path / "both"), "app:1", name)
    assert len(list((tmp_path / "both/blobs/sha256").iterdir())) == 3 + 2 * 2


def test_what_is_kept_may_be_lost_or_damaged(fresh: Cove, fake: Fake, tmp_path: Path) -> None:
    """What is lost or cut short is made again; what is damaged is named, and no file appears."""
    image = packed()
    name = fake.add("lost:1", image)
    fresh("pull", "-q", name)
    one, two = sorted((fresh.root / "packed").iterdir(), key=lambda path: path.stat().st_size)
    whole = two.read_bytes()
    one.unlink()
    entry, blobs = saved(fresh, tmp_path / "lost", name)
    kinds = [layer["mediaType"] for layer in json.loads(blobs[entry["digest"]])["layers"]]
    assert kinds == [f"{LAYER}+gzip", LAYER]
    os.truncate(two, 10)
    entry, blobs = saved(fresh, tmp_path / "short", name)
    assert {digest(tar) for tar in PARTS} < blobs.keys()
    two.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    wrong = tmp_path / "wrong.tar"
    said = fresh("save", "--format", "oci-archive", "-o", str(wrong), name, code=1).err
    assert "is not kept as it came" in said and "--format docker-archive" in said
    assert not wrong.exists()
    fresh("save", "-o", str(wrong), name)
    fresh("rmi", name)
    fresh("load", "-q", "-i", str(wrong))
