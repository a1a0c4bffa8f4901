"""A pull that was cut off is taken up where it was, by whoever comes next; what it kept goes after
a day, or by prune, and never while somebody counts on it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from cove.engine.system import disk
from cove.errors import BadArchive, HostError
from cove.image import catalog, leftovers, removing
from cove.image.pulling import pull
from cove.oci.web import Patience
from cove.store.db import Store
from cove.store.gc import collect, expire, partial_name, strays
from cove.store.records import LeftoverRecord
from tests.driver import Cove, wait_until
from tests.images.tars import Tar, tree
from tests.images.test_load import mount
from tests.kernel.conftest import open_engine
from tests.registry.registries import Fake, FakeImage, blob_requests, body, cut, stall
from tests.registry.test_verbs import bb, fresh, last, web

__all__ = ["bb", "fresh", "web"]

ONCE = Patience(attempts=1, pause=0.01)
KEPT = 1_300_000
"""Bytes of a layer that come before it is cut."""


@pytest.fixture
def image() -> FakeImage:
    """Layers that are worth keeping in part."""
    return FakeImage([Tar().file(f"data{n}", os.urandom(2_000_000)).data() for n in range(4)])


def names(image: FakeImage) -> list[str]:
    return [str(layer["digest"]) for layer in image.document["layers"]]


def parts(store_root: Path | str) -> dict[str, int]:
    place = Path(store_root) / "partial"
    return {path.name: path.stat().st_size for path in place.iterdir()}


def cut_off(store: Store, fake: Fake, image: FakeImage, reference: str, at: int = KEPT) -> None:
    """A pull whose last layer is cut, and that has no patience."""
    before = [fake.count(name) for name in names(image)[:3]]
    blocked = names(image)[3]

    def late(request: object, data: bytes) -> bool:
        # The others first: how much is kept is then known.
        wait_until(lambda: len(store.layers()) >= 3)
        return cut(at)(request, data)  # type: ignore[arg-type]

    fake.fault(blocked, late)
    with pytest.raises(HostError, match="the connection was cut"):
        pull(store, reference, patience=ONCE)
    assert [fake.count(name) for name in names(image)[:3]] == [count + 1 for count in before]


# ---- taken up ----


def test_the_next_pull_fetches_only_the_rest(store: Store, fake: Fake, image: FakeImage) -> None:
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    assert parts(store.layout.root) == {partial_name(names(image)[3]): KEPT}
    assert len(store.layers()) == 3 and store.images() == []
    (known,) = store.leftovers()
    assert set(known.layers) == set(map(str, json.loads(image.config)["rootfs"]["diff_ids"]))
    pulled = pull(store, reference, patience=ONCE)
    assert [fake.count(name) for name in names(image)] == [1, 1, 1, 2]
    assert blob_requests(fake, names(image)[3]) == ["", f"bytes={KEPT}-"]
    assert parts(store.layout.root) == {} and store.leftovers() == []
    assert len(catalog.layer_keys(store, catalog.resolve(store, pulled.id))) == 4


def test_the_tree_is_the_same(
    store: Store, fake: Fake, image: FakeImage, merged: Path, tmp_path: Path
) -> None:
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    mount(store, pull(store, reference).id, merged)
    found = tree(merged)
    for number, tar in enumerate(image.tars):
        assert (merged / f"data{number}").read_bytes() == tar[512 : 512 + 2_000_000]
    assert len(found) == 4


def test_a_whole_blob_is_not_asked_for_again(store: Store, fake: Fake, image: FakeImage) -> None:
    """Cut off between the last byte and the layer."""
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    blob = names(image)[3]
    (Path(store.layout.partial) / partial_name(blob)).write_bytes(image.blobs[blob])
    pull(store, reference)
    assert fake.count(blob) == 1


def test_another_image_takes_it_up_too(store: Store, fake: Fake, image: FakeImage) -> None:
    cut_off(store, fake, image, fake.add("web:1", image))
    other = FakeImage(image.tars[3:])
    pull(store, fake.add("other:1", other))
    assert blob_requests(fake, names(image)[3])[-1] == f"bytes={KEPT}-"


def test_a_registry_that_cannot_resume_sends_it_all(
    store: Store, fake: Fake, image: FakeImage
) -> None:
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    fake.fault(names(image)[3], body(image.blobs[names(image)[3]]))
    pull(store, reference, patience=ONCE)


def test_a_moved_tag_lets_the_former_go(store: Store, fake: Fake, image: FakeImage) -> None:
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    other = FakeImage([Tar().file("x", b"1").data()])
    fake.add("web:1", other)
    pull(store, reference)
    assert parts(store.layout.root) == {} and len(store.layers()) == 1


# ---- damaged ----


@pytest.mark.parametrize("damage", ["other bytes", "too long"])
def test_kept_bytes_that_are_wrong(store: Store, fake: Fake, image: FakeImage, damage: str) -> None:
    """A power cut may leave anything there: then the blob is fetched from its beginning."""
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    file = Path(store.layout.partial) / partial_name(names(image)[3])
    file.write_bytes(bytes(KEPT) if damage == "other bytes" else bytes(9_000_000))
    pull(store, reference, patience=ONCE)
    assert blob_requests(fake, names(image)[3])[-1] == ""
    assert parts(store.layout.root) == {}


def test_a_wrong_layer_is_not_kept(store: Store, fake: Fake, image: FakeImage) -> None:
    reference = fake.add("web:1", image)
    size = len(image.blobs[names(image)[3]])
    for _ in range(2):
        fake.fault(names(image)[3], body(bytes(size)))
        with pytest.raises(BadArchive):
            pull(store, reference, patience=ONCE)
    assert parts(store.layout.root) == {} and store.leftovers() == []
    assert store.layers() == []


def test_a_link_in_its_place_is_not_followed(
    store: Store, fake: Fake, image: FakeImage, tmp_path: Path
) -> None:
    reference = fake.add("web:1", image)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in names(image):
        (Path(store.layout.partial) / partial_name(name)).symlink_to(victim)
    pull(store, reference)
    assert victim.read_text() == "mine"


def test_nothing_is_kept_where_room_is_scarce(
    store: Store, fake: Fake, image: FakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = fake.add("web:1", image)
    monkeypatch.setattr(leftovers, "free_bytes", lambda path: 1_000_000)
    cut_off(store, fake, image, reference)
    assert parts(store.layout.root) == {}
    assert len(store.layers()) == 3


# ---- how long ----


def test_it_is_kept_for_a_day(store: Store, fake: Fake, image: FakeImage) -> None:
    cut_off(store, fake, image, fake.add("web:1", image))
    (known,) = store.leftovers()
    leftovers.expire(store, known.time)
    assert len(store.layers()) == 3 and parts(store.layout.root)
    leftovers.expire(store, known.time + 1)
    assert store.layers() == [] and parts(store.layout.root) == {} and store.leftovers() == []


def test_a_daemon_that_goes_on_gives_it_up_too(
    bb_tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "EXPIRE_EVERY", 0.05)
    with open_engine(bb_tar) as engine:
        store = engine.home.store
        for name, moment in (("old", 1.0), ("new", time.time())):
            store.put_leftover(LeftoverRecord(name, (), (), moment))
        wait_until(lambda: [known.name for known in store.leftovers()] == ["new"])


def test_the_next_daemon_keeps_it_for_a_day(store: Store, fake: Fake, image: FakeImage) -> None:
    cut_off(store, fake, image, fake.add("web:1", image))
    stray = Path(store.layout.partial) / partial_name("sha256:" + "0" * 64)
    stray.write_bytes(b"of nobody")
    (known,) = store.leftovers()
    expire(store, known.time)
    assert collect(store).layers == ()
    assert strays(store) == [str(stray)]
    expire(store, known.time + 1)
    assert len(collect(store).layers) == 3
    assert len(strays(store)) == 5
    stray.unlink()


def test_prune_takes_it(store: Store, fake: Fake, image: FakeImage) -> None:
    cut_off(store, fake, image, fake.add("web:1", image))
    found = removing.prune(store, everything=False, wanted=lambda r: True, unfinished=True)
    assert len(found.layers) == 3 and found.partial >= KEPT
    assert store.layers() == [] and parts(store.layout.root) == {} and store.leftovers() == []


@pytest.mark.parametrize("everything", [False, True])
def test_prune_beside_a_pull(store: Store, fake: Fake, image: FakeImage, everything: bool) -> None:
    """What the pull has finished and what it is fetching stay, whatever is pruned."""
    reference = fake.add("web:1", image)
    event, results = threading.Event(), []
    fake.fault(names(image)[3], stall(event, KEPT))

    def work() -> None:
        results.append(pull(store, reference, patience=Patience(attempts=3, pause=0.01)))

    thread = threading.Thread(target=work)
    thread.start()
    part = partial_name(names(image)[3])
    wait_until(lambda: len(store.layers()) == 3 and parts(store.layout.root).get(part) == KEPT)
    found = removing.prune(store, everything=everything, wanted=lambda r: True, unfinished=True)
    assert (found.layers, found.partial) == ((), 0)
    leftovers.expire(store, time.time() + 1e6)
    assert len(store.layers()) == 3 and store.leftovers()
    event.set()
    thread.join(120)
    assert results and [fake.count(name) for name in names(image)[:3]] == [1, 1, 1]
    assert blob_requests(fake, names(image)[3]) == ["", f"bytes={KEPT}-"]
    assert len(catalog.layer_keys(store, catalog.resolve(store, reference))) == 4


def test_removing_an_image_leaves_what_is_kept(store: Store, fake: Fake, image: FakeImage) -> None:
    reference = fake.add("web:1", image)
    cut_off(store, fake, image, reference)
    pull(store, fake.add("other:1", FakeImage(image.tars[:1])))
    removing.remove(store, f"{fake.host}/other:1")
    assert len(store.layers()) == 3
    pull(store, reference)
    assert fake.count(names(image)[0]) == 1


def test_a_store_of_before_has_nothing_kept(store: Store) -> None:
    """An older cove had no such table."""
    assert store.leftovers() == []
    for later in ("leftover", "snapshot", "stratum", "network", "volume", "build", "image_index"):
        store._execute(f"DROP TABLE {later}")
    store._execute("PRAGMA user_version = 1")
    root = store.layout.root
    store.close()
    with Store.open(root) as again:
        leftovers.begin(again, "web", (), ())
        assert [known.name for known in again.leftovers()] == ["web"]
        again.remove_leftover("web")


def test_records_are_read_back(store: Store) -> None:
    leftovers.begin(store, "web", ("sha256:" + "1" * 64,), ("sha256:" + "2" * 64,))
    before = store.leftovers()
    store._load()
    assert store.leftovers() == before and msgspec.json.encode(before)


# ---- through the command ----


def test_interrupted(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    fresh("ps")
    event = threading.Event()
    for turn, words in enumerate((("pull", web), ("run", "--rm", web, "true"))):
        at = 300_000 * (turn + 1)
        fake.fault(last(bb), stall(event, 300_000))
        before = fake.count(last(bb))
        child = fresh.spawn(*words)
        wait_until(lambda before=before: fake.count(last(bb)) > before)  # type: ignore[misc]
        wait_until(lambda at=at: list(parts(fresh.root).values()) == [at])  # type: ignore[misc]
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=180)
        assert child.returncode == 130, err
        wait_until(lambda: os.listdir(fresh.root / "tmp") == [])
        if not turn:
            # The second goes on where the first was: the registry has but these bytes to stall at.
            fake.faults.clear()
            fake.fault(last(bb), rest_stalls(event, 300_000))
            continue
    event.set()
    assert fresh("images", "-q").out.split() == ["host"]
    fresh("pull", web)
    for layer in bb.document["layers"][:-1]:
        assert fake.count(layer["digest"]) == 1


@pytest.mark.parametrize("where", ["manifest", "config", "first layer", "layer", "last"])
def test_a_killed_daemon(fresh: Cove, fake: Fake, bb: FakeImage, web: str, where: str) -> None:
    """kill -9 at each step: the next daemon keeps what is whole, sweeps the rest, and the next pull
    fetches what is missing.
    """
    fresh("ps")
    event = threading.Event()
    ends = {
        "manifest": "/manifests/1",
        "config": str(bb.document["config"]["digest"]),
        "first layer": bb.layer,
        "layer": str(bb.document["layers"][2]["digest"]),
        "last": last(bb),
    }
    fake.fault(ends[where], stall(event, 300_000))
    child = fresh.spawn("pull", web)
    wait_until(lambda: fake.count(ends[where]) == 1)
    blob = "layer" in where or where == "last"
    if blob:
        wait_until(lambda: parts(fresh.root).get(partial_name(ends[where])) == 300_000)
        wait_until(lambda: four_layers(fresh))
    fresh.kill_daemon()
    child.communicate(timeout=180)
    event.set()
    fresh("ps")
    wait_until(lambda: os.listdir(fresh.root / "tmp") == [])
    assert len(list((fresh.root / "roots").glob("l*"))) == (4 if blob else 0)
    assert fresh("images", "-q").out.split() == ["host"]
    assert "Downloaded" in fresh("pull", web).out
    if blob:
        assert blob_requests(fake, ends[where]) == ["", "bytes=300000-"]
        counts = [fake.count(layer["digest"]) for layer in bb.document["layers"]]
        assert sorted(counts) == [1, 1, 1, 1, 2]
    assert fresh("run", "--rm", web, "echo", "whole").out == "whole\n"
    assert parts(fresh.root) == {}


def four_layers(cove: Cove) -> bool:
    """And their records, which come after the directories: then nothing but the fifth is staged."""
    made = len(list(cove.root.glob("roots/l*")))
    return made == 4 and len(list(cove.root.glob("tmp/layer-*"))) <= 1


def test_a_prune_through_the_command(fresh: Cove, fake: Fake, bb: FakeImage, web: str) -> None:
    fresh("ps")
    event = threading.Event()
    fake.fault(last(bb), stall(event, 300_000))
    child = fresh.spawn("pull", web)
    wait_until(lambda: four_layers(fresh))
    assert fresh("system", "prune", "-af").out == "Total reclaimed space: 0B\n"
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=180)
    event.set()
    # The pull goes on in the daemon for a moment after its caller has left.
    wait_until(lambda: not list(fresh.root.glob("tmp/layer-*")), "its end")
    wait_until(lambda: "Unfinished pulls space usage: " in fresh("system", "df", "-v").out)
    wait_until(lambda: not fresh("image", "prune", "-f").out.endswith(": 0B\n"), "its bytes")
    wait_until(lambda: fresh("image", "prune", "-f").out.endswith(": 0B\n"), "all of them")
    assert parts(fresh.root) == {} and not list((fresh.root / "roots").glob("l*"))[1:]


def rest_stalls(event: threading.Event, count: int):  # type: ignore[no-untyped-def]
    """Answers a Range with ``count`` more bytes, then nothing."""

    def fault(request, data: bytes) -> bool:  # type: ignore[no-untyped-def]
        begin = int(request.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        request.send_response(206)
        request.send_header("Content-Length", str(len(data) - begin))
        request.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        request.wfile.write(data[begin : begin + count])
        request.wfile.flush()
        event.wait(180)
        request.close_connection = True
        return True

    return fault
