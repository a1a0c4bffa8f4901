"""The memory of another process, as the kernel shows it to root: which pages of a mapping are its
own, and what is in them. What it says of itself is never asked.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cove.linux.syscalls import call

_HAS, _OF_FILE = 0xC0, 0x20
"""Bits 63 (in memory), 62 (swapped) and 61 (of a file) of a page's entry, in its highest byte."""
_OWN = bytes(byte & _HAS != 0 and not byte & _OF_FILE for byte in range(256))
_RUN = re.compile(b"\x01+")
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")
_PIECE = struct.Struct("QQ")
"""``struct iovec``."""
COPY_MAX = 64 << 20
CALL_MAX, PIECES_MAX = 4 << 20, 512
READERS = 2
"""The CPU of a guest that stands still is free."""


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
    """Those into the same places of ``target``: how many bytes. By process_vm_readv(2), which costs
    half of what reading ``/proc/PID/mem`` does, on as many CPUs as there are for it.

    Raises:
        OSError: the process has ended, or has nothing mapped there.
    """
    import ctypes  # 6 ms

    calls = list(_calls(own_pages(pid, at, len(target))))
    place = ctypes.c_char.from_buffer(target)
    one = partial(_copy, pid, at, ctypes.addressof(place))
    try:
        with ThreadPoolExecutor(READERS, "memory") as pool:
            return sum(pool.map(one, calls))
    finally:
        del place, one  # or the mapping could not be closed


def _calls(runs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """In parts that one system call takes."""
    part: list[tuple[int, int]] = []
    size = 0
    for start, length in runs:
        for begin in range(start, start + length, CALL_MAX):
            piece = min(CALL_MAX, start + length - begin)
            if size + piece > CALL_MAX or len(part) == PIECES_MAX:
                yield part
                part, size = [], 0
            part.append((begin, piece))
            size += piece
    if part:
        yield part


def _copy(pid: int, at: int, to: int, part: list[tuple[int, int]]) -> int:
    ours, theirs = (
        b"".join(_PIECE.pack(base + begin, length) for begin, length in part) for base in (to, at)
    )
    count, wanted = len(part), sum(length for _, length in part)
    if call("process_vm_readv", pid, ours, count, theirs, count, 0) != wanted:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return wanted


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
