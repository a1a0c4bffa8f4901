"""Round trips: what other tools built and pushed goes through cove into another registry byte by
byte, and what cove pushed goes through theirs.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.conftest import need
from tests.driver import Cove
from tests.images.tars import Tar
from tests.registry.depots import Depot
from tests.registry.registries import MANIFEST, Fake, FakeImage, digest
from tests.registry.test_convert import depot
from tests.registry.test_copy import layout, raw
from tests.registry.test_verbs import fresh

__all__ = ["depot", "fresh"]

FILES = Tar().file("some", os.urandom(1_300_000) + b"x" * 700_000).data()
MORE = Tar().file("more", b"y" * 50_000).data()


def mixed() -> FakeImage:
    """gzip as nobody here makes it, and zstd: a large layer and a small one of each."""
    packers = iter(
        (lambda tar: gzip.compress(tar, 4), zstandard.ZstdCompressor(level=9).compress,
         lambda tar: gzip.compress(tar, 9), zstandard.ZstdCompressor(level=2).compress)
    )  # fmt: skip
    tars = [FILES, Tar().file("b", os.urandom(1_500_000)).data(), MORE, Tar().file("z").data()]
    return FakeImage(tars, pack=lambda tar: next(packers)(tar))


@pytest.fixture
def copies(depot: Depot) -> Iterator[Depot]:
    yield depot
    for path, (kind, data) in depot.manifests.items():
        assert path.endswith("/1") or digest(data) in path, kind


def test_a_pulled_image_is_pushed_as_it_came(fresh: Cove, fake: Fake, copies: Depot) -> None:
    image = mixed()
    fresh("pull", "-q", fake.add("same:1", image))
    assert len(os.listdir(fresh.root / "packed")) == 4
    fresh("tag", f"{fake.host}/same:1", f"{copies.host}/x:1")
    said = fresh("push", f"{copies.host}/x:1").err
    assert "compressing" not in said
    assert copies.manifests["/v2/x/manifests/1"] == (MANIFEST, image.manifest)
    assert copies.blobs == image.blobs
    fresh("rmi", f"{copies.host}/x:1", f"{fake.host}/same:1")
    assert os.listdir(fresh.root / "packed") == []


def test_so_is_one_out_of_an_archive(fresh: Cove, copies: Depot, tmp_path: Path) -> None:
    image = mixed()
    fresh("load", "-q", str(layout(tmp_path / "web", image)))
    fresh("tag", "web:1", f"{copies.host}/x:1")
    fresh("push", f"{copies.host}/x:1")
    assert copies.manifests["/v2/x/manifests/1"] == (MANIFEST, image.manifest)
    assert copies.blobs == image.blobs
    # somebody who wants it otherwise gets that
    fresh("push", "--compression", "zstd", f"{copies.host}/x:1")


def test_what_is_kept_may_be_lost(fresh: Cove, fake: Fake, depot: Depot) -> None:
    """Without the bytes it came as a layer is made again; one that is cut short is not sent."""
    image = mixed()
    fresh("pull", "-q", fake.add("lost:1", image))
    gone, short, *_ = sorted((fresh.root / "packed").iterdir())
    gone.unlink()
    os.truncate(short, 10)
    fresh("tag", f"{fake.host}/lost:1", f"{depot.host}/x:1")
    assert fresh("push", f"{depot.host}/x:1").err.count(": compressing") == 2
    fresh("rmi", f"{fake.host}/lost:1", f"{depot.host}/x:1")
    fresh("pull", "-q", "--platform", f"linux/{image.here}", f"{depot.host}/x:1")
    assert fresh("system", "check").out.startswith("nothing was found")


def test_what_is_loaded_over_it_changes_nothing(
    fresh: Cove, fake: Fake, copies: Depot, tmp_path: Path
) -> None:
    """The same image out of an archive that knows no manifest: it is still what was pulled."""
    image = mixed()
    web = fake.add("over:1", image)
    fresh("pull", "-q", web)
    fresh("save", "-o", str(tmp_path / "saved"), web)
    form = ("image", "inspect", "-f", "{{json .RepoDigests}}", web)
    before = fresh(*form).out
    fresh("load", "-q", str(tmp_path / "saved"))
    assert fresh(*form).out == before
    fresh("tag", web, f"{copies.host}/x:1")
    fresh("push", "-q", f"{copies.host}/x:1")
    assert copies.manifests["/v2/x/manifests/1"] == (MANIFEST, image.manifest)
    data = json.dumps(json.loads(image.manifest), indent=1).encode()  # another manifest of it
    fresh("pull", "-q", fake.put("over:2", MANIFEST, data))
    assert fresh("system", "check").out.startswith("nothing was found")


def test_df_counts_what_is_kept(fresh: Cove, fake: Fake) -> None:
    """To the byte: what du(1) finds of layers, recipes and archives is what df says."""
    fresh("images")
    before = used(fresh), told(fresh)
    fresh("pull", "-q", fake.add("df:1", mixed()))
    assert used(fresh) - before[0] == told(fresh) - before[1] > 4_000_000


def used(cove: Cove) -> int:
    """Allocated, but for the directories that are always there."""
    total = 0
    for name in ("recipes", "packed", "partial"):
        total += sum(file.stat().st_blocks * 512 for file in (cove.root / name).iterdir())
    layers = [str(place) for place in (cove.root / "roots").glob("l*")]
    lines = subprocess.check_output(["du", "-s", "--block-size=1", *layers], text=True)
    return total + sum(int(line.split()[0]) for line in lines.splitlines())


def told(cove: Cove) -> int:
    from cove.client.api import Client
    from cove.client.transport import Http

    return Client(Http(f"{cove.root}/run/api.sock")).disk_usage().layers


# ---- the others ----


TOOLS = {
    "skopeo": ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false",
               "--dest-tls-verify=false", "docker://{a}", "docker://{b}"],
    "buildah": ["sh", "-c", "buildah --root {s} --runroot {r} --storage-driver vfs pull -q "
                "--tls-verify=false {a} && buildah --root {s} --runroot {r} --storage-driver "
                "vfs push -q --tls-verify=false {a} docker://{b}"],
    "podman": ["sh", "-c", "podman --root {s} --runroot {r} --storage-driver vfs pull -q "
               "--tls-verify=false {a} && podman --root {s} --runroot {r} --storage-driver vfs "
               "push -q --tls-verify=false {a} docker://{b}"],
}  # fmt: skip


@pytest.fixture
def short() -> Iterator[str]:
    """podman wants a short path."""
    with tempfile.TemporaryDirectory(prefix="cr-") as place:
        yield place


@pytest.mark.parametrize("tool", TOOLS)
def test_through_others_and_back(
    fresh: Cove, plain: str, tmp_path: Path, tool: str, short: str
) -> None:
    """cove to Debian's registry, the other tool within it, cove back and to a third place: layers
    and config are the same bytes everywhere, and where the tool keeps the manifest it is, too.
    """
    need(tool)
    fresh("image", "import", "-q", "-c", "CMD sh", "-", f"{plain}/{tool}-a:1", stdin=FILES)
    fresh("push", "-q", f"{plain}/{tool}-a:1")
    first = raw(plain, f"{tool}-a:1")
    words = [
        word.format(a=f"{plain}/{tool}-a:1", b=f"{plain}/{tool}-b:1", s=tmp_path / "s", r=short)
        for word in TOOLS[tool]
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    second = raw(plain, f"{tool}-b:1")
    assert json.loads(second)["config"]["digest"] == json.loads(first)["config"]["digest"]
    if tool == "skopeo":
        assert second == first
    fresh("rmi", f"{plain}/{tool}-a:1")
    fresh("pull", "-q", f"{plain}/{tool}-b:1")
    fresh("tag", f"{plain}/{tool}-b:1", f"{plain}/{tool}-c:1")
    fresh("push", "-q", f"{plain}/{tool}-c:1")
    assert raw(plain, f"{tool}-c:1") == second
