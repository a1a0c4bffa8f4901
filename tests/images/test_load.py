"""Images as umoci and skopeo make them, loaded, and compared with umoci's own unpack."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from cove.errors import BadArchive
from cove.image import catalog
from cove.image.layers import Step
from cove.image.loading import Loaded, load_archive
from cove.store.db import Store
from tests.conftest import need
from tests.images.tars import Tar, tree


def run(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout of three layers made by umoci: files, a change, and whiteouts."""
    need("umoci")
    place = tmp_path_factory.mktemp("umoci")
    image = place / "image"
    run("umoci", "init", "--layout", image)
    run("umoci", "new", "--image", f"{image}:1.0")
    run("umoci", "unpack", "--image", f"{image}:1.0", place / "bundle")
    rootfs = place / "bundle/rootfs"
    for name in ("bin", "etc/conf.d", "tmp", "home/user", "gone/below", "var/lib"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", rootfs / "bin/busybox")
    for applet in ("sh", "ls", "cat"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    os.link(rootfs / "bin/busybox", rootfs / "bin/hard")
    os.chmod(rootfs / "bin/busybox", 0o4755)
    os.chmod(rootfs / "tmp", 0o1777)
    os.chown(rootfs / "home/user", 1000, 1000)
    (rootfs / "etc/conf.d/a").write_text("a")
    (rootfs / "etc/conf.d/b").write_text("b")
    (rootfs / "gone/below/x").write_text("x")
    (rootfs / "etc/ünï").write_text("name")
    (rootfs / "var/lib" / ("n" * 200)).write_text("long")
    (rootfs / "big").write_bytes(os.urandom(3_000_000))
    os.mkfifo(rootfs / "var/fifo")
    os.setxattr(rootfs / "etc/conf.d/a", "user.note", b"kept")
    os.utime(rootfs / "etc/conf.d", ns=(10**18, 10**18 + 5))
    run("umoci", "repack", "--image", f"{image}:1.0", "--refresh-bundle", place / "bundle")
    (rootfs / "etc/conf.d/b").unlink()
    shutil.rmtree(rootfs / "gone")
    (rootfs / "etc/conf.d/a").write_text("changed")
    run("umoci", "repack", "--image", f"{image}:1.0", "--refresh-bundle", place / "bundle")
    shutil.rmtree(rootfs / "home")
    (rootfs / "home").write_text("now a file")
    (rootfs / "gone").mkdir()
    (rootfs / "gone/new").write_text("new")
    run("umoci", "repack", "--image", f"{image}:1.0", "--refresh-bundle", place / "bundle")
    run("umoci", "config", "--image", f"{image}:1.0", "--config.cmd", "sh",
        "--config.env", "A=b", "--config.user", "1000", "--config.workingdir", "/tmp",
        "--config.exposedports", "80/tcp", "--config.volume", "/data",
        "--config.label", "k=v")  # fmt: skip
    return image


@pytest.fixture
def merged(store: Store, tmp_path: Path) -> Iterator[Path]:
    """Where overlayfs shows the layers of an image as one tree."""
    place = tmp_path / "merged"
    place.mkdir()
    yield place
    subprocess.run(["umount", place], check=False, capture_output=True)


def mount(store: Store, image_id: str, place: Path) -> None:
    record = store.image(image_id)
    assert record is not None
    keys = catalog.layer_keys(store, record)
    empty = place.parent / "empty"
    empty.mkdir(exist_ok=True)
    lower = ":".join([store.layout.layer(key) for key in reversed(keys)] + [str(empty)])
    run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", place)


def only(loaded: tuple[Loaded, ...]) -> Loaded:
    assert len(loaded) == 1
    return loaded[0]


def test_the_tree_is_what_umoci_unpacks(
    store: Store, layout: Path, tmp_path: Path, merged: Path
) -> None:
    loaded = only(load_archive(store, layout))
    mount(store, loaded.id, merged)
    run("umoci", "unpack", "--image", f"{layout}:1.0", tmp_path / "theirs")
    ours, theirs = tree(merged), tree(tmp_path / "theirs/rootfs")
    assert ours.keys() == theirs.keys()
    for name, entry in theirs.items():
        assert ours[name] == entry, name
    assert loaded.tags == ("image:1.0",)


def test_the_config_is_what_was_set(store: Store, layout: Path) -> None:
    record = catalog.resolve(store, only(load_archive(store, layout)).id)
    config = catalog.image_config(record)
    assert (config.cmd, config.user, config.workdir) == (("sh",), "1000", "/tmp")
    assert "A=b" in config.env and config.labels == {"k": "v"}
    assert (config.volumes, config.exposed_ports) == (("/data",), ("80/tcp",))
    assert (config.os, config.architecture) == ("linux", "amd64")
    assert isinstance(record.config["history"], list)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes(store: Store, layout: Path, tmp_path: Path, form: str) -> None:
    need("skopeo")
    first = only(load_archive(store, layout))
    target = tmp_path / "copy"
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:1.0", f"{form}:{target}:team/web:2.0")
    second = only(load_archive(store, target))
    assert second.tags == ("team/web:2.0",)
    one, two = store.image(first.id), store.image(second.id)
    assert one is not None and two is not None and one.layers == two.layers
    assert len(store.layers()) == len(one.layers), "layers are shared by diff ID"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress, bytes])
