"""The writable layer of a machine: ``u<key>/fs`` with ``work``, and ``v<i>`` with ``w<i>`` for each
view. What the machine wrote stays from one start to the next; the work directories do not.
"""

from __future__ import annotations

import contextlib
import os
import stat

from cove.linux.disk import file_usage, tree_usage
from cove.roots.remove import remove_tree
from cove.store.lock import translated


def prepare_root(
    store_root: str, key: int, *, views: int = 0, above: int = 0, anew: bool = False
) -> None:
    """Make what the overlay of writable layer ``key`` needs; on a second start only the work
    directories. Over the layer ``above`` its topmost directories have that one's attributes;
    ``anew``: also where they are there already.

    A volatile overlay leaves ``work/incompat`` behind, with which the next mount is refused: hence
    a new work directory for every start.
    """
    upper = f"{store_root}/roots/u{key}"
    below = f"{store_root}/roots/u{above}" if above else ""
    names = [("fs", "work"), *((f"v{i}", f"w{i}") for i in range(views))]
    with translated(f"make the root of machine {key}", host=upper):
        if _make(upper, 0o700):
            for content, work in names:
                _make_top(upper, content, below, anew=False)
                _make(f"{upper}/{work}", 0o700)
            return
        for content, work in names:
            _make_top(upper, content, below, anew=anew)
            if not _make(f"{upper}/{work}", 0o700):
                remove_tree(f"{upper}/{work}")
                _make(f"{upper}/{work}", 0o700)


def _make_top(upper: str, part: str, below: str, *, anew: bool) -> None:
    """The topmost directory of an overlay shows the attributes of the highest layer."""
    if (_make(f"{upper}/{part}", 0o755) or anew) and below:
        with contextlib.suppress(FileNotFoundError):  # a layer of an image that had no such view
            copy_top(f"{below}/{part}", f"{upper}/{part}")


def copy_top(source: str, target: str) -> None:
    """Attributes of one directory to another; both are cove's own, so that none is a link."""
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source):
        if name.startswith(("user.", "system.posix_acl")):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def is_blank(store_root: str, key: int, *, views: int = 0, above: int = 0) -> bool:
    """Nothing was written to it: it is as ``prepare_root`` makes it, or not made yet."""
    upper, below = f"{store_root}/roots/u{key}", f"{store_root}/roots/u{above}" if above else ""
    for part in ("fs", *(f"v{i}" for i in range(views))):
        try:
            with os.scandir(f"{upper}/{part}") as entries:
                if any(True for _ in entries) or not _same_top(upper, below, part):
                    return False
        except FileNotFoundError:
            continue
    return True


def _same_top(upper: str, below: str, part: str) -> bool:
    found = os.stat(f"{upper}/{part}")
    plain = (0o755, 0, 0)
    if below and os.path.isdir(f"{below}/{part}"):
        other = os.stat(f"{below}/{part}")
        plain = (stat.S_IMODE(other.st_mode), other.st_uid, other.st_gid)
    names = [n for n in os.listxattr(f"{upper}/{part}") if not n.startswith("trusted.overlay.")]
    return (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == plain and not (
        names and not below
    )


def usage(store_root: str, key: int) -> int:
    """Bytes on disk that machine ``key`` wrote; 0 when it has no root, or wrote nothing."""
    upper = f"{store_root}/roots/u{key}"
    return max(0, tree_usage(upper) - _frame(upper))


def _frame(upper: str) -> int:
    """The directories that every layer has, whatever was written."""
    size = file_usage(upper)
    with contextlib.suppress(FileNotFoundError), os.scandir(upper) as entries:
        for entry in entries:
            size += file_usage(entry.path)
            if entry.name.startswith("w"):  # what overlayfs makes in it
                size += file_usage(f"{entry.path}/work")
    return size


def _make(path: str, mode: int) -> bool:
    """Whether it is new."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return False
    os.chmod(path, mode)  # mkdir's mode is narrowed by the umask
    return True
