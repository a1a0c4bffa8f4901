"""``cp diff export commit`` of a virtual machine that does not run: its disk is read by a guest."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, front_path, wait_until

WRITE = (
    "mkdir /d; echo one > /d/one; ln -s /etc/passwd /d/out; rm /etc/group; echo x >> /etc/passwd"
)

BIG = "head -c 8000000 /dev/zero > /big"
"""More than stands in all pipes and windows on its way out."""


@contextlib.contextmanager
def ended(cove: Cove, name: str, script: str) -> Iterator[str]:
    """A machine that ran ``script`` and does not run any more."""
    cove("run", "--isolation", "vm", "--name", name, "bb", "sh", "-c", script)
    try:
        yield name
    finally:
        cove("rm", "-f", name, code=None)


def text_of(cove: Cove, what: str, tmp_path: Path) -> str:
    target = tmp_path / "text"
    target.unlink(missing_ok=True)
    cove("cp", what, str(target))
    return target.read_text()


def scratch_of(cove: Cove, name: str) -> Path:
    return Path(cove.inspect(name)["LogPath"]).parent / "scratch"


def test_out_and_in_and_started_again(cove: Cove, tmp_path: Path) -> None:
    with ended(cove, "still", f"{WRITE}; test ! -e /in || cat /in"):
        assert text_of(cove, "still:/d/one", tmp_path) == "one\n"
        cove("cp", "still:/d", str(tmp_path / "tree"))
        assert os.readlink(tmp_path / "tree/out") == "/etc/passwd"
        assert "cannot find /nowhere" in cove("cp", "still:/nowhere", str(tmp_path), code=1).err
        (tmp_path / "in").write_text("from the host\n")
        cove("cp", str(tmp_path / "in"), "still:/in")
        # At once: the guest that served until now lets go of the disk first.
        assert cove("start", "-a", "still", code=None).out == "from the host\n"


def test_diff_export_and_commit(cove: Cove) -> None:
    with ended(cove, "changed", WRITE):
        found = set(cove("diff", "changed").out.splitlines())
        assert found == {"A /d", "A /d/one", "A /d/out", "C /etc", "D /etc/group", "C /etc/passwd"}
        ran = subprocess.run(
            [front_path(), "export", "changed"], env=cove.env, capture_output=True, timeout=180,
            check=True,
        )  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as tar:
            names = set(tar.getnames())
        assert "d/one" in names and "bin/busybox" in names and "etc/group" not in names
        cove("commit", "changed", "of-changed")
        made = cove("run", "--rm", "of-changed", "sh", "-c", "cat /d/one; ls /etc")
        assert "one" in made.out.split() and "group" not in made.out.split()
        cove("image", "rm", "of-changed")


@pytest.mark.parametrize("flags", [(), ("--rm",)])
def test_before_the_first_start(cove: Cove, tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "seed").write_text("sown\n")
    cove("create", *flags, "--isolation", "vm", "--name", "unborn", "bb", "cat", "/seed")
    cove("cp", str(tmp_path / "seed"), "unborn:/seed")
    assert cove("diff", "unborn").out == "A /seed\n"
    assert cove("start", "-a", "unborn").out == "sown\n"
    cove("rm", "-f", "unborn", code=None)


def test_nobody_sees_the_guest_of_a_visit(cove: Cove) -> None:
    with ended(cove, "quiet", "true"):
        cove("diff", "quiet")
        assert cove("ps", "-q", "--filter", "name=quiet").out == ""
        assert cove.inspect("quiet")["State"]["Status"] == "exited"
        assert cove("system", "check").returncode == 0, "the guest that is still there is known"
        cove("rm", "quiet")
        wait_until(lambda: cove("system", "check", code=None).returncode == 0, "nothing is left")


def test_a_start_ends_whoever_reads(cove: Cove) -> None:
    script = f"test ! -e /big || exec sleep 1000; {BIG}"
    with ended(cove, "wanted", script):
        reader = cove.spawn("cp", "wanted:/big", "-")
        assert reader.stdout is not None and reader.stdout.read(1000)
        cove("start", "wanted")
        reader.stdout.read()
        _, err = reader.communicate(timeout=180)
        assert reader.returncode == 1
        assert b"the machine was started or removed meanwhile" in err
        assert cove("exec", "wanted", "stat", "-c", "%s", "/big").out == "8000000\n"


def test_a_daemon_killed_in_the_middle_costs_nothing(cove: Cove, tmp_path: Path) -> None:
    with ended(cove, "robust", f"{BIG}; test ! -e /in || cat /in"):
        (tmp_path / "in").write_text("kept\n")
        cove("cp", str(tmp_path / "in"), "robust:/in")
        reader = cove.spawn("export", "robust")
        assert reader.stdout is not None and reader.stdout.read(1000)
        cove.kill_daemon()
        reader.communicate(timeout=180)
        assert cove("start", "-a", "robust").out == "kept\n"
        assert text_of(cove, "robust:/in", tmp_path) == "kept\n"
    wait_until(lambda: cove("system", "check", code=None).returncode == 0, "nothing is left")


@pytest.mark.parametrize("place", [1024, 4096 * 64], ids=["superblock", "tables"])
def test_a_disk_that_is_none(cove: Cove, place: int) -> None:
    """A guest that broke its disk has a message for itself, and harms nobody."""
    with ended(cove, "broken", "echo x > /f; sync"), ended(cove, "whole", "echo y > /f"):
        with scratch_of(cove, "broken").open("r+b") as disk:
            disk.seek(place)
            disk.write(os.urandom(1 << 16))
        done = cove("export", "broken", code=None)
        assert done.returncode in (0, 1, 125), done.err
        if place == 1024:
            assert done.err.startswith("cove: cannot mount "), done.err
        assert "A /f" in cove("diff", "whole").out
