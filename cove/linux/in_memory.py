"""Directories that no disk ever holds, for what must not outlive its use: on a host's tmpfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator

from cove.errors import Unsupported
from cove.linux.disk import file_system

PLACES = ("/dev/shm", "/run")


@contextlib.contextmanager
def directory_in_memory(prefix: str, what: str) -> Iterator[str]:
    """A new one, 0700, which goes with the block; that of a killed process goes with ``sweep``."""
    for place in PLACES:
        if os.path.isdir(place) and file_system(place) in ("tmpfs", "ramfs"):
            break
    else:
        raise Unsupported(
            f"{what}: nothing of this host is held in memory",
            hint=f"mount a tmpfs on {PLACES[0]}",
            exit_code=1,
        )
    path = tempfile.mkdtemp(prefix=prefix, dir=place)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep(prefix: str) -> None:
    """Remove what a killed process has left: ours, and no link that somebody put there."""
    for place in PLACES:
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if not entry.name.startswith(prefix):
                    continue
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                    shutil.rmtree(entry.path, ignore_errors=True)
