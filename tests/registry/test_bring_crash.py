"""A daemon that is killed while it brings images in, copies them in another form or puts lists of
manifests together: there is the whole thing, the one before or none, and the same again does it.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.build.test_handing_crash import whole
from tests.driver import Cove, wait_until
from tests.images.tars import Tar
from tests.registry.depots import Depot
from tests.registry.registries import Fake, FakeImage, digest
from tests.registry.test_convert import depot
from tests.registry.test_manifest_lists import pair
from tests.registry.test_ship_crash import steps, swept
from tests.registry.test_verbs import fresh

__all__ = ["depot", "fresh"]

LONG = pytest.mark.timeout(900 if os.environ.get("COVE_WALK") != "all" else 7200)
ROOMS = ("packed", "recipes", "partial", "lists", "blobs/sha256")


def rooms(cove: Cove) -> dict[str, list[str]]:
    """All that images have; the layers of image ``host``, which is nobody's here, are not made."""
    found = {name: sorted(os.listdir(cove.root / name)) for name in ROOMS}
    return found | {"layers": sorted(path.name for path in cove.root.glob("roots/l*"))}


def as_before(cove: Cove, before: dict[str, list[str]], where: str) -> None:
    wait_until(lambda: rooms(cove) == before, f"left by one killed at {where}")
    swept(cove, where)


def names_of(cove: Cove) -> set[str]:
    found = set(cove("images", "-a", "--format", "{{.Repository}}:{{.Tag}}").out.split())
    return {name for name in found if not name.startswith("host:")}


