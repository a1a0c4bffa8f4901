"""Verbs on a state directory without room: refused in words, and whatever stood still goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.driver import Cove, wait_until
from tests.kernel.disks import small_disk

MIB = 1 << 20
SCRIPT = "head -c 6000000 /dev/urandom >/f; touch /ready; exec sleep 10000"


@pytest.fixture
def full(bb_tar: Path, tmp_path: Path) -> Iterator[Cove]:
    """With a machine that runs and has written, and not a block free."""
    need_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", *small_disk(tmp_path / "disk", 32), place], check=True)
    cove = Cove(place / "state")
    try:
        cove("image", "import", "-q", str(bb_tar), "bb")
        cove("run", "-d", "--name", "web", "bb", "sh", "-c", SCRIPT)
        wait_until(lambda: cove("exec", "web", "test", "-e", "/ready", code=None).returncode == 0)
        fill(place / "filling")
        yield cove
        (place / "filling").unlink()
        cove("rm", "-f", "web")
    finally:
        if (place / "state/run/front.sock").exists():
            cove.stop_daemon()
        subprocess.run(["umount", place], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            while True:
                try:
                    if file.write(bytes(size)) < size:
                        break
                except OSError:
                    break


def test_a_commit_without_room(full: Cove) -> None:
    """Nobody reads what the archiver has to say, and nobody waits for it."""
    done = full("commit", "web", "kept", code=125)
    assert "no space left" in done.err, done.err
    assert full("exec", "web", "echo", "goes on").out == "goes on\n"
    assert full.inspect("web")["State"]["Status"] == "running"


def test_a_volume_without_room(full: Cove) -> None:
    """What was copied of the image until then is not in it."""
    filling = full.root.parent / "filling"
    os.truncate(filling, filling.stat().st_size - (700 << 10))
    done = full("run", "--rm", "-v", "v:/bin", "bb", "true", code=125)
    assert "cannot copy /bin of the image into volume v" in done.err, done.err
    assert "o space left" in done.err
    assert os.listdir(full.root / "volumes/v/_data") == []
    assert not full("ps", "-aqf", "volume=v").out
    full("volume", "rm", "v")


def test_an_export_without_room(full: Cove) -> None:
    with (full.root.parent / "exported").open("wb") as out:
        child = full.spawn("export", "web", stdout=out)
        _, err = child.communicate(timeout=180)
    assert child.returncode == 1, err
    assert err == b"cove: cannot export web: cannot write it: no space left on device\n"
    os.unlink(full.root.parent / "exported")


def test_a_kernel_without_room(full: Cove, tmp_path: Path) -> None:
    """Where it has room to begin with is not said: that it is no bug."""
    (tmp_path / "vmlinuz").write_bytes(os.urandom(8 * MIB))
    done = full("kernel", "add", "--name", "x", str(tmp_path / "vmlinuz"), code=None)
    assert done.returncode != 0 and "bug" not in done.err, done.err
    assert os.listdir(full.root / "kernels") == []
