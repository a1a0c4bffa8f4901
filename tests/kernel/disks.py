"""File systems of the tests' own."""

from __future__ import annotations

import subprocess
from pathlib import Path


def small_disk(image: Path, mib: int) -> tuple[str, ...]:
    """What mount(8) has to be told for an ext4 of that size. Before Linux 6.3 no state directory
    that runs machines can be on a tmpfs.
    """
    words = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-i", "2048"]
    subprocess.run([*words, image, f"{mib}M"], check=True)
    return ("-o", "loop", str(image))
