"""Archives that want out, or the disk, the memory or the time of the host. None leaves a trace."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import select
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cove.errors import BadArchive, CoveError, HostError
from cove.image import layers, pipeline
from cove.image.importing import import_rootfs
from cove.image.layers import Blob, add_layer
from cove.image.loading import load_archive
from cove.oci.archive import Span
from cove.store.db import Store
from tests.images.tars import Tar, layer_of, memory_file

MIB = 1 << 20


def nothing_left(store: Store) -> bool:
    roots = [name for name in os.listdir(store.layout.roots) if name.startswith("l")]
    return not (roots or store.layers() or store.images() or os.listdir(store.layout.tmp))


@pytest.fixture
def outside(tmp_path: Path, store: Store) -> Iterator[Path]:
    """What an archive would like to change; it must be the same afterwards."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    os.chmod(victim, 0o600)
    before = victim.stat()
    yield victim
    after = victim.stat()
    assert victim.read_text() == "untouched"
    assert (after.st_mode, after.st_nlink, after.st_mtime_ns, after.st_uid) == (
        before.st_mode,
        before.st_nlink,
        before.st_mtime_ns,
        before.st_uid,
    )
    assert sorted(os.listdir(tmp_path)) == ["state", "victim"]


# ---- tar slips ----


@pytest.mark.parametrize("name", ["../victim", "a/../../victim", "..", "a/..", "/../../victim"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])
def test_a_name_with_dots_is_refused(store: Store, outside: Path, name: str, kind: bytes) -> None:
    tar = Tar().dir("a").add(name, kind, linkname="x")
    with pytest.raises(BadArchive, match=r'a name with "\.\." in it'):
        layer_of(store, tar)
    assert nothing_left(store)


def test_an_absolute_name_means_the_layer(store: Store, outside: Path) -> None:
    root = layer_of(store, Tar().file(str(outside), b"mine"))
    assert (root / str(outside)[1:]).read_bytes() == b"mine"


@pytest.mark.parametrize("absolute", [True, False])
def test_writing_through_a_link_stays_in_the_layer(
    store: Store, outside: Path, absolute: bool
) -> None:
    target = str(outside.parent) if absolute else "../../../.." + str(outside.parent)
    tar = Tar().dir(str(outside.parent)).symlink("link", target).file("link/victim", b"mine")
    root = layer_of(store, tar)
    assert (root / str(outside)[1:]).read_bytes() == b"mine"


def test_writing_through_a_link_to_nothing_is_refused(store: Store, outside: Path) -> None:
    tar = Tar().symlink("link", str(outside.parent)).file("link/victim", b"mine")
    with pytest.raises(BadArchive, match="link/victim: the directory it is in is no directory"):
        layer_of(store, tar)
    assert nothing_left(store)


def test_a_file_over_a_link_replaces_the_link(store: Store, outside: Path) -> None:
    root = layer_of(store, Tar().symlink("x", str(outside)).file("x", b"mine", mode=0o666))
    assert not (root / "x").is_symlink()


def test_attributes_of_a_link_are_not_given_to_its_target(store: Store, outside: Path) -> None:
    root = layer_of(store, Tar().symlink("x", str(outside), uid=1000, mode=0o777, mtime=5))
    assert (root / "x").is_symlink()


@pytest.mark.parametrize("target", ["../victim", "../../../../etc/passwd"])
def test_a_hard_link_with_dots_is_refused(store: Store, outside: Path, target: str) -> None:
    with pytest.raises(BadArchive, match="in it"):
        layer_of(store, Tar().link("x", target))
    assert nothing_left(store)


def test_a_hard_link_out_of_the_layer_is_refused(store: Store, outside: Path) -> None:
    for tar in (
        Tar().link("x", str(outside)),
        Tar().link("x", "/etc/passwd"),
        Tar().symlink("d", str(outside.parent)).link("x", "d/victim"),
    ):
        with pytest.raises(BadArchive, match="a hard link to what the archive does not hold"):
            layer_of(store, tar)
    assert nothing_left(store)


def test_a_hard_link_to_a_link_is_the_link(store: Store, outside: Path) -> None:
    tar = Tar().symlink("a", str(outside)).link("b", "a").file("b", b"mine", mode=0o666)
    root = layer_of(store, tar)
    assert (root / "b").read_bytes() == b"mine" and (root / "a").is_symlink()


def test_hard_links_to_directories_and_to_themselves(store: Store, outside: Path) -> None:
    with pytest.raises(BadArchive, match="a hard link to a directory"):
        layer_of(store, Tar().dir("d").link("x", "d"))
    assert (layer_of(store, Tar().file("a", b"1").link("a", "a")) / "a").read_bytes() == b"1"


def test_a_loop_of_links_is_refused(store: Store) -> None:
    with pytest.raises(BadArchive, match="loop of links"):
        layer_of(store, Tar().symlink("a", "b").symlink("b", "a").file("a/x"))
    assert nothing_left(store)


