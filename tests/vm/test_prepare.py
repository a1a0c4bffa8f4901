"""What the first virtual machine of an image waits for is told to people, and to nobody else."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, front_path, wait_until

IMAGE = "unseen:1"
TOLD = f"making the disk of {IMAGE}, once"


@pytest.fixture
def unseen(cove: Cove, bb_tar: Path) -> Iterator[None]:
    """An image of which there is no disk: what differs is its configuration."""
    with bb_tar.open("rb") as file:
        cove("import", "-q", "-c", "LABEL unseen=1", "-", IMAGE, stdin=file.read())
    yield
    cove("rmi", "-f", IMAGE)


def on_terminal(cove: Cove, *words: str) -> tuple[int, str]:
    """The exit code, and what came on stderr, which is a terminal."""
    ours, theirs = pty.openpty()
    said = b""
    command = [str(front_path()), *words]
    with subprocess.Popen(
        command, env=cove.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # EIO: whoever had it open has ended
            pass
        os.close(ours)
        process.communicate(timeout=120)
    return process.returncode, said.decode()


def test_people_see_the_disk_being_made_once(cove: Cove, unseen: None) -> None:
    words = ("run", "--rm", "--vm", IMAGE, "true")
    code, said = on_terminal(cove, *words)
    assert code == 0 and TOLD in said
    code, said = on_terminal(cove, *words)
    assert code == 0 and "once" not in said


def test_people_are_told_that_a_guest_boots(cove: Cove) -> None:
    """Until there is a template, of which the next are clones."""
    words = ("run", "--rm", "--vm", "bb", "true")
    templates = cove("template", "ls", "-q").out.split()
    if templates:
        cove("template", "rm", *templates)
    code, said = on_terminal(cove, *words)
    assert code == 0 and "booting a guest of this size" in said
    wait_until(lambda: cove("template", "ls", "-q").out, "a template")
    code, said = on_terminal(cove, *words)
    assert code == 0 and "booting" not in said


def test_programs_lie_in_it_as_they_are(cove: Cove, bb_tar: Path, tmp_path: Path) -> None:
    with tarfile.open(bb_tar) as given, tarfile.open(tmp_path / "image.tar", "w") as made:
        for member in given:
            made.addfile(member, given.extractfile(member) if member.isreg() else None)
        for name in ("usr/lib/libx.so.1.2", "usr/share/x.so.txt"):
            member = tarfile.TarInfo(name)
            member.size = 1 << 16
            made.addfile(member, io.BytesIO(b"A" * member.size))
    image = cove("image", "import", str(tmp_path / "image.tar"), "plain:1").out.strip()
    try:
        cove("run", "--rm", "--vm", "plain:1", "true", timeout=180)
        disk = cove.root / "disks" / f"{image.removeprefix('sha256:')}.erofs"
        packed = {
            path: "100.00%" not in subprocess.run(
                ["dump.erofs", f"--path={path}", disk], capture_output=True, text=True, check=True
            ).stdout
            for path in ("/bin/busybox", "/usr/lib/libx.so.1.2", "/usr/share/x.so.txt")
        }  # fmt: skip
        assert list(packed.values()) == [False, False, True]
    finally:
        cove("rmi", "-f", "plain:1")


def test_scripts_do_not(cove: Cove, unseen: None) -> None:
    assert cove("run", "--rm", "--vm", IMAGE, "true", timeout=120).err == ""


def test_the_image_host_is_refused_before_anything_is_made(cove: Cove) -> None:
    before = cove("ps", "-aq").out
    for verb in (("run", "--rm"), ("create",)):
        done = cove(*verb, "--vm", "host", "true", code=125)
        assert done.err == (
            "cove: cannot run host in a virtual machine: it shows the host's own directories, of "
            "which no disk is made\n  from: --isolation vm\n"
            "  hint: use an image of your own: cove image bootstrap debian:bookworm\n"
        )
    assert cove("ps", "-aq").out == before
