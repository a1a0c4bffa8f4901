"""Volumes with a size: directories like others, until they are full."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.settled import settled
from tests.kernel.volumes import inspect, sh, volumes
from tests.shared import no_scenario

__all__ = ["settled"]

pytestmark = pytest.mark.usefixtures("settled")

FILL = "dd if=/dev/zero of=/x/big bs=1M count=64 2>&1 | grep -c 'No space left'"


def devices(cove: Cove) -> list[str]:
    """Loop devices of files of this state directory."""
    found = []
    for name in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            found.append(Path(name).read_text().strip())
        except OSError:  # it has gone meanwhile
            continue
    return [path for path in found if path.startswith(f"{cove.root}/")]


@pytest.fixture(autouse=True)
def no_device_stays(cove: Cove) -> Iterator[None]:
    yield
    wait_until(lambda: not devices(cove), "the kernel has given the devices back")
    assert volumes(cove) == []


def test_it_is_full_at_its_size(cove: Cove) -> None:
    """And is a volume else: filled from the image, kept, with ids as inside."""
    cove("volume", "create", "--opt", "size=32m", "small")
    listing = "cd /etc && ls passwd group 2> /dev/null; stat -c '%u:%g %a' /etc"
    assert sh(cove, listing, "-v", "small:/etc") == sh(cove, listing)
    assert sh(cove, FILL, "-v", "small:/x") == "1\n"
    script = "stat -c %s /x/big; rm /x/big; echo kept > /x/kept"
    assert 16 << 20 < int(sh(cove, script, "-v", "small:/x")) < 32 << 20
    made = sh(cove, "chown 999:998 /x/kept; ls /x; stat -c '%u:%g' /x/kept", "-v", "small:/x")
    assert made.split()[-1] == "999:998" and "lost+found" not in made
    mount = "type=volume,source=small,target=/p,volume-subpath="
    assert sh(cove, "cat /p", "--mount", mount + "kept") == "kept\n"
    gone = cove("run", "--rm", "--mount", mount + "none", "bb", "true", code=125).err
    assert "cannot mount none of volume small: no such directory in it" in gone
    closed = sh(cove, "echo no > /x/kept || echo refused", "-v", "small:/x:ro")
    assert closed == "refused\n"
    assert inspect(cove, "small")["Options"] == {"size": "32m"}
    cove("volume", "rm", "small")


def test_several_machines_have_one_and_the_same(cove: Cove) -> None:
    """Two devices of one file would be two file systems; also a daemon that comes later knows."""
    mount = ("--mount", "type=volume,source=both,target=/x,size=20m")
    cove("run", "-d", "--name", "first", *mount, "bb", "sleep", "100000")
    cove("exec", "first", "sh", "-c", "echo one > /x/a")
    assert sh(cove, "cat /x/a; echo two > /x/b", "-v", "both:/x") == "one\n"
    cove.kill_daemon()
    assert sh(cove, "cat /x/b; echo three > /x/c", "-v", "both:/x") == "two\n"
    assert cove("exec", "first", "cat", "/x/c").out == "three\n"
    assert len(devices(cove)) == 1
    (path,) = devices(cove)
    assert path not in Path("/proc/self/mountinfo").read_text(), "mounted nowhere on the host"
    assert "first has it" in cove("volume", "rm", "both", code=1).err
    cove("kill", "first")
    cove("wait", "first")
    cove("start", "first")
    assert cove("exec", "first", "cat", "/x/a", "/x/b", "/x/c").out == "one\ntwo\nthree\n"
    cove("rm", "-f", "first")
    cove("volume", "rm", "both")


def test_copies_have_the_size_too(cove: Cove, tmp_path: Path) -> None:
    cove("volume", "create", "--opt", "size=20m", "one")
    sh(cove, "echo one > /x/a; chown 999:998 /x/a", "-v", "one:/x")
    cove("volume", "backup", "one", "-o", "b.tar", cwd=tmp_path)
    cove("volume", "clone", "one", "two")
    look = "stat -c '%u:%g' /x/a; cat /x/a; ls /x"
    assert sh(cove, look, "-v", "two:/x") == "999:998\none\na\n"
    assert sh(cove, FILL, "-v", "two:/x") == "1\n"
    assert inspect(cove, "two")["Options"] == {"size": "20m"}
    there = cove("volume", "restore", "two", "b.tar", cwd=tmp_path, code=1).err
    assert "there is something in it" in there
    cove("volume", "restore", "-f", "two", "b.tar", cwd=tmp_path)
    assert sh(cove, look, "-v", "two:/x") == "999:998\none\na\n"
    # What is too much leaves it as it was.
    sh(cove, "dd if=/dev/zero of=/x/big bs=1M count=30", "-v", "large:/x")
    cove("volume", "backup", "large", "-o", "large.tar", cwd=tmp_path)
    full = cove("volume", "restore", "-f", "two", "large.tar", cwd=tmp_path, code=1).err
    assert "No space left on device" in full
    assert sh(cove, look, "-v", "two:/x") == "999:998\none\na\n"
    cove("volume", "rm", "one", "two", "large")


@no_scenario("no machine is made")
def test_sizes_that_cannot_be(cove: Cove) -> None:
    for words, why in (
        (("-o", "size=1m"), "cannot make a volume of 1m: 16m is the least"),
        (("-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=64m"), "no size is a word of o="),
        (("-o", "type=none", "-o", "o=bind", "-o", "device=/srv", "-o", "size=1g"), "has no size"),
        (("-o", "size=much"), "much"),
    ):
        assert why in cove("volume", "create", *words, "v", code=125).err, words
    cove("volume", "create", "-o", "size=20m", "v")
    other = cove("volume", "create", "-o", "size=30m", "v", code=1).err
    assert "there is one with other options" in other
    cove("volume", "rm", "v")


def test_a_damaged_one_is_named(cove: Cove) -> None:
    mount = ("--mount", "type=volume,source=harmed,target=/x,size=16m")
    sh(cove, "echo one > /x/a", *mount)
    wait_until(lambda: not devices(cove), "nobody has it")
    path = Path(inspect(cove, "harmed")["Mountpoint"])
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(bytes(1024))
    refused = cove("run", "--rm", *mount, "bb", "true", code=125).err
    assert "cannot use volume harmed" in refused and f"e2fsck -f {path}" in refused
    cove("volume", "rm", "harmed")
