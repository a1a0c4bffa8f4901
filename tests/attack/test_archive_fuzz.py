"""The unpacker under ASan and UBSan, fed with damaged archives: it refuses, it never breaks."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.images.tars import Tar
from tests.native.conftest import sanitized_binary

__all__ = ["sanitized_binary"]

VERDICTS = {0, 3, 4, 5, 6, 7, 8, 9}
"""Exit codes of ``enum verdict``; a report of a sanitizer has another one."""


def seeds(tmp_path: Path) -> list[bytes]:
    tar = (
        Tar()
        .dir("d", mode=0o2755, uid=70000 % 65536)
        .file(
            "d/" + "n" * 200, b"x" * 700, pax_headers={"mtime": "1.5", "SCHILY.xattr.user.a": "b"}
        )
        .symlink("l", "d")
        .link("h", "l")
        .file("d/.wh.x")
        .file("l/y", b"1")
        .add("c", tarfile.CHRTYPE, devmajor=1)
    )
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        for i in range(40):
            file.seek(i * 100_000)
            file.write(b"data")
    gnu = Tar(tarfile.GNU_FORMAT).file("a" * 150, b"1").symlink("b", "c" * 150)
    made = [tar.data(), gnu.data()]
    for form in ("gnu", "posix"):
        words = ["tar", "-C", tmp_path, "-S", f"--format={form}", "-c", "sparse"]
        made.append(subprocess.run(words, capture_output=True, check=True).stdout)
    return made


def checksummed(data: bytearray) -> bytes:
    """With the sums of all headers right, so that damage goes deeper."""
    at = 0
    while at + 512 <= len(data) and any(data[at : at + 512]):
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        size = data[at + 124 : at + 135]
        at += 512 + (int(size, 8) + 511) // 512 * 512 if size.isdigit() else 512
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_archives_are_refused_without_an_error_of_memory(
    tmp_path: Path, sanitized_binary: Path, seed: int
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    data = seeds(tmp_path)[seed]
    dice = random.Random(seed)
    for i in range(40):
        bad = bytearray(data)
        for _ in range(dice.randint(0, 6)):
            at = dice.randrange(min(len(bad), 4096))
            bad[at] = dice.choice(
                (0, 0x20, 0x2E, 0x2F, 0x30, 0x37, 0x80, 0xFF, dice.randrange(256))
            )
        if dice.random() < 0.2:
            del bad[dice.randrange(len(bad)) :]
        place = tmp_path / str(i)
        place.mkdir()
        done = subprocess.run(
            [sanitized_binary, "unpack", place, str(1 << 24), "500"],
            input=checksummed(bad) if dice.random() < 0.8 else bytes(bad),
            capture_output=True,
            env={"ASAN_OPTIONS": "detect_leaks=0"},  # it looks for /proc, which is out of reach
        )
        assert done.returncode in VERDICTS, done.stderr.decode("utf-8", "replace")
        assert (done.returncode == 0) == (done.stdout != b""), done
