"""Opening what is to be mounted: once, by descriptor, and checked on the descriptor, so that what
was checked is what gets mounted, whatever is put in its place meanwhile.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from typing import Literal, NamedTuple

from cove.errors import CoveError, HostError, NoSuchSource, UsageError
from cove.linux.syscalls import (
    AT_FDCWD,
    OPEN_TREE,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    syscall,
)

OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000


class Source(NamedTuple):
    """An open bind source; ``fd`` is O_PATH and the receiver's to close."""

    fd: int
    is_dir: bool
    uid: int
    gid: int


def open_source(
    path: str, target: str, *, origin: str = "", create: bool = False, within: str = ""
) -> Source:
    """Open a host path that is to be mounted on ``target``; ``create`` makes a missing directory.

    Links are followed, as the user sees the path; those of /proc into other processes are not.
    ``within``: a directory of cove's own, below which lies what strangers sent: none is followed.
    """
    what = f"cannot mount {path} on {target}"
    if not path.startswith("/"):
        raise UsageError(f"{what}: the source is not an absolute path", origin=origin)
    try:
        fd = _open_within(within, path) if within else _open(path, create=create)
    except OSError as error:
        raise _source_error(what, path, target, origin, error) from error
    try:
        found = os.fstat(fd)
        if stat.S_ISLNK(found.st_mode):
            raise HostError(f"{what}: it is a symbolic link of /proc", origin=origin)
    except BaseException:
        os.close(fd)
        raise
    return Source(fd, stat.S_ISDIR(found.st_mode), found.st_uid, found.st_gid)


def clone_mount(fd: int, *, recursive: bool, what: str = "", origin: str = "") -> int:
    """A detached copy of the mount that ``fd`` lies in, from there on: what is mounted in its place
    later is not in it. Close-on-exec; the receiver's to close.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    try:
        return syscall(OPEN_TREE, fd, b"\0", flags | (AT_RECURSIVE if recursive else 0))
    except OSError as error:
        hint = "mount the parts one by one" if error.errno == errno.EINVAL else ""
        reason = (error.strerror or "").lower()
        raise HostError(f"{what}: {reason}", origin=origin, hint=hint) from error


def idmap_of(path: str, kernel: tuple[int, int]) -> Literal["recursive", "top", "none"]:
    """What of a mount source can be idmapped: with every mount below it, it alone, or nothing."""
    from cove.linux.probe import IDMAP_SINCE

    never = (1 << 30, 0)
    device = os.stat(path).st_dev
    top = os.readlink(path) if path.startswith("/proc/self/fd/") else path
    wanted, found = f"{os.major(device)}:{os.minor(device)}", False
    below = True
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            words = left.split(" ", 5)
            able = IDMAP_SINCE.get(right.split(" ", 1)[0], never) <= kernel
            if words[2] == wanted:
                found = found or able
            if words[4].startswith(f"{top.rstrip('/')}/"):
                below = below and able
    if not found:
        return "none"
    return "recursive" if below else "top"


def mount_points(pid: int) -> set[str]:
    """Where something is mounted, as a process sees it; none of one that has ended."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return {_unescaped(line.split(" ", 5)[4]) for line in file}
    except OSError:
        return set()


def _unescaped(path: str) -> str:
    r"""``\\040`` is a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _open(path: str, *, create: bool) -> int:
    try:
        return openat2(AT_FDCWD, path, flags=os.O_PATH, resolve=RESOLVE_NO_MAGICLINKS)
    except FileNotFoundError:
        if not create:
            raise
        os.makedirs(path, 0o755, exist_ok=True)
        return openat2(AT_FDCWD, path, flags=os.O_PATH, resolve=RESOLVE_NO_MAGICLINKS)


def _open_within(directory: str, path: str) -> int:
    top = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        below = os.path.relpath(path, directory)
        return openat2(top, below, flags=os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    finally:
        os.close(top)


def _source_error(what: str, path: str, target: str, origin: str, error: OSError) -> CoveError:
    if isinstance(error, FileNotFoundError):
        missing = NoSuchSource(
            f"{what}: no such file or directory",
            origin=origin,
            hint=f"create the directory, or let -v create it: -v {path}:{target}",
            exit_code=125,
        )
        missing.path = path
        return missing
    if error.errno == 40:
        return HostError(f"{what}: too many symbolic links, or one of /proc", origin=origin)
    return HostError(f"{what}: {(error.strerror or str(error)).lower()}", origin=origin)


def lower_layers(pids: Iterable[int]) -> set[str]:
    """Names of the directories that are lower layers of an overlay in one of these processes' mount
    namespaces.
    """
    used: set[str] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue  # it has ended
        for option in text.replace("\n", ",").split(","):
            if option.startswith("lowerdir="):
                used |= {os.path.basename(word) for word in option[9:].split(":")}
    return used
