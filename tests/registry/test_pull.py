"""Images that skopeo pushed to Debian's registry, pulled: the same tree, whoever asks for what."""

from __future__ import annotations

import gzip
import json
import subprocess
import threading
from pathlib import Path

import pytest
import zstandard

from cove.errors import CoveError, HostError, NotFound, UsageError
from cove.image import catalog, removing
from cove.image.layers import Step
from cove.image.pulling import pull
from cove.oci.auth import Credentials
from cove.oci.digest import digest_of
from cove.oci.web import Patience
from cove.store.db import Store
from tests.driver import wait_until
from tests.images.tars import Tar, tree
from tests.images.test_load import mount, run
from tests.registry.registries import (
    INDEX,
    PASSWORD,
    USER,
    Fake,
    FakeImage,
    TokenServer,
    push,
    stall,
)

LOGIN = Credentials(USER, PASSWORD)


@pytest.mark.parametrize("form", ["oci", "v2s2", "zstd", "plain tar"])
def test_the_tree_is_what_umoci_unpacks(
    store: Store, plain: str, layout: Path, tmp_path: Path, merged: Path, form: str
) -> None:
    options = {"zstd": ("--dest-compress-format", "zstd"), "v2s2": ("--format", "v2s2")}
    name = f"{plain}/team/{form.replace(' ', '')}:1"
    source = f"oci:{layout}:1.0"
    if form == "plain tar":
        run("skopeo", "--insecure-policy", "copy", source, f"dir:{tmp_path}/dir",
            "--dest-decompress")  # fmt: skip
        source = f"dir:{tmp_path}/dir"
        options[form] = ("--dest-oci-accept-uncompressed-layers",)
    push(source, name, *options.get(form, ()))
    pulled = pull(store, name)
    assert pulled.fresh
    mount(store, pulled.id, merged)
    run("umoci", "unpack", "--image", f"{layout}:1.0", tmp_path / "theirs")
    ours, theirs = tree(merged), tree(tmp_path / "theirs/rootfs")
    assert ours.keys() == theirs.keys()
    for entry, expected in theirs.items():
        assert ours[entry] == expected, entry


def test_the_record(store: Store, plain: str, layout: Path) -> None:
    name = f"{plain}/record:1"
    push(f"oci:{layout}:1.0", name)
    pulled = pull(store, name)
    record = catalog.resolve(store, name)
    assert record.id == pulled.id and record.digests == (f"{plain}/record@{pulled.digest}",)
    assert catalog.resolve(store, f"{plain}/record@{pulled.digest}").id == pulled.id
    assert not pull(store, name).fresh
    assert not pull(store, f"{plain}/record:1@{pulled.digest}").fresh
    removing.remove(store, name)
    assert store.layers() == []
    by_digest = pull(store, f"{plain}/record@{pulled.digest}")
    assert by_digest.fresh and store.tags() == {}
    assert catalog.resolve(store, f"{plain}/record@{pulled.digest}").id == pulled.id


def test_basic_authentication(store: Store, basic: str, layout: Path) -> None:
    name = f"{basic}/team/web:1"
    push(f"oci:{layout}:1.0", name, "--dest-creds", f"{USER}:{PASSWORD}")
    assert pull(store, name, credentials=LOGIN).fresh
    for login in (None, Credentials(USER, "wrong")):
        with pytest.raises(CoveError, match="access denied") as denied:
            pull(store, f"{basic}/team/web:2", credentials=login)
        assert denied.value.exit_code == 1 and "name right?" in denied.value.hint
        assert PASSWORD not in denied.value.render()


def test_tokens(store: Store, guarded: str, tokens: TokenServer, layout: Path) -> None:
    creds = ("--dest-creds", f"{USER}:{PASSWORD}")
    for name in ("public/web:1", "secret/web:1"):
        push(f"oci:{layout}:1.0", f"{guarded}/{name}", *creds)
    tokens.asked.clear()
    assert pull(store, f"{guarded}/public/web:1").fresh
    ((who, query),) = tokens.asked
    assert (who, query["scope"], query["service"]) == ("", ["repository:public/web:pull"], ["test"])
    with pytest.raises(CoveError, match="access denied"):
        pull(store, f"{guarded}/secret/web:1")
    assert pull(store, f"{guarded}/secret/web:1", credentials=LOGIN).fresh
    with pytest.raises(CoveError, match="access denied") as denied:
        pull(store, f"{guarded}/secret/other:1", credentials=Credentials("eve", "x"))
    assert "who is that?" in denied.value.host


# ---- what an image may be ----

FILES = Tar().dir("bin", mode=0o755).file("bin/tool", b"x" * 100_000).data()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_layers_however_they_are_packed(store: Store, fake: Fake, pack) -> None:  # type: ignore[no-untyped-def]
    reference = fake.add("web:1", FakeImage([FILES], pack))
    record = store.image(pull(store, reference).id)
    assert record is not None and record.layers == (digest_of(FILES),)


def test_only_what_is_missing_is_fetched(store: Store, fake: Fake) -> None:
    more = [Tar().file(f"f{number}", bytes(10)).data() for number in range(4)]
    first, second = FakeImage([FILES, *more[:2]]), FakeImage([FILES, *more])
    pull(store, fake.add("one:1", first))
    before = fake.count("/blobs/")
    assert before == 4
    pull(store, fake.add("two:1", second))
    assert fake.count("/blobs/") == before + 3, "the config and two layers"
    pull(store, fake.add("three:1", second))
    assert fake.count("/blobs/") == before + 3, "another name of what is here"