def archive_of(place: Path) -> tuple[Path, list[str]]:
    """A docker-archive of two images with a layer in common, compressed; and their ids."""
    shared, own = (Tar().file(name, os.urandom(300_000)).data() for name in ("shared", "own"))
    images = [FakeImage([shared]), FakeImage([shared, own])]
    listed, files = [], {}
    for number, image in enumerate(images):
        layers = [f"{digest(tar)[7:]}.tar" for tar in image.tars]
        files |= dict(zip(layers, image.tars, strict=True))
        name = f"{digest(image.config)[7:]}.json"
        files[name] = image.config
        listed.append({"Config": name, "RepoTags": [f"walked{number}:1"], "Layers": layers})
    files["manifest.json"] = json.dumps(listed).encode()
    with tarfile.open(place, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return place, [digest(image.config) for image in images]


@LONG
def test_a_daemon_killed_at_any_step_of_a_load(fresh: Cove, tmp_path: Path) -> None:
    """All images of the archive are there, or none."""
    archive, ids = archive_of(tmp_path / "both.tar.gz")
    fresh("images")
    before, count = rooms(fresh), 0
    begin, words = "cove.image.loading:load_archive", ("load", "-q", "-i", str(archive))
    for where in steps(fresh, begin, tmp_path / "where", words):
        names = names_of(fresh)
        assert names in (set(), {"walked0:1", "walked1:1"}), where
        swept(fresh, where)
        if not names:
            as_before(fresh, before, where)
        fresh(*words)
        said = fresh("image", "inspect", "-f", "{{.Id}}", "walked0:1", "walked1:1").out
        assert said.split() == ids, where
        fresh("save", "-o", str(tmp_path / "saved"), "walked0:1", "walked1:1")
        fresh("rmi", "walked0:1", "walked1:1")
        as_before(fresh, before, where)
        count += 1
    assert count, "the walk never began"


@LONG
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_daemon_killed_at_any_step_of_an_import(
    fresh: Cove, tmp_path: Path, packed: bool
) -> None:
    """A name means the image of before or that of now."""
    tars = [Tar().file("f", os.urandom(200_000)).data() for _ in "ab"]
    for name, tar in zip("ab", tars, strict=True):
        (tmp_path / name).write_bytes(gzip.compress(tar) if packed else tar)
    fresh("images")
    empty, count = rooms(fresh), 0
    fresh("image", "import", str(tmp_path / "a"), "walked")
    begin, words = "cove.image.importing:import_rootfs", (
        "image", "import", str(tmp_path / "b"), "walked",
    )  # fmt: skip
    form = "{{json .RootFS.Layers}}"
    for where in steps(fresh, begin, tmp_path / "where", words):
        (layer,) = json.loads(fresh("image", "inspect", "-f", form, "walked").out)
        assert layer in map(digest, tars), where
        swept(fresh, where)
        fresh(*words)
        (layer,) = json.loads(fresh("image", "inspect", "-f", form, "walked").out)
        assert layer == digest(tars[1]), where
        fresh("rmi", "walked")
        fresh("image", "prune", "-f")
        as_before(fresh, empty, where)
        fresh("image", "import", str(tmp_path / "a"), "walked")
        count += 1
    assert count, "the walk never began"


@LONG
def test_a_daemon_killed_at_any_step_of_a_list_of_manifests(
    fresh: Cove, fake: Fake, depot: Depot, tmp_path: Path
) -> None:
    """As it is made, changed, and pushed: it names all it was told or what it did before."""
    one, two, amd, arm = pair(fake)
    name, place, report = f"{depot.host}/all:1", "/v2/all/manifests/1", tmp_path / "where"
    lists = "cove.image.lists"
    fresh("images")
    before, count = rooms(fresh), 0

    def listed() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(fresh("manifest", "inspect", name).out)[
            "manifests"
        ]
        return found

    for where in steps(fresh, f"{lists}:create", report, ("manifest", "create", name, amd, arm)):
        swept(fresh, where)
        if rooms(fresh) != before:
            assert [entry["digest"] for entry in listed()] == [
                digest(one.manifest), digest(two.manifest)
            ], where  # fmt: skip
            fresh("manifest", "rm", name)
        as_before(fresh, before, where)
        count += 1
    assert count, "the walk never began"
    made = rooms(fresh)
    words = ("manifest", "annotate", "--variant", "v8", name, arm)
    for where in steps(fresh, f"{lists}:annotate", report, words):
        assert listed()[1]["platform"] in (
            {"architecture": "arm64", "os": "linux"},
            {"architecture": "arm64", "os": "linux", "variant": "v8"},
        ), where
        as_before(fresh, made, where)
    for where in steps(fresh, f"{lists}:push", report, ("manifest", "push", "--purge", name)):
        if place in depot.manifests:
            assert len(json.loads(depot.manifests[place][1])["manifests"]) == 2, where
            for image in (one, two):
                assert f"/v2/all/manifests/{digest(image.manifest)}" in depot.manifests, where
                assert image.blobs.items() <= depot.blobs.items(), where
        if rooms(fresh) == before:
            assert place in depot.manifests, f"purged, and nowhere: {where}"
            fresh("manifest", "create", name, amd, arm)
            fresh("manifest", "annotate", *words[2:])
        as_before(fresh, made, where)
        depot.manifests.clear()
        depot.blobs.clear()
    as_before(fresh, before, "the end")


@LONG
@pytest.mark.parametrize("local", [False, True], ids=["registry", "directory"])
def test_a_daemon_killed_at_any_step_of_a_conversion(
    fresh: Cove, fake: Fake, depot: Depot, tmp_path: Path, local: bool
) -> None:
    tars = [Tar().file(f"walked{n}", os.urandom(40_000)).data() for n in range(2)]
    source = fake.add("walk:1", FakeImage(tars, pack=gzip.compress))
    layout, place = tmp_path / "out/layout", "/v2/x/manifests/1"
    layout.parent.mkdir()
    target = f"oci:{layout}:1" if local else f"{depot.host}/x:1"
    begin = "cove.image.copying.copying:gather"
    words = ("image", "convert", "-q", "--compression", "zstd", source, target)

    def made() -> list[str]:
        """The digests of what is there, all of whose layers are."""
        if local:
            return whole(layout) if layout.exists() else []
        if place not in depot.manifests:
            return []
        data = depot.manifests[place][1]
        assert {one["digest"] for one in json.loads(data)["layers"]} <= set(depot.blobs)
        return [digest(data)]

    def forget() -> None:
        shutil.rmtree(layout, ignore_errors=True)
        depot.manifests.clear()
        depot.blobs.clear()

    fresh(*words)
    (wanted,), count = made(), 0
    forget()
    for where in steps(fresh, begin, tmp_path / "where", words):
        assert made() in ([], [wanted]), where
        fresh("images")
        swept(fresh, where)
        if local:
            forget()  # a directory must be new; a registry has what it was sent
        fresh(*words)
        assert made() == [wanted], where
        assert os.listdir(layout.parent) == ["layout"] * local, where
        forget()
        count += 1
    assert count, "the walk never began"
    assert made() == [wanted]
