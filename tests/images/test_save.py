"""``cove save``: what was unpacked comes out again byte by byte, and other tools read it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need, need_root
from tests.driver import Cove, kill_process, new_cove, wait_until
from tests.images.tars import Tar

ODD = (
    Tar(tarfile.GNU_FORMAT)
    .dir("etc/")
    .file("etc/a", b"a" * 700, uid=1000, mode=0o4755)
    .file("n" * 180 + "/" + "m" * 150, b"long")
    .file("big", bytes(range(256)) * 700)
    .file("zeros", bytes(300_000))
    .file("secret", b"s", mode=0)
    .link("hard", "etc/a")
    .symlink("lib", "etc")
    .file("lib/through-a-link", b"x" * 40_000)
    .file(".wh.gone", b"a whiteout with a word in it")
    .add("dev", tarfile.CHRTYPE, devmajor=1, devminor=3)
    .file("empty")
)
PAX = Tar().file("ä" * 80, b"1", pax_headers={"SCHILY.xattr.user.n": "v", "mtime": "1.25"})


@pytest.fixture(scope="module")
def odd() -> Iterator[Cove]:
    """Has ``odd:1`` of two layers and a name more, ``pax:1``, and nothing else."""
    need_root()
    driver = new_cove()
    try:
        driver("image", "import", "-q", "-", "odd:1", stdin=ODD.data() + b"after the end")
        driver("image", "import", "-q", "-c", "CMD sh", "-", "pax:1", stdin=PAX.data())
        driver("create", "--name", "mm", "odd:1", "x")
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            entry = tarfile.TarInfo("etc/added")
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"new"))
        driver("cp", "-", "mm:/", stdin=data.getvalue())
        driver("commit", "mm", "odd:2")
        driver("rm", "mm")
        driver("tag", "odd:2", "other.example/odd:x")
        yield driver
    finally:
        driver.close()


@pytest.fixture
def other() -> Iterator[Cove]:
    need_root()
    driver = new_cove()
    try:
        yield driver
    finally:
        driver.close()


def image_id(driver: Cove, name: str) -> str:
    return driver("image", "inspect", "-f", "{{.Id}}", name).out.strip()


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {
            entry.name: file.read() for entry in tar if (file := tar.extractfile(entry)) is not None
        }


def test_what_was_unpacked_comes_out_again(odd: Cove, other: Cove, tmp_path: Path) -> None:
    first, again = tmp_path / "first.tar", tmp_path / "again.tar"
    odd("save", "-o", str(first), "odd", "pax:1", "other.example/odd:x")
    found = members(first)
    for name, data in found.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(data).hexdigest() == name.rpartition("/")[2]
    plain = hashlib.sha256(ODD.data() + b"after the end").hexdigest()
    assert found[f"blobs/sha256/{plain}"] == ODD.data() + b"after the end"
    assert hashlib.sha256(PAX.data()).hexdigest() in "".join(found)
    items = json.loads(found["manifest.json"])
    assert [item["RepoTags"] for item in items] == [
        ["odd:1"], ["odd:2", "other.example/odd:x"], ["pax:1"],
    ]  # fmt: skip
    assert sum(name.startswith("blobs/") for name in found) == 3 * 2 + 3  # one layer is shared
    loaded = other("load", "-q", "-i", str(first)).out
    assert loaded.count("Loaded image: ") == 4
    for name in ("odd:1", "odd:2", "pax:1"):
        assert image_id(other, name) == image_id(odd, name)
    other("save", "-o", str(again), "odd", "pax:1", "other.example/odd:x")
    assert again.read_bytes() == first.read_bytes()
    assert other("system", "check").out.startswith("nothing was found")


def test_other_tools_read_it(odd: Cove, tmp_path: Path) -> None:
    for tool in ("skopeo", "umoci"):
        need(tool)
    archive, layout = tmp_path / "docker.tar", tmp_path / "layout"
    with archive.open("wb") as file:
        child = odd.spawn("save", "odd:2", stdout=file)
        assert child.communicate(timeout=120)[1] == b""
        assert child.returncode == 0
    odd("image", "save", "--format", "oci-dir", "-o", str(layout), "odd:2")
    odd("image", "save", "--format", "oci-archive", "-o", str(tmp_path / "oci.tar"), "odd:2")
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    wanted = image_id(odd, "odd:2")
    for source in (
        f"docker-archive:{archive}",
        f"oci:{layout}:2",
        f"oci-archive:{tmp_path}/oci.tar",
    ):
        target = tmp_path / source.partition(":")[0]
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", source, f"dir:{target}"],
                       check=True, timeout=120)  # fmt: skip
        manifest = (target / "manifest.json").read_bytes()
        assert json.loads(manifest)["config"]["digest"] == wanted
        if not source.startswith("docker"):
            assert "sha256:" + hashlib.sha256(manifest).hexdigest() == entry["digest"]
    done = subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:2", str(tmp_path / "bundle")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rootfs = tmp_path / "bundle/rootfs"
    assert (rootfs / "etc/added").read_text() == "new"
    assert (rootfs / "etc/through-a-link").stat().st_size == 40_000


def test_a_flat_tree(odd: Cove, tmp_path: Path) -> None:
    odd("image", "save", "--format", "rootfs", "-o", str(tmp_path / "flat.tar"), "odd:2")
    with tarfile.open(tmp_path / "flat.tar") as tar:
        names = {entry.name.removeprefix("./"): entry for entry in tar}
    assert names["etc/added"].size == 3
    assert names["etc/a"].mode == 0o4755
    assert not [name for name in names if ".wh." in name]
    assert odd("ps", "-aq").out == ""


def test_what_cannot_be_saved(odd: Cove, tmp_path: Path) -> None:
    target = str(tmp_path / "x.tar")

    def refused(*words: str) -> str:
        done = odd(*words, code=None)
        assert done.returncode != 0
        assert os.listdir(tmp_path) == []
        return done.err

    assert 'cannot find image "nobody"' in refused("save", "-o", target, "odd:1", "nobody")
    assert "cannot save host: it is built in" in refused("save", "-o", target, "host")
    said = refused("save", "--platform", "linux/s390x", "-o", target, "pax:1")
    assert "cannot save pax:1: it is for linux/" in said
    assert "for linux/s390x" in said
    assert "no such format" in refused("save", "--format", "zip", "-o", target, "pax:1")
    said = refused("save", "--format", "rootfs", "-o", target, "odd:1", "pax:1")
    assert "cannot save several images as one root file system" in said
    assert "which one?" in refused("save", "--format", "oci-dir", "pax:1")
    twice = Tar().file("a", b"1").file("a", b"2").data()
    odd("image", "import", "-q", "-", "twice:1", stdin=twice)
    said = refused("save", "-o", target, "twice:1")
    assert "cannot be made again" in said
    assert "it names a file twice" in said
    missing = str(tmp_path / "no/where")
    assert f"cannot write {missing}: no such file or directory" in refused(
        "save", "-o", missing, "odd:1"
    )


def test_a_layer_that_was_changed_is_not_saved(other: Cove, tmp_path: Path) -> None:
    data = Tar().file("a", b"1" * 100_000).file("b", b"2" * 100_000).data()
    other("image", "import", "-q", "-", "x:1", stdin=data)
    (layer,) = (path for path in (other.root / "roots").glob("l*") if (path / "a").exists())
    target = tmp_path / "x.tar"
    (layer / "b").write_bytes(b"3" * 100_000)
    said = other("save", "-o", str(target), "x:1", code=1).err
    assert "is not what was unpacked: its files were changed" in said
    (layer / "b").unlink()
    (layer / "b").symlink_to("/etc/passwd")
    said = other("save", "-o", str(target), "x:1", code=1).err
    assert "is not what was unpacked: b: " in said
    assert os.listdir(tmp_path) == []


def test_a_reader_that_leaves(odd: Cove) -> None:
    reader, writer = os.pipe()
    child = odd.spawn("save", "odd:2", stdout=writer)
    os.close(writer)
    assert os.read(reader, 512).startswith(b"oci-layout\0")
    os.close(reader)
    assert child.communicate(timeout=120)[1] == b""
    assert child.returncode != 0


def saving(pid: int) -> bool:
    """Whether the daemon has a child that makes an archive."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = file.read().split()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            children += file.read().split()
    for child in children:
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"repack" in words:
            return True
    return False


def killed_while_saving(driver: Cove, target: Path) -> None:
    driver("version")
    pid = driver.daemon_pid()
    child = driver.spawn("save", "-o", str(target), "x:1")
    wait_until(lambda: saving(pid) or child.poll() is not None, "it is being saved")
    kill_process(pid)
    child.communicate(timeout=120)


def test_a_daemon_that_is_killed_leaves_no_half_archive(other: Cove, tmp_path: Path) -> None:
    """What was whole before the kill is whole; else there is nothing."""
    data = Tar().file("a", os.urandom(30_000_000)).data()
    other("image", "import", "-q", "-", "x:1", stdin=data)
    wanted, caught, target = image_id(other, "x:1"), 0, tmp_path / "x.tar"
    for _ in range(50):
        killed_while_saving(other, target)
        if target.exists():
            assert json.loads(members(target)["manifest.json"])[0]["Config"].endswith(wanted[7:])
            target.unlink()
            continue
        assert os.listdir(tmp_path) == []
        caught += 1
        if caught == 2:
            break
    assert caught
    other("save", "-o", str(target), "x:1")
    assert hashlib.sha256(data).hexdigest() in "".join(members(target))
    assert other("system", "check").out.startswith("nothing was found")
