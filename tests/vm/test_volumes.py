"""Volumes and binds of virtual machines: directories that are shared, and disks of their own."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.driver import Cove, kill_process, wait_until

PROGRAM = "virtiofsd"


def servers(cove: Cove) -> list[int]:
    """Processes that serve directories to machines of this daemon: by what they were given."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            mounts = Path(f"/proc/{pid}/mountinfo").read_text()
            if words[0].endswith(PROGRAM.encode()) and str(cove.root) in mounts:
                found.append(int(pid))
    return found


@contextmanager
def machine(cove: Cove, name: str, *flags: str) -> Iterator[str]:
    cove("run", "-d", "--vm", "--name", name, *flags, "bb", "sleep", "100000")
    try:
        yield name
    finally:
        cove("rm", "-f", name, code=None)
        wait_until(lambda: not servers(cove), "nothing is served any more")


def sh(cove: Cove, name: str, script: str, code: int | None = 0) -> str:
    return cove("exec", name, "sh", "-c", script, code=code).out


@pytest.fixture
def tree(cove: Cove) -> Iterator[Path]:
    """Below the state directory, so that a server of it is known by its mounts."""
    path = cove.root / "tree"
    (path / "deep").mkdir(parents=True)
    (path / "file").write_text("of the host\n")
    os.chown(path / "file", 1000, 1001)
    (path / "out").symlink_to("/etc/hostname")
    yield path
    for name in ("deep/new", "deep/left", "file", "out", "made"):
        (path / name).unlink(missing_ok=True)
    (path / "deep").rmdir()
    path.rmdir()


def test_directories_are_shared_both_ways(cove: Cove, tree: Path) -> None:
    one = tree / "file"
    flags = ("-v", f"{tree}:/data", "-v", f"{one}:/one:ro", "-v", "shared:/etc", "--privileged",
             "--mount", f"type=bind,source={tree},target=/closed,readonly",
             "--tmpfs", "/quick:size=1m")  # fmt: skip
    with machine(cove, "sharer", *flags) as name:
        # Ids are those on the disk, and links lead to places inside.
        seen = sh(cove, name, "stat -c %u:%g /data/file; cat /data/file /one; readlink /data/out")
        assert seen == "1000:1001\nof the host\nof the host\n/etc/hostname\n"
        assert sh(cove, name, "cat /data/out") == sh(cove, name, "cat /etc/hostname")
        sh(cove, name, "echo inside > /data/made; chown 999:998 /data/made; chmod 640 /data/made")
        made = os.stat(tree / "made")
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (999, 998, 0o640)
        assert (tree / "made").read_text() == "inside\n"
        (tree / "deep/new").write_text("later\n")
        wait_until(lambda: sh(cove, name, "cat /data/deep/new", None) == "later\n", "it is seen")
        # What is read-only is so for the guest's own root, who may mount what it likes.
        for path in ("/closed/made", "/closed/deep/x", "/one"):
            script = f"mount -o remount,rw /closed; echo x > {path}"
            refused = cove("exec", name, "sh", "-c", script, code=1)
            assert "Read-only file system" in refused.err
        sh(cove, name, "mknod /data/device b 8 0", 1)
        sh(cove, name, "mkdir /all && mount -t virtiofs share /all")
        assert sh(cove, name, "ls /all").split() == ["0", "1", "2", "3"]
        sh(cove, name, "echo x > /all/beside", 1)
        sh(cove, name, "mkdir /all/directory", 1)
        assert "/quick tmpfs rw" in sh(cove, name, "cat /proc/mounts")
        # The image's files are in a new volume, and what it made is there.
        assert sh(cove, name, "cat /etc/passwd; echo kept > /etc/kept") != ""
        _check_walls(cove)
        # It does not hang on the daemon.
        cove.kill_daemon()
        assert sh(cove, name, "echo still > /data/made; cat /data/made") == "still\n"
        (served,) = servers(cove)
        warm = cove("fork", name, code=None)
        assert warm.returncode and "has /data open, which is not in it" in warm.err
        cove("kill", name)
        wait_until(lambda: not servers(cove), "its server has ended")
        # Its command line is gone before it is: its memory is taken down first.
        wait_until(lambda: not os.path.exists(f"/proc/{served}"), "and is no process any more")
        assert cove.inspect(name)["Cause"]["kind"] == "signal", "it has lost nothing"
        nothing = cove("cp", f"{name}:/data/file", "/nowhere", code=1)
        assert "/data is no part of the machine's own disk, and it does not run" in nothing.err
        told = cove(
            "update", "--mount-rm", "/closed", "--mount-add", "source=more,target=/more", name
        )
        assert told.err == "cove: the mounts of sharer change at its next start\n"
        cove("start", name)
        assert sh(cove, name, "cat /etc/kept /data/made; ls /closed; ls /more") == "kept\nstill\n"
    assert cove("run", "--rm", "-v", "shared:/x", "bb", "cat", "/x/kept").out == "kept\n"
    cove("volume", "rm", "shared", "more")


@pytest.fixture
def hasty(cove: Cove) -> Iterator[None]:
    """Daemons that do not wait long for a guest's own end."""
    cove("ps")
    cove.stop_daemon()
    cove.env["COVE_VM_LEAVING"] = "1"
    yield
    del cove.env["COVE_VM_LEAVING"]
    cove.stop_daemon()
    cove("ps")


