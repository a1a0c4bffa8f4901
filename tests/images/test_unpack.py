"""The unpacker keeps what a layer must keep; whiteouts become what overlayfs understands."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from cove.errors import BadArchive
from cove.store.db import Store
from tests.images.tars import Tar, layer_of, tree

CAPABILITY_V2 = bytes.fromhex("0100000200200000000000000000000000000000")
CAPABILITY_V3 = bytes.fromhex("010000030020000000000000000000000000000000000100")


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def opaque(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, "trusted.overlay.opaque")
    except OSError:
        return None


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_file_arrives_as_it_was(store: Store, format: int) -> None:
    long = "d" * 90 + "/" + "f" * 90
    tar = (
        Tar(format)
        .dir("./", mode=0o711, mtime=1000)
        .dir("etc", mode=0o2755, uid=7, gid=65535, mtime=2000)
        .file("etc/passwd", b"root", mode=0o640, uid=65535, gid=3, mtime=3000)
        .file("etc/su", b"x", mode=0o4755)
        .file("/absolute", b"y", mtime=1)
        .file("./dot//slash", b"z")
        .dir("d" * 90)
        .file(long, b"long")
        .symlink("etc/link", "../../../etc/shadow", uid=9, mtime=4000)
        .link("etc/hard", "etc/passwd")
        .add("fifo", tarfile.FIFOTYPE, mode=0o600)
    )
    root = layer_of(store, tar)
    found = tree(root)
    assert (oct(root.stat().st_mode), root.stat().st_mtime) == ("0o40711", 1000)
    assert found["etc"][:4] == ("0o42755", 7, 65535, 2000 * 10**9)
    assert found["etc/passwd"][:4] == ("0o100640", 65535, 3, 3000 * 10**9)
    assert found["etc/su"][0] == "0o104755"
    assert found["etc/hard"][5] == found["etc/passwd"][5]
    assert found["etc/link"][1:4] == (9, 0, 4000 * 10**9)
    assert found["etc/link"][7] == "../../../etc/shadow"
    assert found["fifo"][0] == "0o10600"
    assert (found["absolute"][7], found["dot/slash"][7], found[long][7]) == (b"y", b"z", b"long")


def test_pax_headers_carry_names_times_and_attributes(store: Store) -> None:
    name = "ä" * 120 + "/" + "n" * 200 + "\n"
    headers = {
        "mtime": "1234.567891234",
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.security.capability": CAPABILITY_V2.decode("latin-1"),
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.security.evil": "no",
    }
    root = layer_of(store, Tar().file(name, b"1", pax_headers=headers))
    found = tree(root)[name]
    assert found[3] == 1234567891234
    assert found[6] == {"user.note": b"kept", "security.capability": CAPABILITY_V2}


def test_a_capability_of_a_namespace_becomes_one_of_the_layer(store: Store) -> None:
    record = b"SCHILY.xattr.security.capability=" + CAPABILITY_V3 + b"\n"
    length = len(record) + 3
    body = b"%d " % length + record
    tar = Tar().add("PaxHeaders", b"x", body).file("ping", b"1")
    assert tree(layer_of(store, tar))["ping"][6] == {"security.capability": CAPABILITY_V2}


def test_numbers_in_base_256_and_times_before_1970(store: Store) -> None:
    tar = Tar(tarfile.GNU_FORMAT).file("old", b"", mtime=-5).file("new", b"", mtime=(2**33 + 5))
    found = tree(layer_of(store, tar))
    assert (found["old"][3], found["new"][3]) == (-5 * 10**9, (2**33 + 5) * 10**9)


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"]])
def test_sparse_files(store: Store, tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        for i in range(60):
            file.seek(i * 1_000_000)
            file.write(b"%d" % i * 3)
        file.truncate(70_000_000)
    (source / "after").write_bytes(b"after")
    tar = subprocess.run(
        ["tar", "-C", source, "-S", *options, "-c", "."], check=True, capture_output=True
    ).stdout
    assert len(tar) < 2_000_000
    found = tree(layer_of(store, tar), times=False)
    assert found == tree(source, times=False)


def test_the_last_of_doubled_names_wins(store: Store) -> None:
    tar = (
        Tar()
        .file("a", b"1")
        .file("a", b"2")
        .dir("b")
        .file("b/inside")
        .file("b", b"now a file")
        .file("c")
        .dir("c")
        .file("c/inside")
        .dir("d", mode=0o700)
        .file("d/kept")
        .dir("d", mode=0o755)
        .dir("p/b")
        .file("p/b/inside")
        .file("p/b", b"now a file")
        .file("p/after", b"p")
        .symlink("e", "d")
        .dir("e")
        .file("e/x")
    )
    found = tree(layer_of(store, tar))
    assert found["a"][7] == b"2"
    assert found["b"][7] == b"now a file"
    assert (found["p/b"][7], found["p/after"][7]) == (b"now a file", b"p")
    assert "c/inside" in found and "d/kept" in found and found["d"][0] == "0o40755"
    assert "e/x" in found and "d/x" not in found


def test_names_below_a_link_stay_in_the_layer(store: Store) -> None:
    tar = Tar().dir("usr/bin").symlink("bin", "/usr/bin").file("bin/sh", b"sh")
    assert tree(layer_of(store, tar))["usr/bin/sh"][7] == b"sh"


def test_whiteouts(store: Store) -> None:
    tar = (
        Tar()
        .dir("a")
        .file("a/.wh.gone")
        .dir("b")
        .file("b/.wh..wh..opq")
        .file("b/new")
        .file("c/.wh.both")
        .file("c/both", b"here")
        .file("d/there", b"here")
        .file("d/.wh.there")
        .file(".wh.e")
        .file("e/new")
        .dir("f")
        .file(".wh.f")
        .file(".wh..wh.plnk")
        .add("g", tarfile.CHRTYPE, devmajor=0, devminor=0)
    )
    root = layer_of(store, tar)
    assert is_whiteout(root / "a/gone")
    assert opaque(root / "b") == b"y" and (root / "b/new").exists()
    assert (root / "c/both").read_bytes() == b"here"
    assert (root / "d/there").read_bytes() == b"here"
    assert opaque(root / "e") == b"y" and (root / "e/new").exists()
    assert opaque(root / "f") == b"y"
    assert opaque(root / "a") is None
    assert is_whiteout(root / "g")
    assert not list(root.glob(".wh*"))


def test_devices_are_left_out(store: Store) -> None:
    tar = Tar().file("dev/null", b"").add("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    tar.add("sda", tarfile.BLKTYPE, devmajor=8, devminor=0).file("kept")
    assert set(tree(layer_of(store, tar))) == {"dev", "kept"}


def test_an_old_tar_without_types(store: Store) -> None:
    tar = Tar(tarfile.GNU_FORMAT).add("d/", tarfile.AREGTYPE).add("d/f", tarfile.AREGTYPE, b"1")
    data = bytearray(tar.data())
    for at in (0, 512):
        data[at + 257 : at + 512] = bytes(255)
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    found = tree(layer_of(store, bytes(data)))
    assert stat.S_ISDIR(int(str(found["d"][0]), 8)) and found["d/f"][7] == b"1"


def test_a_directory_with_setgid_does_not_hand_its_group_down(store: Store) -> None:
    tar = Tar().dir("d", mode=0o2775, gid=50).file("d/f", gid=0).dir("d/s", gid=0, mode=0o755)
    found = tree(layer_of(store, tar))
    assert (found["d/f"][2], found["d/s"][2], found["d/s"][0]) == (0, 0, "0o40755")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda d: d[:700], "truncated"),
        (lambda d: d[:512], "truncated"),
        (lambda d: d[:1200], "truncated"),
        (lambda d: d[:2048], "truncated"),
        (lambda d: b"\xff" * 4096, "not a tar archive"),
        (lambda d: b"short", "not a tar archive"),
        (lambda d: b"", "it is empty"),
        (lambda d: bytes(10240), "it holds no files"),
        (lambda d: d[:1024] + b"x" * 512 + d[1536:], "damaged"),
        (lambda d: d[:1024] + bytes(512) + d[1024:], "lone block of zeros"),
    ],
)
def test_what_is_no_whole_tar_is_refused(store: Store, broken, reason: str) -> None:  # type: ignore[no-untyped-def]
    data = Tar().file("a", b"x" * 300).file("b", b"y" * 300).data()
    assert len(data) == 10240
    with pytest.raises(BadArchive, match=reason):
        layer_of(store, broken(data))
    assert store.layers() == [] and store.images() == []
    assert not [name for name in os.listdir(store.layout.roots) if name.startswith("l")]
