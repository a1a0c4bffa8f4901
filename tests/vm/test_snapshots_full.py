"""A snapshot for which there is no room, or during which the room is used up: refused in words, the
machine goes on as it was, and nothing of it is left.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need, need_root
from tests.driver import Cove, wait_until
from tests.kernel.disks import small_disk
from tests.shared import give_guests
from tests.vm.conftest import Stored
from tests.vm.test_templates import _emulators

MIB = 1 << 20
SPARE = 64 * MIB
"""What a copy leaves free on the disk."""
WRITE = "head -c 1000000 /dev/urandom >/f; md5sum /f"


@pytest.fixture
def small(one_stored: Stored, bb_tar: Path, tmp_path: Path) -> Iterator[Cove]:
    """A state directory on a file system of its own, with a machine of each kind."""
    need_root()
    need("mkfs.erofs")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", *small_disk(tmp_path / "disk", 768), place], check=True)
    cove = Cove(place / "state")
    try:
        cove("image", "import", "-q", str(bb_tar), "bb")
        give_guests(cove)
        cove("run", "-d", "--name", "container", "bb", "sleep", "10000")
        cove("run", "-d", "--vm", "--name", "vm", "bb", "sleep", "10000")
        wait_until(lambda: cove("template", "ls", "-q").out != "", "the template is made")
        yield cove
        cove("rm", "-f", *cove("ps", "-aq").out.split())
        wait_until(lambda: _emulators(cove) == {}, "no emulator is left")
    finally:
        if (cove.root / "run/front.sock").exists():
            cove.stop_daemon()
        subprocess.run(["umount", place], check=True)


def leave(path: Path, free: int) -> None:
    """So many bytes and no more."""
    seen = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, seen.f_bavail * seen.f_frsize - free)


def nothing_is_left(cove: Cove) -> bool:
    tmp = list((cove.root / "tmp").iterdir()) + list((cove.root / "snapshots").iterdir())
    return not tmp and cove("system", "check", code=None).returncode == 0


def test_without_room_for_a_snapshot_the_machine_goes_on(small: Cove) -> None:
    cove, ballast = small, small.root.parent / "ballast"
    said = {name: cove("exec", name, "sh", "-c", WRITE).out for name in ("container", "vm")}
    # More than is free behind the check of the disk's room: of a memory nobody knows before.
    cove("exec", "vm", "sh", "-c", "head -c 64000000 /dev/urandom >/dev/shm/much")
    for free, told in ((SPARE // 2, "no space left for a copy"), (SPARE + 12 * MIB, "")):
        leave(ballast, free)
        for name in ("container", "vm"):
            if name == "container" and not told:
                continue  # what it wrote is measured before
            words = told or "no space left on device"
            refused = cove("snapshot", "create", name, code=125).err
            assert refused.startswith(f"cove: cannot snapshot {name}: {words}"), refused
            assert "hint: make room" in refused
            assert cove("snapshot", "ls", "-q").out == ""
            assert cove("exec", name, "md5sum", "/f").out == said[name]
            wait_until(lambda: nothing_is_left(cove), "what was begun is removed")
        ballast.unlink()
    for name in ("container", "vm"):
        cove("snapshot", "create", name, f"of-{name}")
        cove("exec", name, "rm", "/f")
        cove("restore", name)
        assert cove("exec", name, "md5sum", "/f").out == said[name]
        cove("snapshot", "rm", f"of-{name}")