def test_device_nodes_are_never_made(store: Store) -> None:
    tar = Tar().add("sda", tarfile.BLKTYPE, devmajor=8).add("mem", tarfile.CHRTYPE, devmajor=1)
    root = layer_of(store, tar.add("w", tarfile.CHRTYPE, devmajor=0, devminor=0).file("x"))
    assert sorted(os.listdir(root)) == ["w", "x"]
    assert (root / "w").lstat().st_rdev == 0


@pytest.mark.parametrize("ids", [(65536, 0), (0, 65536), (2**31, 0), (2**40, 1), (-1, 0)])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_ids_that_would_be_mapped_to_root_are_refused(
    store: Store, ids: tuple[int, int], format: int
) -> None:
    tar = Tar(format).file("su", b"x", mode=0o4755, uid=ids[0], gid=ids[1])
    with pytest.raises(BadArchive, match=r"su: .*(ids end at 65535|damaged)"):
        layer_of(store, tar)
    assert nothing_left(store)


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."])
def test_whiteouts_of_parents_are_refused(store: Store, name: str) -> None:
    with pytest.raises(BadArchive, match="a whiteout of a directory it is in"):
        layer_of(store, Tar().dir("a").file(name))
    assert nothing_left(store)


def test_names_cannot_drive_a_terminal(store: Store) -> None:
    with pytest.raises(BadArchive) as caught:
        layer_of(store, Tar().file("\x1b[2J\x9b31mevil\n", uid=70000))
    assert not any(
        ord(c) < 32 or 127 <= ord(c) < 160 for c in caught.value.render()[:-1].replace("\n", "")
    )


def test_names_that_are_too_long_are_refused(store: Store) -> None:
    for name, reason in (("x" * 256, "255 bytes"), ("d/" * 2100 + "x", "4095 bytes")):
        with pytest.raises(BadArchive, match=reason):
            layer_of(store, Tar().file(name))
    assert nothing_left(store)


# ---- sizes ----


def zeros_gz(size: int) -> bytes:
    """A gzip of a tar with one file of zeros, made without making the tar."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    member = gzip.compress(bytes(MIB), 9)
    head = gzip.compress(info.tobuf(tarfile.GNU_FORMAT))
    return head + member * (size // MIB)


def test_10_gb_of_zeros_in_10_mb_stop_at_the_limit(store: Store) -> None:
    data = zeros_gz(10 << 30)
    assert len(data) < 12 * MIB
    with pytest.raises(BadArchive, match="MiB come out of") as caught:
        layer_of(store, data)
    assert "200 times" in caught.value.host
    assert nothing_left(store)


def test_10_gb_of_zeros_as_an_archive(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    with open(path, "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(BadArchive, match="only zeros"):
        load_archive(store, path)
    with open(path, "rb") as file, pytest.raises(BadArchive, match="64 MiB follow the end"):
        import_rootfs(store, file.fileno())
    assert nothing_left(store)


def test_a_size_that_lies_costs_nothing(store: Store) -> None:
    info = tarfile.TarInfo("big")
    info.size = 1 << 62
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
    with pytest.raises((BadArchive, HostError), match=r"more than|no space left"):
        layer_of(store, data)
    assert nothing_left(store)


def add(store: Store, data: bytes, **limits: int) -> None:
    with memory_file(data) as fd:
        add_layer(store, Blob(Span(fd, -1, -1), "it", limits=pipeline.Limits(**limits)))


def test_a_million_entries_stop_at_the_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is generated while it is read; the limit is lowered so that it is reached soon."""
    assert pipeline.ENTRIES_MAX == 1_000_000
    reader, writer = os.pipe()

    def write() -> None:
        block = b"".join(
            tarfile.TarInfo(f"d/{i:07}").tobuf(tarfile.USTAR_FORMAT) for i in range(1000)
        )
        try:
            with open(writer, "wb") as out:
                for _ in range(1000):
                    out.write(block)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with pytest.raises(BadArchive, match="more than 20000 entries"):
            blob = Blob(Span(reader, -1, -1), "it", limits=pipeline.Limits(entries=20000))
            add_layer(store, blob)
    finally:
        os.close(reader)
        thread.join()
    assert nothing_left(store)


def test_directories_that_nobody_asked_for_count_too(store: Store) -> None:
    tar = Tar()
    for i in range(20):
        tar.file(f"{i}/" + "d/" * 100 + "x")
    with pytest.raises(BadArchive, match="more than 1000 entries"):
        add(store, tar.data(), entries=1000)
    assert nothing_left(store)


def test_more_bytes_than_allowed(store: Store) -> None:
    with pytest.raises(BadArchive, match="more than 1000 bytes"):
        add(store, Tar().file("a", bytes(600)).file("b", bytes(600)).data(), bytes=1000)
    assert nothing_left(store)