def test_a_compressed_archive_through_a_pipe(
    store: Store, layout: Path, tmp_path: Path, pack
) -> None:  # type: ignore[no-untyped-def]
    need("skopeo")
    target = tmp_path / "copy"
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:1.0", f"docker-archive:{target}:w:1")
    packed = tmp_path / "packed"
    packed.write_bytes(pack(target.read_bytes()))
    with subprocess.Popen(["cat", packed], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        assert only(load_archive(store, cat.stdout.fileno())).tags == ("w:1",)


@pytest.mark.parametrize("algorithm", ["gzip", "zstd"])
def test_layers_compressed_either_way(
    store: Store, layout: Path, tmp_path: Path, algorithm: str
) -> None:
    need("skopeo")
    target = tmp_path / "copy"
    run("skopeo", "--insecure-policy", "copy", "--dest-compress-format", algorithm,
        "--dest-oci-accept-uncompressed-layers=false", f"oci:{layout}:1.0",
        f"oci:{target}:1.0")  # fmt: skip
    first = store.image(only(load_archive(store, target)).id)
    second = store.image(only(load_archive(store, layout)).id)
    assert first is not None and second is not None and first.layers == second.layers


def test_a_docker_archive_whose_layers_are_links(store: Store) -> None:
    """As ``docker save`` of old wrote images that share a layer."""
    import hashlib

    from tests.images.tars import memory_file

    layer = Tar().file("a", b"1").data()
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    item = {"Config": name, "RepoTags": ["a:1", "b/c:2"], "Layers": ["x/layer.tar"]}
    tar = (
        Tar()
        .file("y/layer.tar", layer)
        .symlink("x/layer.tar", "../y/layer.tar")
        .file(name, config)
        .file("manifest.json", json.dumps([item]).encode())
    )
    with memory_file(tar.data()) as fd:
        loaded = only(load_archive(store, fd))
    assert loaded.id == f"sha256:{name.removesuffix('.json')}"
    assert loaded.tags == ("a:1", "b/c:2")


def test_loading_again_changes_nothing(store: Store, layout: Path) -> None:
    first = load_archive(store, layout)
    steps: list[Step] = []
    before = os.listdir(store.layout.roots)
    assert load_archive(store, layout, progress=steps.append) == first
    assert {step.stage for step in steps} == {"layer exists"}
    assert os.listdir(store.layout.roots) == before


def test_progress_counts_to_the_size_of_each_layer(store: Store, layout: Path) -> None:
    steps: list[Step] = []
    load_archive(store, layout, progress=steps.append)
    done = [step for step in steps if step.stage == "unpacked"]
    assert len(done) == len(store.layers())
    assert all(step.current == step.total > 0 for step in done)


def test_a_cancelled_load_leaves_nothing(store: Store, layout: Path) -> None:
    class Enough(Exception):
        pass

    def stop(step: Step) -> None:
        raise Enough

    with pytest.raises(Enough):
        load_archive(store, layout, progress=stop)
    assert store.layers() == [] and store.images() == []
    assert not [name for name in os.listdir(store.layout.roots) if name.startswith("l")]


def test_an_archive_for_another_platform_says_what_it_has(
    store: Store, layout: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layout, copy)
    index = json.loads((copy / "index.json").read_text())
    (entry,) = index["manifests"]
    index["manifests"] = [
        entry | {"platform": {"os": "linux", "architecture": arch}} for arch in ("mips", "s390x")
    ]
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(BadArchive, match="has no image for linux/") as caught:
        load_archive(store, copy)
    assert caught.value.host == "it has: linux/mips, linux/s390x"


def test_a_missing_file_is_named(store: Store, tmp_path: Path) -> None:
    from cove.errors import HostError

    with pytest.raises(HostError, match="no such file or directory") as caught:
        load_archive(store, tmp_path / "missing")
    assert caught.value.exit_code == 1


def archive(*layers: Tar) -> bytes:
    """A docker-archive of these layers."""
    import hashlib

    data = [layer.data() for layer in layers]
    ids = [f"sha256:{hashlib.sha256(part).hexdigest()}" for part in data]
    tar = Tar()
    for i, part in enumerate(data):
        tar.file(f"{i}.tar", part)
    tar.file("c.json", json.dumps({"rootfs": {"type": "layers", "diff_ids": ids}}).encode())
    item = {"Config": "c.json", "Layers": [f"{i}.tar" for i in range(len(data))]}
    return tar.file("manifest.json", json.dumps([item]).encode()).data()


def loaded_layers(store: Store, data: bytes) -> list[Path]:
    from tests.images.tars import memory_file

    with memory_file(data) as fd:
        record = store.image(only(load_archive(store, fd)).id)
    assert record is not None
    return [Path(store.layout.layer(key)) for key in catalog.layer_keys(store, record)]


def base(mode: int) -> Tar:
    return Tar().dir("tmp", mode=mode, uid=3, mtime=5).dir("a").dir("a/b", mode=mode)


def upper() -> Tar:
    return Tar().file("tmp/x", b"x").file("a/b/x").file("c/x")


def mode(path: Path) -> tuple[str, int]:
    status = path.stat()
    return oct(status.st_mode), status.st_uid


def test_a_directory_without_an_entry_is_as_below(store: Store) -> None:
    """Or /tmp would lose its sticky bit to the first layer that has a file in it."""
    _, top = loaded_layers(store, archive(base(0o1777), upper()))
    assert mode(top / "tmp") == ("0o41777", 3) and (top / "tmp").stat().st_mtime == 5
    assert mode(top / "a/b") == ("0o41777", 0) and mode(top / "c") == ("0o40755", 0)


def test_another_image_cannot_change_the_directories_of_a_shared_layer(store: Store) -> None:
    _, honest = loaded_layers(store, archive(base(0o755), upper()))
    _, evil = loaded_layers(store, archive(base(0o777), upper()))
    assert mode(honest / "tmp") == ("0o40755", 3) and mode(evil / "tmp") == ("0o40777", 3)
    assert (honest / "tmp/x").stat().st_ino == (evil / "tmp/x").stat().st_ino
    _, again = loaded_layers(store, archive(base(0o777), upper(), Tar().file("z")))[:2]
    assert again == evil, "the copy is shared too"


def test_what_is_hidden_below_says_nothing(store: Store) -> None:
    gone = Tar().file(".wh.tmp").file("a/.wh..wh..opq")
    top = loaded_layers(store, archive(base(0o777), gone, upper()))[-1]
    assert mode(top / "tmp") == ("0o40755", 0) and mode(top / "a/b") == ("0o40755", 0)


def test_a_link_below_is_not_followed(store: Store) -> None:
    top = loaded_layers(store, archive(Tar().symlink("tmp", "/root"), upper()))[-1]
    assert mode(top / "tmp") == ("0o40755", 0)
