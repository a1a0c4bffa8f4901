"""Space on disks: of trees and of file systems.

Measuring a tree follows no link and crosses no mount.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

BLOCK = 512
"""Unit of st_blocks, whatever the file system's own."""


class Space(NamedTuple):
    total: int
    free: int
    """Bytes for unprivileged writers: what root could still take is not ours to give."""


def free_space(path: str) -> Space:
    found = os.statvfs(path)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def available_memory() -> int:
    """Bytes that programs could take without anything being swapped."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def tree_usage(path: str) -> int:
    """Bytes on disk of everything below ``path``, hard links counted once; a missing one is 0.

    It may be written to meanwhile by somebody hostile: no link is followed, no mount crossed.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return 0
    try:
        return _Small(os.fstat(fd)).measure(fd)
    except _TooLarge:
        return _du(path)
    finally:
        os.close(fd)


def trees_usage(paths: Iterable[str]) -> dict[str, int]:
    """Bytes on disk of several trees; what has names in several of them counts in the first."""
    every = list(paths)
    found: dict[str, int] = {}
    for start in range(0, len(every), _AT_ONCE):
        words = _run_du("-0", "--", *every[start : start + _AT_ONCE]).split(b"\0")
        for word in words:
            size, _, name = word.partition(b"\t")
            if size.isdigit():
                found[os.fsdecode(name)] = int(size)
    return found


def usage(path: str) -> int:
    """Bytes on disk of a file, or of a tree."""
    is_tree = os.path.isdir(path) and not os.path.islink(path)
    return tree_usage(path) if is_tree else file_usage(path)


def file_usage(path: str) -> int:
    """Bytes on disk of one file; a missing one is 0."""
    try:
        return os.lstat(path).st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def deleted_usage(pids: Iterable[int], devices: frozenset[int]) -> int:
    """Bytes of files on ``devices`` that have no name any more and that ``pids`` hold open, or
    have mapped.

    No tree shows them: a program that unlinks a file and goes on writing would never be seen.
    """
    seen: dict[tuple[int, int], int] = {}
    for directory in (f"/proc/{pid}/{kind}" for pid in pids for kind in ("fd", "map_files")):
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    found = entry.stat()
                    gone = found.st_nlink == 0 and stat.S_ISREG(found.st_mode)
                    if gone and found.st_dev in devices:
                        seen[found.st_dev, found.st_ino] = found.st_blocks * BLOCK
    return sum(seen.values())


def overlay_devices(pid: int) -> frozenset[int]:
    """Device numbers of the overlays a process sees."""
    devices = set()
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            if b" - overlay " in line:
                major, minor = line.split(b" ", 3)[2].split(b":")
                devices.add(os.makedev(int(major), int(minor)))
    return frozenset(devices)


def file_system(path: str) -> str:
    """The type of the one that holds ``path``, ``ext4`` say; empty when it cannot be told.

    By the mount's own number: a btrfs subvolume has another device number than its mount.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            numbers = [line.split()[1] for line in info if line.startswith("mnt_id:")]
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            if left.split(" ", 1)[0] in numbers:
                return right.split()[0]
    return ""


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRIES = 2000
_DEPTH = 32
_AT_ONCE = 1000
"""Trees that one du(1) is given: a command line has an end."""


class _TooLarge(Exception):
    """Of a tree that another process should measure: it would hold up this one's threads."""


class _Small:
    """The measuring of a tree of up to _ENTRIES entries, _DEPTH directories deep."""

    def __init__(self, top: os.stat_result) -> None:
        self._device = top.st_dev
        self._top = top.st_blocks * BLOCK
        self._entries = 0
        self._links: set[int] = set()

    def measure(self, fd: int) -> int:
        return self._top + self._below(fd, 0)

    def _below(self, fd: int, depth: int) -> int:
        size = 0
        with os.scandir(fd) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > _ENTRIES or depth > _DEPTH:
                    raise _TooLarge
                with contextlib.suppress(OSError):  # gone, or put in a link's place, meanwhile
                    size += self._entry(fd, entry, depth)
        return size

    def _entry(self, fd: int, entry: os.DirEntry[str], depth: int) -> int:
        found = entry.stat(follow_symlinks=False)
        if found.st_dev != self._device:
            return 0
        size = found.st_blocks * BLOCK
        if stat.S_ISDIR(found.st_mode):
            below = os.open(entry.name, _DIRECTORY, dir_fd=fd)
            try:
                size += self._below(below, depth + 1)
            finally:
                os.close(below)
        elif found.st_nlink > 1:
            if found.st_ino in self._links:
                return 0
            self._links.add(found.st_ino)
        return size


def _du(path: str) -> int:
    words = _run_du("--", path).split()
    return int(words[0]) if words and words[0].isdigit() else 0


def _run_du(*words: str) -> bytes:
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawnp(
            "du",
            ("du", "-s", "-x", "-B1", *words),
            {"PATH": os.defpath, "LC_ALL": "C"},
            file_actions=(
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, write, 1),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ),
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    with open(read, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)  # its code says only that files vanished while it looked
    return said