@pytest.mark.usefixtures("hasty")
def test_a_machine_whose_directories_nobody_serves_is_ended(cove: Cove, tree: Path) -> None:
    """Whichever daemon began it; nothing in the guest waits for good."""
    with machine(cove, "unserved", "-v", f"{tree}:/data") as name:
        cove.kill_daemon()
        assert sh(cove, name, "cat /data/file") == "of the host\n"
        (served,) = servers(cove)
        kill_process(served)
        # What it does there now waits until the machine is ended.
        cove("exec", name, "ls", "/data/deep", code=None)
        assert cove("wait", name).out == "137\n"
        cause = cove.inspect(name)["Cause"]
        assert cause["kind"] == "files", cause
        assert "the server of its shared directories ended" in cause["text"]
        cove("start", name)
        assert sh(cove, name, "cat /data/file") == "of the host\n"
        # Nobody was there to see it end.
        cove.kill_daemon()
        (served,) = servers(cove)
        kill_process(served)
        cove("wait", name)
        assert cove.inspect(name)["Cause"]["kind"] == "files"


def _check_walls(cove: Cove) -> None:
    (served,) = servers(cove)
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{served}/status").read_text().splitlines()
    )
    assert int(status["Uid"].split()[0]) >= 1 << 16
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    kept = int(status["CapEff"], 16)
    assert not kept & (1 << 21 | 1 << 18 | 1 << 8), "SYS_ADMIN, SYS_CHROOT, SETPCAP"
    points = [
        line.split()[4] for line in Path(f"/proc/{served}/mountinfo").read_text().splitlines()
    ]
    assert sorted(points) == ["/", "/0", "/1", "/2", "/3"], "all that it can reach, below its root"
    for kind in ("net", "user", "pid", "ipc"):
        assert os.readlink(f"/proc/{served}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert sorted(os.listdir(f"/proc/{served}/root")) == ["0", "1", "2", "3"]


def test_a_volume_can_be_a_disk(cove: Cove) -> None:
    cove("volume", "create", "--opt", "block", "--opt", "size=64m", "disk")
    flags = ("--mount", "type=volume,source=disk,target=/etc,block")
    with machine(cove, "first", *flags) as name:
        # Filled from the image, of its size, and nothing of its file system's own shows.
        assert "lost+found" not in sh(cove, name, "test -e /etc/passwd && ls -a /etc")
        size = int(sh(cove, name, "df -k /etc | tail -1 | awk '{print $2}'"))
        assert 40 << 10 < size < 64 << 10
        sh(cove, name, "echo one > /etc/kept; chown 999:999 /etc/kept")
        for mode in ("", ":ro"):
            busy = cove("run", "--rm", "--vm", "-v", f"disk:/x{mode}", "bb", "true", code=125)
            assert "cannot use volume disk: it is a disk, and first has it" in busy.err
        assert "first has it" in cove("volume", "clone", "disk", "copy", code=1).err
        warm = cove("snapshot", "create", name, code=None)
        assert warm.returncode and "cannot keep the memory of first: it has /etc open" in warm.err
        full = cove("exec", name, "sh", "-c", "dd if=/dev/zero of=/etc/big bs=1M count=80", code=1)
        assert "No space left on device" in full.err
        sh(cove, name, "rm /etc/big; sync; echo two >> /etc/kept")
        cove("kill", name)
        cove("start", name)
        assert sh(cove, name, "cat /etc/kept; stat -c %u /etc/kept") == "one\ntwo\n999\n"
    path = json.loads(cove("volume", "inspect", "disk").out)[0]["Mountpoint"]
    assert os.stat(path).st_size == 64 << 20
    cove("volume", "clone", "disk", "copy")
    with (
        machine(cove, "reader", "-v", "disk:/x:ro", "-v", "copy:/y"),
        machine(cove, "other", "-v", "disk:/x:ro"),
    ):
        assert sh(cove, "other", "cat /x/kept") == "one\ntwo\n"
        assert sh(cove, "reader", "echo three >> /y/kept; cat /x/kept") == "one\ntwo\n"
        assert "Read-only" in cove("exec", "reader", "touch", "/x/no", code=1).err
    for words in (("run", "--rm", "-v", "disk:/x", "bb", "true"), ("volume", "backup", "disk")):
        refused = cove(*words, code=None)
        assert refused.returncode and "it is a disk that a guest wrote" in refused.err
    cove("volume", "rm", "disk", "copy")
    assert not os.path.exists(path)


def test_what_cannot_be_is_refused_by_name(cove: Cove) -> None:
    def refused(*words: str, code: int = 125) -> str:
        return cove(*words, code=code).err

    run = ("run", "--rm", "--vm")
    shared = refused(*run, "-v", "/tmp:/x:rshared", "bb", "true")
    assert "what is mounted in a virtual machine is its own kernel's" in shared
    gone = refused(*run, "--mount", "type=bind,source=/no/where,target=/x", "bb", "true")
    assert "cannot mount /no/where on /x: no such file or directory" in gone
    small = refused("volume", "create", "--opt", "block", "--opt", "size=1m")
    assert "16m is the least" in small
    cove("volume", "create", "plain")
    other = refused(*run, "--mount", "type=volume,source=plain,target=/x,block", "bb", "true")
    assert "there is one with other options" in other
    part = "type=volume,source=parted,target=/x,block,volume-subpath=a"
    assert "it is a disk, of which there are no parts" in refused(
        *run, "--mount", part, "bb", "true"
    )
    cove("volume", "rm", "plain", "parted")
    assert cove("volume", "ls", "-q").out == ""
