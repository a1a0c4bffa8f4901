"""Names that mean several images, one for each platform: what goes, what stays, what is meant."""

from __future__ import annotations

import json
import os

import pytest

from cove.errors import Conflict, NotFound
from cove.image import catalog, saving, several
from cove.image.loading import load_archive
from cove.image.removing import prune, remove, remove_name
from cove.oci.digest import digest_of
from cove.oci.manifest import host_platform_of
from cove.store import gc
from cove.store.db import Store
from cove.store.records import ImageRecord
from tests.images.tars import memory_file
from tests.images.test_catalog import imported, machine

NAME = "docker.io/library/app:1"
HERE = host_platform_of()
OTHER = "s390x" if HERE.architecture != "s390x" else "amd64"


def pair(store: Store) -> tuple[ImageRecord, ImageRecord]:
    """``app:1`` for another platform and for this host's, in this order."""
    one = imported(store, "", b"1", platform=f"linux/{OTHER}")
    two = imported(store, "", b"2", platform=str(HERE))
    several.name(store, NAME, (one, two))
    return one, two


def everything(record: ImageRecord) -> bool:
    return True


def test_what_is_meant(store: Store) -> None:
    one, two = pair(store)
    assert catalog.resolve(store, "app:1") == two
    assert catalog.resolve(store, "app:1", f"linux/{OTHER}") == one
    assert catalog.resolve(store, "app:1", str(HERE)) == two
    assert {found.record.id: found.tags for found in catalog.listed(store) if found.tags} == {
        one.id: ("app:1",), two.id: ("app:1",), "host": ("host",)
    }  # fmt: skip
    store.tag(NAME, one.id)
    assert catalog.resolve(store, "app:1", str(HERE)) == one
    assert store.indexes() == []


def test_it_is_there_after_reopening_and_nothing_of_it_is_collected(store: Store) -> None:
    one, two = pair(store)
    store.close()
    with Store.open(store.layout.root) as again:
        known = again.index(NAME)
        assert known is not None and known.images == (one.id, two.id)
        gc.collect(again)
        assert several.members(again, known) == (one, two)
        assert again.names_of(one.id) == again.names_of(two.id) == [NAME]


def test_the_name_takes_all_with_it_but_those_that_have_another(store: Store) -> None:
    one, two = pair(store)
    store.tag("docker.io/library/other:1", one.id)
    gone = remove_name(store, "app:1")
    assert [found.deleted[:1] for found in gone] == [(), (two.id,)]
    assert store.images() == [one] and store.tags() == {"docker.io/library/other:1": one.id}
    assert remove_name(store, "other:1")[0].deleted[0] == one.id
    assert store.layers() == [] and store.indexes() == []


def test_one_that_a_machine_is_made_of_keeps_all(store: Store) -> None:
    one, two = pair(store)
    made = machine(store, two.id, state="exited")
    with pytest.raises(Conflict, match=f"machine {made.name} is made of it"):
        remove_name(store, "app:1")
    assert store.index(NAME) is not None and len(store.images()) == 2
    remove_name(store, "app:1", force=True)
    assert store.images() == [two] and store.tags() == {}
    assert store.image(one.id) is None


def test_one_of_them_by_id(store: Store) -> None:
    one, two = pair(store)
    with pytest.raises(Conflict, match="it is one of 2 that app:1 means"):
        remove(store, two.id)
    gone = remove(store, two.id, force=True)
    assert gone.untagged == () and gone.deleted[0] == two.id
    assert catalog.resolve(store, "app:1") == one and store.index(NAME) is None
    assert remove(store, one.id).untagged == ("app:1",)
    assert store.images() == []


def test_prune_takes_those_that_nobody_uses(store: Store) -> None:
    one, two = pair(store)
    assert prune(store, everything=False, wanted=everything, unfinished=False).images == ()
    machine(store, two.id, state="exited")
    gone = prune(store, everything=True, wanted=everything, unfinished=False).images
    assert [found.untagged for found in gone] == [()] and gone[0].image == one.id
    assert catalog.resolve(store, "app:1") == two and store.index(NAME) is None


def test_one_more_takes_the_place_of_one_for_the_same_platform(store: Store) -> None:
    one, two = pair(store)
    three = imported(store, "", b"3", platform=f"linux/{OTHER}")
    several.add(store, NAME, three)
    known = store.index(NAME)
    assert known is not None and set(known.images) == {two.id, three.id}
    assert catalog.resolve(store, "app:1") == two and store.names_of(one.id) == []
    several.add(store, "docker.io/library/new:1", three)
    assert store.index("docker.io/library/new:1") is None


def written(store: Store, name: str, *, docker: bool = False) -> bytes:
    fd = os.memfd_create("archive")
    try:
        saving.write(store, saving.chosen(store, (name,)), fd, bool, docker=docker)
        return os.pread(fd, 1 << 24, 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("docker", [False, True])
def test_out_and_in_again(store: Store, docker: bool) -> None:
    """Also by way of an archive that Docker reads: what that has besides is read by cove."""
    one, two = pair(store)
    data = written(store, "app:1", docker=docker)
    remove_name(store, "app:1")
    assert store.images() == []
    with memory_file(data) as fd:
        loaded = load_archive(store, fd)
    assert [(found.id, found.tags) for found in loaded] == [(one.id, ()), (two.id, ("app:1",))]
    known = store.index(NAME)
    assert known is not None and known.images == (one.id, two.id)
    document = json.loads(known.document)
    assert [entry["platform"]["architecture"] for entry in document["manifests"]] == [
        OTHER, HERE.architecture
    ]  # fmt: skip
    assert digest_of(known.document) in written(store, "app:1", docker=docker).decode("latin-1")


def test_one_of_them_out(store: Store) -> None:
    one, _ = pair(store)
    chosen = saving.chosen(store, ("app:1",), f"linux/{OTHER}")
    assert [image.record for image in chosen.images] == [one] and chosen.indexes == ()
    assert chosen.images[0].names == (NAME,)
    with pytest.raises(NotFound, match="not for linux/mips"):
        saving.chosen(store, ("app:1",), "linux/mips")


def test_an_archive_that_lacks_one_of_them(store: Store) -> None:
    """What is left of an index is loaded as ever: the image for this host."""
    one, two = pair(store)
    data = written(store, "app:1")
    config = f"blobs/sha256/{one.id[7:]}".encode()
    assert data.count(config) == 1
    data = data.replace(config, b"blobs/sha256/" + b"0" * 64)
    at = data.index(b"blobs/sha256/" + b"0" * 64)
    header = bytearray(data[at : at + 512])
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    remove_name(store, "app:1")
    with memory_file(data[:at] + bytes(header) + data[at + 512 :]) as fd:
        loaded = load_archive(store, fd)
    assert [(found.id, found.tags) for found in loaded] == [(two.id, ("app:1",))]
    assert store.indexes() == []
