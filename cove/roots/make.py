"""The writable layer of a machine: ``u<key>/fs`` with ``work``, and ``v<i>`` with ``w<i>`` for each
view. What the machine wrote stays from one start to the next; the work directories do not.
"""

from __future__ import annotations

import errno
import os

from cove.errors import HostError
from cove.linux.disk import tree_usage
from cove.roots.remove import remove_tree
from cove.store.lock import ROOM


def prepare_root(store_root: str, key: int, *, views: int = 0) -> None:
    """Make what the overlay of machine ``key`` needs; on a second start only the work directories.

    A volatile overlay leaves ``work/incompat`` behind, with which the next mount is refused: hence
    a new work directory for every start.
    """
    upper = f"{store_root}/roots/u{key}"
    names = [("fs", "work"), *((f"v{i}", f"w{i}") for i in range(views))]
    try:
        if _make(upper, 0o700):
            for content, work in names:
                _make(f"{upper}/{content}", 0o755)
                _make(f"{upper}/{work}", 0o700)
            return
        for content, work in names:
            _make(f"{upper}/{content}", 0o755)
            if not _make(f"{upper}/{work}", 0o700):
                remove_tree(f"{upper}/{work}")
                _make(f"{upper}/{work}", 0o700)
    except OSError as error:
        raise HostError(
            f"cannot make the root of machine {key}: {(error.strerror or '').lower()}",
            host=upper,
            hint=ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else "",
        ) from error


def usage(store_root: str, key: int) -> int:
    """Bytes on disk that machine ``key`` wrote; 0 when it has no root."""
    return tree_usage(f"{store_root}/roots/u{key}")


def _make(path: str, mode: int) -> bool:
    """Whether it is new."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return False
    os.chmod(path, mode)  # mkdir's mode is narrowed by the umask
    return True
