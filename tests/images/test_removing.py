"""Which names and images go when one is removed, by Docker's rules; and what prune takes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest

from cove.errors import Conflict, CoveError, NoSuchImage, UsageError
from cove.image import catalog, leftovers, removing
from cove.image.removing import prune, remove
from cove.oci.config import chain_id
from cove.oci.digest import digest_of
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord
from tests.images.test_catalog import imported, machine

DIGEST = "sha256:" + "d" * 64


def known_as(store: Store, record: ImageRecord, *digests: str) -> ImageRecord:
    store.put_image(msgspec.structs.replace(record, digests=digests))
    found = store.image(record.id)
    assert found is not None
    return found


def layer_directories(store: Store) -> list[str]:
    return [name for name in os.listdir(store.layout.roots) if name.startswith("l")]


# ---- by name ----


def test_the_last_name_takes_the_image_with_it(store: Store) -> None:
    record = imported(store, "web:1")
    store.tag("docker.io/library/web:2", record.id)
    assert remove(store, "web:1").untagged == ("web:1",)
    assert catalog.resolve(store, "web:2") == record
    removed = remove(store, "web:2")
    assert removed.untagged == ("web:2",)
    assert removed.deleted == (record.id, *record.layers)
    assert store.layers() == [] and Blobs(store.layout).digests() == []
    assert not layer_directories(store)


def test_a_shared_layer_stays(store: Store) -> None:
    one, two = imported(store, "one", message="1"), imported(store, "two", message="2")
    assert one.layers == two.layers and one.id != two.id
    assert remove(store, "one").deleted == (one.id,)
    assert Path(store.layout.layer(catalog.layer_keys(store, two)[0]), "a").exists()


def test_digests_go_with_the_last_tag_of_their_repository(store: Store) -> None:
    record = imported(store, "web:1")
    store.tag("docker.io/library/web:2", record.id)
    store.tag("r.example/web:1", record.id)
    known_as(store, record, f"docker.io/library/web@{DIGEST}", f"r.example/web@{DIGEST}")
    assert remove(store, "web:1").untagged == ("web:1",)
    removed = remove(store, "web:2")
    assert removed.untagged == ("web:2", f"web@{DIGEST}") and not removed.deleted
    assert removing.references(store, catalog.resolve(store, record.id)) == (
        "r.example/web:1",
        f"r.example/web@{DIGEST}",
    )
    removed = remove(store, "r.example/web:1")
    assert removed.untagged == ("r.example/web:1", f"r.example/web@{DIGEST}")
    assert record.id in removed.deleted


def test_a_digest_is_a_name_too(store: Store) -> None:
    record = known_as(store, imported(store, "web:1"), f"docker.io/library/web@{DIGEST}")
    removed = remove(store, f"web@{DIGEST}")
    assert removed.untagged == (f"web@{DIGEST}",) and not removed.deleted
    assert catalog.resolve(store, "web:1").digests == ()
    store.untag("docker.io/library/web:1")
    known_as(store, record, f"docker.io/library/web@{DIGEST}")
    assert record.id in remove(store, f"web@{DIGEST}").deleted


def test_layers_are_told_by_chain(store: Store) -> None:
    assert chain_id("sha256:a", "sha256:b") == digest_of(b"sha256:a sha256:b")


# ---- by id ----


def test_several_names_and_an_id(store: Store) -> None:
    record = imported(store, "web:1")
    store.tag("docker.io/library/web:2", record.id)
    with pytest.raises(Conflict, match="it has 2 names: web:1, web:2"):
        remove(store, record.id)
    with pytest.raises(Conflict, match="it has 2 names: web:1, web:2"):
        remove(store, record.id[7:15])
    removed = remove(store, record.id, force=True)
    assert removed.untagged == ("web:1", "web:2") and record.id in removed.deleted


def test_one_tag_and_its_digest_are_one_name(store: Store) -> None:
    record = known_as(store, imported(store, "web:1"), f"docker.io/library/web@{DIGEST}")
    removed = remove(store, record.id[7:19])
    assert removed.untagged == ("web:1", f"web@{DIGEST}") and record.id in removed.deleted
    record = known_as(store, imported(store, "web:1"), f"r.example/web@{DIGEST}")
    with pytest.raises(Conflict, match="it has 2 names"):
        remove(store, record.id)


def test_the_beginning_of_two_ids_is_none(store: Store) -> None:
    first = imported(store, "a")
    twin = msgspec.structs.replace(first, id=first.id[:12] + "0" * 59)
    store.put_image(twin)
    with pytest.raises(Conflict, match="2 images have ids"):
        remove(store, first.id[7:11])
    assert store.image(first.id) and store.image(twin.id)
    assert remove(store, first.id[7:19]).image == first.id


# ---- in use ----


@pytest.mark.parametrize("state", ["created", "exited"])
def test_an_image_of_a_stopped_machine_needs_force_and_stays(store: Store, state: str) -> None:
    record = imported(store, "web")
    user = machine(store, record.id, state=state)
    for text in ("web", record.id):
        with pytest.raises(Conflict, match=f"machine {user.name} is made of it"):
            remove(store, text)
    removed = remove(store, "web", force=True)
    assert (removed.untagged, removed.deleted) == (("web:latest",), ())
    assert store.image(record.id) == record and store.tags() == {}


def test_one_of_several_names_needs_no_force(store: Store) -> None:
    record = imported(store, "web:1")
    store.tag("docker.io/library/web:2", record.id)
    machine(store, record.id, state="running")
    assert remove(store, "web:1").untagged == ("web:1",)
    with pytest.raises(Conflict, match="runs it"):
        remove(store, "web:2")


def test_of_a_running_machine_only_the_name_can_go(store: Store) -> None:
    record = imported(store, "web")
    user = machine(store, record.id, state="running")
    for force in (False, True):
        with pytest.raises(Conflict, match=f"machine {user.name} runs it"):
            remove(store, record.id, force=force)
    with pytest.raises(Conflict, match=f"machine {user.name} runs it"):
        remove(store, "web")
    assert catalog.resolve(store, "web") == record
    assert remove(store, "web", force=True).deleted == ()
    assert store.image(record.id) == record and store.tags() == {}


def test_a_machine_on_its_way_out_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = imported(store, "web")
    user = machine(store, record.id, state="exited", remove=True)
    monkeypatch.setattr(removing.time, "sleep", lambda _: store.remove_machine(user.key))
    assert record.id in remove(store, "web").deleted


def test_host_cannot_be_removed(store: Store) -> None:
    with pytest.raises(UsageError, match="cannot remove image host: it is built in"):
        remove(store, "host", force=True)


# ---- prune ----


def pruned(store: Store, *, everything: bool = False, unfinished: bool = True) -> set[str]:
    found = prune(store, everything=everything, wanted=lambda record: True, unfinished=unfinished)
    return {one.image for one in found.images}


def test_prune_takes_what_has_no_tag(store: Store) -> None:
    catalog.listed(store)  # host is there
    nameless, named = imported(store, "", b"1"), imported(store, "named", b"2")
    used, by_digest = imported(store, "", b"3"), imported(store, "", b"4")
    known_as(store, by_digest, f"docker.io/library/web@{DIGEST}")
    machine(store, used.id, state="exited")
    assert pruned(store) == {nameless.id, by_digest.id}
    assert {image.id for image in store.images()} == {"host", named.id, used.id}
    assert pruned(store, everything=True) == {named.id}
    assert {image.id for image in store.images()} == {"host", used.id}
    assert len(layer_directories(store)) == 2


def test_prune_of_wanted_ones_only(store: Store) -> None:
    old, new = imported(store, "", b"1"), imported(store, "", b"2")
    leftovers.begin(store, "web", ("sha256:" + "1" * 64,), ())
    found = prune(store, everything=False, wanted=lambda r: r.id == old.id, unfinished=False)
    assert [one.image for one in found.images] == [old.id]
    assert store.image(new.id) and store.leftovers()


def test_what_a_verb_has_pinned_stays(store: Store) -> None:
    """A pull, load or commit pins before it counts on anything."""
    record = imported(store, "")
    with store.pinned(record.id):
        assert pruned(store) == set()
    with store.pinned(*record.layers):
        assert pruned(store) == {record.id}
        assert [layer.diff_id for layer in store.layers()] == list(record.layers)
        assert len(layer_directories(store)) == 1
    assert pruned(store) == set()
    assert store.layers() == [] and not layer_directories(store)


def test_a_machine_and_its_image_never_miss_each_other(store: Store) -> None:
    """A start has chosen its image, which is pruned before the machine is written; or after."""
    record = imported(store, "")
    late = machine(store, record.id, state="created")
    assert pruned(store, everything=True) == set()
    store.remove_machine(late.key)
    assert pruned(store, everything=True) == {record.id}
    with pytest.raises(NoSuchImage, match="was removed just now") as caught:
        store.add_machine(late, of_image=True)
    assert caught.value.exit_code == 125 and store.machines() == []


def test_prunes_and_imports_at_once(store: Store) -> None:
    """Whatever the order: an image whose import has ended is whole, or gone."""
    over, failures = threading.Event(), []

    def prunes() -> None:
        while not over.is_set():
            try:
                pruned(store)
            except CoveError as error:
                failures.append(error)

    threads = [threading.Thread(target=prunes) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(12):
            record = imported(store, f"web:{turn % 3}", b"%d" % (turn % 4))
            (key,) = catalog.layer_keys(store, record)
            assert Path(store.layout.layer(key), "a").exists()
            assert Blobs(store.layout).read(record.id)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert {name.rpartition(":")[2] for name in store.tags()} == {"0", "1", "2"}
