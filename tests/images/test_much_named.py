"""Small archives whose documents name the same things again and again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from cove.errors import BadArchive
from cove.oci import archive
from cove.oci.manifest import INDEXES, host_platform_of
from tests.images.tars import Tar, memory_file

HERE = host_platform_of()
INDEX = next(name for name in sorted(INDEXES) if "oci" in name)


class Made:
    """An archive to be, blob by blob."""

    def __init__(self) -> None:
        self.tar = Tar()

    def blob(self, document: object) -> dict[str, Any]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.tar.file(f"blobs/sha256/{digest}", data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def manifest(self, *layers: dict[str, Any]) -> dict[str, Any]:
        config = self.blob(b"{}")
        return self.blob({"schemaVersion": 2, "config": config, "layers": list(layers)})

    def index(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        return self.blob({"schemaVersion": 2, "manifests": entries}) | {"mediaType": INDEX}

    def images(self, entries: list[dict[str, Any]]) -> tuple[archive.ArchivedImage, ...]:
        self.tar.file("oci-layout", b"{}")
        top = {"schemaVersion": 2, "manifests": entries}
        self.tar.file("index.json", json.dumps(top).encode())
        with memory_file(self.tar.data()) as fd, archive.open_files(fd, "it") as files:
            return archive.read_images(files, HERE)


def test_a_manifest_that_many_entries_name_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last layer is missing, so it is found for none of them."""
    monkeypatch.setattr(archive, "NAMES_MAX", 2000)
    made = Made()
    there = made.blob(b"layer")
    broken = made.manifest(*[there] * 200, {"digest": f"sha256:{'0' * 64}", "size": 1})
    whole = made.manifest(there)
    several = [
        made.index([
            broken | {"platform": {"os": "linux", "architecture": f"a{index}", "variant": f"{n}"}}
            for n in range(99)
        ]) for index in range(5)
    ]  # fmt: skip
    others = [one | {"platform": {"os": "linux", "architecture": "nonesuch"}} for one in several]
    assert len(made.images([*others, whole])) == 1


def test_indexes_within_indexes_are_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        made = Made()
        inner = made.index([made.manifest()] * 40)
        made.images([made.index([inner] * 40)])

    load()
    for name, most in (("NAMES_MAX", 1000), ("DOCUMENTS_MAX", 100_000)):
        with monkeypatch.context() as patch:
            patch.setattr(archive, name, most)
            with pytest.raises(BadArchive, match="its indexes and manifests name too much"):
                load()
