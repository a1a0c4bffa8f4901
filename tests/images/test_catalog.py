"""Importing, naming, finding and removing images."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

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
    other = record
    for i in range(40):
        other = imported(store, "", b"%d" % i)
        if other.id[7] == record.id[7]:
            break
    with pytest.raises(Conflict, match=r"[2-9] images have ids"):
        catalog.resolve(store, other.id[7:8])


def test_a_new_image_takes_the_name_and_the_old_one_stays(store: Store) -> None:
    old, new = imported(store, "web"), imported(store, "web", b"2")
    assert catalog.resolve(store, "web") == new
    listed = catalog.listed(store)
    assert [(image.record.id, image.tags) for image in listed] == [
        (new.id, ("web:latest",)),
        (old.id, ()),
        ("host", ("host",)),
    ]


def test_the_last_name_takes_the_image_with_it(store: Store) -> None:
    record = imported(store, "web:1")
    store.tag("docker.io/library/web:2", record.id)
    assert catalog.remove(store, "web:1").untagged == ("web:1",)
    assert catalog.resolve(store, "web:2") == record
    removed = catalog.remove(store, "web:2")
    assert removed.untagged == ("web:2",)
    assert removed.deleted == (record.id, *record.layers)
    assert store.layers() == [] and Blobs(store.layout).digests() == []
    assert not [name for name in os.listdir(store.layout.roots) if name.startswith("l")]


def test_a_shared_layer_stays(store: Store) -> None:
    one, two = imported(store, "one", message="1"), imported(store, "two", message="2")
    assert one.layers == two.layers and one.id != two.id
    assert catalog.remove(store, "one").deleted == (one.id,)
    assert Path(store.layout.layer(catalog.layer_keys(store, two)[0]), "a").exists()


def test_several_names_and_an_id(store: Store) -> None:
    record = imported(store, "web:1")
    store.tag("docker.io/library/web:2", record.id)
    with pytest.raises(Conflict, match="it has 2 names: web:1, web:2"):
        catalog.remove(store, record.id)
    removed = catalog.remove(store, record.id, force=True)
    assert removed.untagged == ("web:1", "web:2") and record.id in removed.deleted


@pytest.mark.parametrize("state", ["created", "exited"])
def test_an_image_of_a_stopped_machine_needs_force_and_stays(store: Store, state: str) -> None:
    record = imported(store, "web")
    user = machine(store, record.id, state=state)
    with pytest.raises(Conflict, match=f"machine {user.name} is made of it"):
        catalog.remove(store, "web")
    removed = catalog.remove(store, "web", force=True)
    assert (removed.untagged, removed.deleted) == (("web:latest",), ())
    assert store.image(record.id) == record and store.tags() == {}


def test_a_machine_on_its_way_out_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = imported(store, "web")
    user = machine(store, record.id, state="exited", remove=True)
    monkeypatch.setattr(catalog.time, "sleep", lambda _: store.remove_machine(user.key))
    assert record.id in catalog.remove(store, "web").deleted


@pytest.mark.parametrize("force", [False, True])
def test_an_image_of_a_running_machine_stays_whatever_is_asked(store: Store, force: bool) -> None:
    record = imported(store, "web")
    user = machine(store, record.id, state="running")
    with pytest.raises(Conflict, match=f"machine {user.name} runs it"):
        catalog.remove(store, "web", force=force)
    assert catalog.resolve(store, "web") == record


def test_host_cannot_be_removed(store: Store) -> None:
    with pytest.raises(UsageError, match="cannot remove image host: it is built in"):
        catalog.remove(store, "host", force=True)
