"""The memory of another process, as the kernel shows it to root: which pages of a mapping are its
own, and what is in them. What it says of itself is never asked.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterator

_HAS, _OF_FILE = 0xC0, 0x20
"""Bits 63 (in memory), 62 (swapped) and 61 (of a file) of a page's entry, in its highest byte."""
_OWN = bytes(byte & _HAS != 0 and not byte & _OF_FILE for byte in range(256))
_RUN = re.compile(b"\x01+")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
COPY_MAX = 64 << 20


def own_pages(pid: int, at: int, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length of what the process has written into a private mapping."""
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = os.pread(fd, size // mmap.PAGESIZE * 8, at // mmap.PAGESIZE * 8)
    finally:
        os.close(fd)
    for run in _RUN.finditer(entries[7::8].translate(_OWN)):
        yield run.start() * mmap.PAGESIZE, (run.end() - run.start()) * mmap.PAGESIZE


def copy_own(pid: int, at: int, target: mmap.mmap) -> int:
    """Those into the same places of ``target``: how many bytes.

    Raises:
        OSError: the process has ended, or has nothing mapped there.
    """
    copied = 0
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    with memoryview(target) as view:
        try:
            for begin, length in own_pages(pid, at, len(target)):
                end = begin + length
                while begin < end:
                    with view[begin:end] as part:
                        begin += os.preadv(fd, [part], at + begin)
                copied += length
        finally:
            os.close(fd)
    return copied


def mapped_file(pid: int, at: int, size: int) -> int:
    """Descriptor of the file of ``size`` bytes that is mapped whole at this address; -1: none."""
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as file:
        for line in file:
            found = _LINE.match(line)
            if found is None or int(found[1], 16) != at or int(found[2], 16) < at + size:
                continue
            if line.split()[4] == "0":  # no inode: memory of its own alone
                return -1
            path = f"/proc/{pid}/map_files/{found[1].lstrip('0')}-{found[2].lstrip('0')}"
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            seen = os.fstat(fd)
            if stat.S_ISREG(seen.st_mode) and seen.st_size == size:
                return fd
            os.close(fd)
    return -1


def copy_data(source: int, target: int) -> None:
    """What a file holds into another one that is empty; its holes stay holes."""
    size, at = os.fstat(source).st_size, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(target, begin, os.SEEK_SET)
        while begin < at:
            begin += os.sendfile(target, source, begin, min(at - begin, COPY_MAX))
