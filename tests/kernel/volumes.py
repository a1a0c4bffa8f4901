"""An image whose directories are worth copying, and what volumes are looked at by: not a test."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.driver import Cove

IMAGE = "keeper"
LISTING = """cd /data
find . -type d | sort | xargs stat -c '%n %F %a %u:%g %h'
find . ! -type d | sort | xargs stat -c '%n %F %a %u:%g %h %s'
readlink link
"""
"""Run inside: the whole tree, as it must look in every volume that was filled from the image. How
large a directory is depends on the file system.
"""


def make_image(cove: Cove, bb_tar: Path, scratch: Path) -> None:
    """``VOLUME /data``: files of several owners, modes and kinds, and a link that leads out."""
    root = scratch / "root"
    data = root / "data"
    (data / "deep/er").mkdir(parents=True)
    (data / "file").write_text("of the image\n")
    (data / "deep/er/secret").write_text("hidden\n")
    (data / "link").symlink_to("/etc/passwd")
    (data / "hard").hardlink_to(data / "file")
    with open(data / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.write(b"begin")
    (data / "deep/er/secret").chmod(0o600)
    tar = scratch / "image.tar"
    shutil.copy(bb_tar, tar)
    words = ["tar", "-C", str(root), "--numeric-owner", "--owner", "999", "--group", "998"]
    subprocess.run([*words, "--mode", "u=rwX,g=rX,o=", "-Srf", str(tar), "./data"], check=True)
    cove("image", "import", "-c", "VOLUME /data", str(tar), IMAGE)
    shutil.rmtree(root)
    tar.unlink()


def volumes(cove: Cove, *flags: str) -> list[str]:
    return cove("volume", "ls", "-q", *flags).out.split()


def inspect(cove: Cove, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cove("volume", "inspect", name).out)[0]
    return found


def run(cove: Cove, *words: str, flags: tuple[str, ...] = (), image: str = "bb") -> str:
    """A command in a machine that goes at its end; what it printed."""
    return cove("run", "--rm", *flags, image, *words).out


def sh(cove: Cove, script: str, *flags: str, image: str = "bb") -> str:
    return run(cove, "sh", "-c", script, flags=flags, image=image)
