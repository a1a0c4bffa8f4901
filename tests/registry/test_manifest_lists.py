"""``cove manifest``: lists that are put together here, of manifests that lie in registries."""

from __future__ import annotations

import json
import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.conftest import need
from tests.driver import Cove
from tests.images.tars import Tar
from tests.registry.depots import Depot, say
from tests.registry.registries import INDEX, MANIFEST, Fake, FakeImage, digest
from tests.registry.test_convert import depot
from tests.registry.test_copy import raw
from tests.registry.test_verbs import fresh

__all__ = ["depot", "fresh"]


def pair(fake: Fake) -> tuple[FakeImage, FakeImage, str, str]:
    tar = Tar().file("f", b"x" * 300_000).data()
    one, two = (FakeImage([tar], architecture=name) for name in ("amd64", "arm64"))
    return one, two, fake.add("parts:amd", one), fake.add("parts:arm", two)


def refused(cove: Cove, *words: str, code: int = 1) -> str:
    return cove("manifest", *words, code=code).err


def test_from_two_images_to_one_name(fresh: Cove, fake: Fake, depot: Depot) -> None:
    one, two, amd, arm = pair(fake)
    name = f"{depot.host}/all:1"
    assert fresh("manifest", "create", name, amd, arm).out == f"Created manifest list {name}\n"
    assert "it is there" in refused(fresh, "create", name, amd)
    fresh("manifest", "create", "--amend", name, amd)
    fresh("manifest", "annotate", "--variant", "v8", "--os-features", "a,b", name, arm)
    fresh("manifest", "annotate", "--os-version", "6.1", "--arch", "amd64", name, amd)
    shown = json.loads(fresh("manifest", "inspect", name).out)
    assert shown["mediaType"] == INDEX
    assert [entry["digest"] for entry in shown["manifests"]] == [
        digest(one.manifest), digest(two.manifest)
    ]  # fmt: skip
    assert [entry["platform"] for entry in shown["manifests"]] == [
        {"architecture": "amd64", "os": "linux", "os.version": "6.1"},
        {"architecture": "arm64", "os": "linux", "os.features": ["a", "b"], "variant": "v8"},
    ]
    assert json.loads(fresh("manifest", "inspect", name, arm).out) == two.document
    said = fresh("manifest", "push", name)
    kind, data = depot.manifests["/v2/all/manifests/1"]
    assert said.out == f"{digest(data)}\n" and kind == INDEX and json.loads(data) == shown
    for image in (one, two):
        there = depot.manifests[f"/v2/all/manifests/{digest(image.manifest)}"]
        assert there == (MANIFEST, image.manifest)
        assert all(depot.blobs[blob] == content for blob, content in image.blobs.items())
    fresh("manifest", "push", "--purge", name)
    assert "no such list" in refused(fresh, "push", name)
    assert json.loads(fresh("manifest", "inspect", name).out) == shown  # what the registry has
    assert os.listdir(fresh.root / "lists") == os.listdir(fresh.root / "tmp") == []


def test_within_a_registry(fresh: Cove, fake: Fake, plain: str, tmp_path: Path) -> None:
    """Blobs are mounted; skopeo and cove read what came of it."""
    need("skopeo")
    one, _two, amd, arm = pair(fake)
    fresh("image", "copy", amd, f"{plain}/m/one:amd")
    fresh("image", "copy", "--platform", "arm64", arm, f"{plain}/m/all:arm")
    fresh("manifest", "create", f"{plain}/m/all:1", f"{plain}/m/one:amd", f"{plain}/m/all:arm")
    said = fresh("manifest", "push", f"{plain}/m/all:1")
    assert "mounted from m/one" in said.err and ": copying" not in said.err
    assert said.out == f"{digest(raw(plain, 'm/all:1'))}\n"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--all", "--src-tls-verify=false",
         f"docker://{plain}/m/all:1", f"oci:{tmp_path}/all:1"], check=True, timeout=120,
    )  # fmt: skip
    fresh("pull", "-q", "--platform", "linux/amd64", f"{plain}/m/all:1")
    found = fresh("image", "inspect", "-f", "{{.Id}}", f"{plain}/m/all:1").out
    assert found.strip() == digest(one.config)
    said = refused(fresh, "create", f"{plain}/m/more:1", f"{plain}/m/all:1")
    assert "it is a manifest list itself" in said
    fresh("manifest", "rm", f"{plain}/m/all:1")
    assert "no such list" in refused(fresh, "rm", f"{plain}/m/all:1")


def test_what_cannot_be(fresh: Cove, fake: Fake, depot: Depot) -> None:
    _, _, amd, _ = pair(fake)
    name = f"{depot.host}/all:1"
    assert "no such image" in refused(fresh, "create", name, f"{fake.host}/parts:no")
    assert "a digest is no name" in refused(
        fresh, "create", f"{depot.host}/all@sha256:{'0' * 64}", amd, code=125
    )
    assert "no such list" in refused(fresh, "annotate", "--os", "linux", name, amd)
    fresh("manifest", "create", name, amd)
    said = refused(fresh, "annotate", "--os", "linux", name, f"{fake.host}/parts:arm")
    assert "has no such manifest" in said
    depot.fault("PUT", "manifests", say(400))
    assert "answers 400" in refused(fresh, "push", name)
    assert depot.manifests == {}
    (path,) = (fresh.root / "lists").iterdir()
    path.write_bytes(b"[" * 5000)
    assert "cannot read manifest list" in refused(fresh, "inspect", name)


def test_what_is_added_while_a_registry_is_asked_is_kept(fresh: Cove, fake: Fake) -> None:
    """Two that add to one list: the second begins and ends while the first waits for an answer."""
    one, two, amd, arm = pair(fake)
    name = f"{fake.host}/both:1"

    def meanwhile(request: BaseHTTPRequestHandler, data: bytes) -> bool:
        fresh("manifest", "create", "--amend", name, amd)
        return False

    fake.fault("/manifests/arm", meanwhile)
    fresh("manifest", "create", "--amend", name, arm)
    listed = json.loads(fresh("manifest", "inspect", name).out)["manifests"]
    assert {each["digest"] for each in listed} == {digest(one.manifest), digest(two.manifest)}
    fake.fault("/manifests/arm", meanwhile)
    fresh("manifest", "rm", name)
    assert "it is there" in refused(fresh, "create", name, arm)