def test_a_moved_tag(store: Store, fake: Fake) -> None:
    old = pull(store, fake.add("web:1", FakeImage([FILES])))
    new = pull(store, fake.add("web:1", FakeImage([FILES, Tar().file("new").data()])))
    assert new.fresh and new.id != old.id
    assert catalog.resolve(store, f"{fake.host}/web:1").id == new.id
    assert store.image(old.id) is not None, "it has lost its name only"


def test_two_pulls_at_once_fetch_once(store: Store, fake: Fake) -> None:
    tars = [Tar().file(f"f{number}", bytes([number]) * 3_000_000).data() for number in range(5)]
    image = FakeImage(tars, gzip.compress)
    reference = fake.add("web:1", image)
    other = fake.add("other:1", image)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            pull(store, name)
        except BaseException as error:
            failures.append(error)

    names = [reference, reference, other, reference]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for layer in image.document["layers"]:
        assert fake.count(str(layer["digest"])) == 1
    assert len(store.images()) == 1 and len(store.layers()) == 5


def test_one_of_two_gives_up(store: Store, fake: Fake) -> None:
    """The other one goes on by itself."""
    image, event, stopped = FakeImage([FILES]), threading.Event(), threading.Event()
    reference = fake.add("web:1", image)
    fake.fault(image.layer, stall(event))
    errors: list[BaseException] = []

    def first() -> None:
        try:
            pull(store, reference, stopped=stopped)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    wait_until(lambda: fake.count(image.layer) == 1)

    def told(step: Step) -> None:
        if step.stage == "waiting":
            stopped.set()

    assert pull(store, reference, progress=told).fresh
    thread.join()
    event.set()
    assert [type(error).__name__ for error in errors] == ["Stopped"]
    assert fake.count(image.layer) == 2


# ---- platforms ----


def test_the_platform_of_an_index(store: Store, fake: Fake) -> None:
    images = {name: FakeImage([FILES, Tar().file(name).data()], architecture=name)
              for name in ("amd64", "arm64")}  # fmt: skip
    for image in images.values():
        fake.add("parts", image)
    entries = [i.descriptor(architecture=n, os="linux") for n, i in images.items()]
    entries.append(images["amd64"].descriptor(architecture="unknown", os="unknown"))
    document = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    for tag in ("parts:1",):
        fake.put(tag, INDEX, document)
    reference = f"{fake.host}/parts:1"
    for platform, name in (
        ("linux/arm64", "arm64"),
        ("amd64", "amd64"),
        ("linux/arm64/v8", "arm64"),
    ):
        pulled = pull(store, reference, platform=platform)
        record = store.image(pulled.id)
        assert record is not None and record.config["architecture"] == name
        assert pulled.digest == digest_of(document)
    with pytest.raises(NotFound, match="no image for linux/s390x") as missing:
        pull(store, reference, platform="linux/s390x")
    assert missing.value.host == "it has: linux/amd64, linux/arm64"
    assert missing.value.origin == "--platform linux/s390x"


def test_an_image_for_another_platform(store: Store, fake: Fake) -> None:
    reference = fake.add("web:1", FakeImage([FILES], architecture="riscv64"))
    with pytest.raises(NotFound, match="no image for linux/arm64") as missing:
        pull(store, reference, platform="linux/arm64")
    assert missing.value.host == "it has: linux/riscv64"
    assert pull(store, reference).fresh, "one that stands alone is taken where nothing was asked"


def test_indexes_without_end(store: Store, fake: Fake) -> None:
    image = FakeImage([FILES])
    fake.add("web", image)
    entry = image.descriptor()
    for _ in range(6):
        document = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        fake.put("web:deep", INDEX, document)
        entry = {"mediaType": INDEX, "digest": digest_of(document), "size": len(document)}
    with pytest.raises(CoveError, match="indexes within indexes"):
        pull(store, f"{fake.host}/web:deep")


def test_what_is_built_in_is_not_pulled(store: Store) -> None:
    with pytest.raises(UsageError, match="built in"):
        pull(store, "host:latest")


def own_address() -> str:
    """An address of this host that is not loopback; what is sent there does not leave it."""
    found = subprocess.run(
        ["ip", "-4", "-o", "addr", "show", "scope", "global"], capture_output=True, text=True
    ).stdout.split()
    if "inet" not in found:
        pytest.skip("this host has no address but loopback")
    return found[found.index("inet") + 1].partition("/")[0]


def test_http_only_where_it_is_configured(store: Store) -> None:
    address, config = own_address(), Path(store.layout.registries)
    fake = Fake(address)
    try:
        reference = fake.add("web:1", FakeImage([FILES]))
        with pytest.raises(HostError, match="no secure connection"):
            pull(store, reference, patience=Patience(connect=2, read=2))
        assert fake.requests == []
        config.write_text(json.dumps({"insecure": [f"{address}/32"]}))
        assert pull(store, reference).fresh
        config.write_text('{"insecur": []}')
        with pytest.raises(UsageError, match=r"cannot read .*registries\.json"):
            pull(store, reference)
    finally:
        fake.close()