def test_a_huge_extended_header_is_refused(store: Store) -> None:
    with pytest.raises(BadArchive, match="an extended header of more than 1 MiB"):
        layer_of(store, Tar().add("x", b"x", b"0" * (MIB + 1)).file("a"))
    assert nothing_left(store)


def test_an_endless_row_of_extended_headers_ends(store: Store) -> None:
    header = Tar().add("x", b"x", b"11 path=ab\n").out.getvalue()
    data = gzip.compress(header * 200_000 + Tar().file("a").data())
    assert (layer_of(store, data) / "ab").exists()


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_damaged_and_cut_compression(store: Store, kind: str) -> None:
    import bz2
    import lzma

    import zstandard

    compress: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "bzip2": bz2.compress,
        "xz": lzma.compress,
        "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    }
    data = compress[kind](Tar().file("a", os.urandom(100_000)).data())
    damaged = data[: len(data) // 2] + b"\xff" * 64 + data[len(data) // 2 + 64 :]
    for bad in (data[: len(data) // 2], damaged):
        with pytest.raises(BadArchive, match=r"truncated|damaged|ends in"):
            layer_of(store, bad)
    assert nothing_left(store)
    assert (layer_of(store, data) / "a").exists()


# ---- disk full ----


@pytest.fixture
def small_store(
    tmp_path: Path, init_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A state directory on a tmpfs of 8 MiB."""
    monkeypatch.setenv("COVE_INIT", str(init_binary))
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], check=True)
    try:
        with Store.open(place / "state") as opened:
            yield opened
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("by_limit", [True, False])
def test_a_full_disk_is_named_and_nothing_is_left(
    small_store: Store, monkeypatch: pytest.MonkeyPatch, by_limit: bool
) -> None:
    if not by_limit:  # as when somebody else fills it meanwhile
        monkeypatch.setattr(layers, "_limits", lambda store, limits: limits)
    tar = Tar()
    for i in range(20):
        tar.file(f"f{i}", os.urandom(MIB))
    with pytest.raises(HostError, match="no space left on the state directory's file system"):
        layer_of(small_store, tar)
    assert nothing_left(small_store)
    assert (layer_of(small_store, Tar().file("a", b"x")) / "a").exists()


def test_a_full_disk_while_an_archive_is_spooled(small_store: Store) -> None:
    data = gzip.compress(Tar().file("x", os.urandom(20 * MIB)).data(), 1)
    with memory_file(data) as fd, pytest.raises(CoveError, match=r"no space left|larger than"):
        load_archive(small_store, fd)
    assert nothing_left(small_store)


# ---- images ----


def oci(tmp_path: Path, layer: bytes, **changes: object) -> Path:
    """An OCI layout with one layer; ``changes`` falsify it."""
    blobs = tmp_path / "oci/blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        digits = hashlib.sha256(data).hexdigest()
        (blobs / digits).write_bytes(data)
        return {"digest": f"sha256:{digits}", "size": len(data)}

    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [changes.get("diff_id", diff_id)]},
    }
    described = put(layer) | dict(changes.get("described", {}))  # type: ignore[call-overload]
    described.setdefault("mediaType", "application/vnd.oci.image.layer.v1.tar")
    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps(config).encode())
        | {"mediaType": changes.get("config_type", "application/vnd.oci.image.config.v1+json")},
        "layers": [described],
    }
    top = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode())]}
    (tmp_path / "oci/index.json").write_text(json.dumps(top))
    (tmp_path / "oci/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    if "content" in changes:
        digits = hashlib.sha256(layer).hexdigest()
        (blobs / digits).write_bytes(changes["content"])  # type: ignore[arg-type]
    return tmp_path / "oci"


LAYER = Tar().file("a", b"1").data()


def test_a_layout_that_tells_the_truth(store: Store, tmp_path: Path) -> None:
    (loaded,) = load_archive(store, oci(tmp_path, LAYER))
    assert store.image(loaded.id) is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"content": Tar().file("a", b"2").data()}, "wrong digest"),
        ({"content": LAYER[:600]}, "has 600 bytes, its manifest says 10240"),
        ({"diff_id": "sha256:" + "0" * 64}, "wrong diff ID"),
        ({"diff_id": "sha256:../../../../etc/passwd"}, "a sha256 digest has 64 digits"),
        ({"diff_id": "md5:" + "0" * 32}, "is not one of sha256"),
        ({"described": {"digest": "sha256:" + "1" * 64}}, "it lacks blobs/sha256/1111"),
        ({"described": {"mediaType": "text/plain"}}, "so it is not a system image"),
        ({"config_type": "application/vnd.cncf.helm.config"}, "so it is not a system image"),
    ],
)
def test_a_layout_that_lies(
    store: Store, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(BadArchive, match=reason):
        load_archive(store, oci(tmp_path, LAYER, **changes))
    assert nothing_left(store)


def test_links_in_a_layout_are_not_followed(store: Store, tmp_path: Path) -> None:
    layout = oci(tmp_path, LAYER)
    (layout / "index.json").unlink()
    (layout / "index.json").symlink_to("/etc/passwd")
    with pytest.raises(BadArchive, match=r"index\.json: too many levels of symbolic links"):
        load_archive(store, layout)
    os.unlink(layout / "index.json")
    os.mkfifo(layout / "index.json")
    with pytest.raises(BadArchive, match="no regular file"):
        load_archive(store, layout)


def docker(tar: Tar, **item: object) -> Path | bytes:
    return tar.file("manifest.json", json.dumps([item]).encode()).data()


@pytest.mark.parametrize(
    ("name", "target"),
    [("layer.tar", "/etc/passwd"), ("layer.tar", "../../etc/passwd"), ("layer.tar", "layer.tar")],
)
def test_links_in_a_docker_archive_stay_in_it(store: Store, name: str, target: str) -> None:
    config = {"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}
    tar = Tar().symlink(name, target).file("c.json", json.dumps(config).encode())
    with (
        memory_file(docker(tar, Config="c.json", Layers=[name])) as fd,
        pytest.raises(  # type: ignore[arg-type]
            BadArchive, match=r"it lacks layer\.tar"
        ),
    ):
        load_archive(store, fd)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GIF89a" + bytes(4096), "not a tar archive"),
        (b"", "it is empty"),
        (LAYER, "it holds neither manifest.json nor index.json"),
        (Tar().file("manifest.json", b"[]").data(), "names no image"),
        (Tar().file("manifest.json", b"{").data(), "cannot read manifest.json"),
        (Tar().file("manifest.json", b"[" * 100_000).data(), "cannot read manifest.json"),
        (Tar().file("manifest.json", b'[{"Config": "../x"}]').data(), r"it lacks \.\./x"),
        (Tar().file("index.json", b'{"schemaVersion": 1}').data(), "schema version 1"),
        (Tar().file("index.json", b"{}" + b" " * (5 * MIB)).data(), "larger than 4 MiB"),
        (Tar().file("repositories", b"{}").data(), "docker-archive of the first form"),
    ],
)
def test_what_is_no_image_archive(store: Store, data: bytes, reason: str) -> None:
    for sent in (data, gzip.compress(data)):
        with memory_file(sent) as fd, pytest.raises(BadArchive, match=reason):
            load_archive(store, fd)
    assert nothing_left(store)


def test_a_truncated_archive_names_where_it_ends(store: Store) -> None:
    data = docker(Tar().file("layer.tar", LAYER), Config="c", Layers=["layer.tar"])
    assert isinstance(data, bytes)
    with (
        memory_file(data[:5000]) as fd,
        pytest.raises(BadArchive, match=r"truncated: it ends in the middle of layer\.tar"),
    ):
        load_archive(store, fd)


def test_an_archive_cannot_take_the_name_host(store: Store, tmp_path: Path) -> None:
    layout = oci(tmp_path, LAYER)
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["annotations"] = {"io.containerd.image.name": "docker.io/library/host:1"}
    (layout / "index.json").write_text(json.dumps(index))
    (loaded,) = load_archive(store, layout)
    assert loaded.tags == () and store.tags() == {}


def test_one_bad_layer_leaves_no_image_and_no_layer_behind(store: Store, tmp_path: Path) -> None:
    good, bad = LAYER, Tar().file("../x").data()
    ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (good, bad)]
    config = {"rootfs": {"type": "layers", "diff_ids": ids}}
    tar = Tar().file("0", good).file("1", bad).file("c", json.dumps(config).encode())
    with (
        memory_file(docker(tar, Config="c", Layers=["0", "1"])) as fd,
        pytest.raises(  # type: ignore[arg-type]
            BadArchive, match="in it"
        ),
    ):
        load_archive(store, fd)
    assert nothing_left(store)


def test_the_unpacker_is_killed_with_its_caller(
    store: Store, init_binary: Path, tmp_path: Path
) -> None:
    """An unpack that waits for more must not outlive who started it."""
    place = tmp_path / "place"
    place.mkdir()
    script = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([{str(init_binary)!r}, 'unpack', {str(place)!r}, '1', '1'])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.buffer.read()\n"
    )
    reader, writer = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=reader, stdout=subprocess.PIPE)
    os.close(reader)
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    deadline = time.monotonic() + 10
    while not (place / "gone").exists():  # made after it asked to die with its parent
        assert time.monotonic() < deadline
    parent.kill()
    parent.communicate()
    assert select.select([pidfd], [], [], 180)[0]
    os.close(pidfd)
    os.close(writer)
