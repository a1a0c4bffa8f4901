"""Scratch disks of virtual machines: what a machine writes, in a sparse file that holds an ext4 of
limited size. Made once for each size; a new machine's is a copy of its few written blocks.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading

from cove.errors import HostError
from cove.planner.virtual.jail import SMALLEST_DISK

MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0",
        "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0")  # fmt: skip
JOURNAL, SMALL_JOURNAL = (("-O", "^resize_inode", "-J", f"size={mib}") for mib in (16, 4))
"""The small one for disks of less than 64 MiB: a journal has half of its disk at most."""
NO_JOURNAL = ("-O", "^has_journal,^resize_inode")
"""A disk that is thrown away at the machine's end is never read after a crash."""


def make_scratch(template: str, path: str, size: int, *, journal: bool) -> int:
    """A new scratch disk of ``size`` bytes at ``path``: its descriptor. ``template`` is the empty
    one of that size, made where it is missing.

    Raises:
        HostError: there is no ``mkfs.ext4``, or no room.
    """
    if not os.path.exists(template):
        _make_template(template, max(size, SMALLEST_DISK), journal=journal)
    source = os.open(template, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        target = os.open(f"{path}.new", flags, 0o600)
        try:
            copy_sparse(source, target)
            os.rename(f"{path}.new", path)  # whole, or not there: a killed daemon's half is nothing
        except BaseException:
            os.close(target)
            os.unlink(f"{path}.new")
            raise
        return target
    finally:
        os.close(source)


def copy_sparse(source: int, target: int) -> None:
    """The written parts of a file; the holes stay holes."""
    size = os.fstat(source).st_size
    os.truncate(target, size)
    at = 0
    while True:
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(source, begin, os.SEEK_HOLE)
        while begin < at:
            begin += os.copy_file_range(source, target, at - begin, begin, begin)


def journal_of(size: int) -> tuple[str, ...]:
    return JOURNAL if size >= 64 << 20 else SMALL_JOURNAL


def _make_template(template: str, size: int, *, journal: bool) -> None:
    """Two first starts may make it at once: each its own, and the last one stays."""
    made = f"{template}.{os.getpid()}-{threading.get_ident()}"
    with open(made, "wb") as file:
        file.truncate(size)
    tree = _tree(f"{made}.tree")
    try:
        done = subprocess.run(
            [*MKFS, *(journal_of(size) if journal else NO_JOURNAL), "-d", tree, made],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        )
    except FileNotFoundError:
        os.unlink(made)
        raise HostError(
            "cannot make a scratch disk: there is no mkfs.ext4",
            hint="apt-get install e2fsprogs",
        ) from None
    finally:
        shutil.rmtree(tree, ignore_errors=True)
    if done.returncode:
        os.unlink(made)
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise HostError(f"cannot make a scratch disk: {reason}")
    with open(made, "rb") as file:
        os.fsync(file.fileno())  # a name without its bytes, after a power cut, is found for good
    os.rename(made, template)


def _tree(path: str) -> str:
    """What overlayfs wants to find on it: to make directories costs an emulated guest 20 ms."""
    shutil.rmtree(path, ignore_errors=True)
    for name in ("fs", "work"):
        os.makedirs(f"{path}/{name}", 0o755)
    return path
