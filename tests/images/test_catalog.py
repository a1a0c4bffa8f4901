"""Importing, naming, finding and removing images."""

from __future__ import annotations

import gzip

import msgspec
import pytest

from cove.errors import Conflict, NotFound, UsageError
from cove.image import catalog
from cove.image.importing import import_rootfs
from cove.spec.machine import MachineSpec
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, MachineRecord
from tests.images.tars import Tar, memory_file


def imported(store: Store, name: str, content: bytes = b"1", **options: object) -> ImageRecord:
    with memory_file(gzip.compress(Tar().file("a", content).data())) as fd:
        return import_rootfs(store, fd, name, **options)  # type: ignore[arg-type]


def machine(store: Store, image: str, *, state: str, remove: bool = False) -> MachineRecord:
    key = store.new_key()
    spec = MachineSpec(image, remove=remove)
    record = MachineRecord(key, f"{key:064x}", f"m{key}", spec, image, state, 0.0)
    store.put_machine(record)
    return record


def test_import_makes_a_config_as_docker_does(store: Store) -> None:
    record = imported(store, "web:1", changes=('CMD ["x"]',), message="made", platform="arm64")
    assert record.config["config"] == {"Cmd": ["x"]}
    assert (record.config["architecture"], record.config["os"]) == ("arm64", "linux")
    assert record.config["rootfs"] == {"type": "layers", "diff_ids": list(record.layers)}
    assert msgspec.json.decode(Blobs(store.layout).read(record.id)) == record.config
    assert catalog.image_config(record).cmd == ("x",)
    assert catalog.resolve(store, "web:1") == record


@pytest.mark.parametrize("name", ["host", "host:1", "web@sha256:" + "a" * 64, "Web"])
def test_names_an_image_cannot_have(store: Store, name: str) -> None:
    with pytest.raises(UsageError):
        imported(store, name)
    assert store.images() == []


@pytest.mark.parametrize("name", ["host", "host:latest", "host:built-in"])
def test_host_is_found_by_what_is_listed(store: Store, name: str) -> None:
    assert catalog.resolve(store, name).id == "host"


def test_an_unknown_image_has_a_hint(store: Store) -> None:
    with pytest.raises(NotFound, match='cannot find image "nope": it is not in the') as caught:
        catalog.resolve(store, "nope")
    for word in (
        "host",
        "cove images",
        "bootstrap debian:bookworm",
        "cove load",
        "cove image import",
    ):
        assert word in caught.value.hint
    imported(store, "team/webserver")
    with pytest.raises(NotFound) as caught:
        catalog.resolve(store, "team/websrver")
    assert caught.value.hint == "did you mean team/webserver?"


def test_an_image_is_found_by_name_and_id(store: Store) -> None:
    record = imported(store, "team/web:1")
    digits = record.id.removeprefix("sha256:")
    for text in ("team/web:1", "docker.io/team/web:1", record.id, digits, digits[:12], digits[:4]):
        assert catalog.resolve(store, text) == record
    with pytest.raises(NotFound):
        catalog.resolve(store, "team/web")
    firsts = [record.id[7], *(imported(store, "", b"%d" % i).id[7] for i in range(16))]
    shared = max(firsts, key=firsts.count)  # 17 ids and 16 digits
    with pytest.raises(Conflict, match=r"\d+ images have ids"):
        catalog.resolve(store, shared)


def test_a_new_image_takes_the_name_and_the_old_one_stays(store: Store) -> None:
    old, new = imported(store, "web"), imported(store, "web", b"2")
    assert catalog.resolve(store, "web") == new
    listed = catalog.listed(store)
    assert [(image.record.id, image.tags) for image in listed] == [
        (new.id, ("web:latest",)),
        (old.id, ()),
        ("host", ("host",)),
    ]


def test_a_whole_id_is_never_a_name(store: Store) -> None:
    """An archive may call its image by the id of another one, which somebody trusts."""
    mine, other = imported(store, "web:1"), imported(store, "other:1", b"2")
    for name in (mine.id, mine.id.removeprefix("sha256:")):
        store.tag(f"docker.io/library/{name}", other.id)
        assert catalog.resolve(store, name) == mine
