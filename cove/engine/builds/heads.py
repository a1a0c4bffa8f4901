"""Heads of entries in the tar that a step's files go through: those of tarfile, byte by byte, made
of a few fields. A context may have a million files, and tarfile takes 50 us for each. Pure.
"""

from __future__ import annotations

import functools
import tarfile

from cove.build.files.entries import FIFO, FILE, FOLDER, LINK, Entry
from cove.build.files.select import Placed

_TYPES = {
    FILE: tarfile.REGTYPE, FOLDER: tarfile.DIRTYPE, LINK: tarfile.SYMTYPE, FIFO: tarfile.FIFOTYPE,
}  # fmt: skip
ATTRIBUTE = "SCHILY.xattr."
"""Begins the names of extended attributes in pax headers, as star and GNU tar have it."""
_BLOCK = 512
_IDS, _SIZES = 8**7, 8**11
"""What the fields of ustar hold is less."""


def head_of(one: Placed, now_ns: int, first: str | None) -> bytes:
    """``first``: what another name of the file was called that came before."""
    entry = one.entry
    kind = tarfile.LNKTYPE if first is not None else _TYPES[entry.kind]
    name = one.target or "."
    link = entry.link if first is None else first
    plain = (
        not entry.xattrs
        and len(name) < 100
        and len(link) <= 100
        and entry.uid < _IDS
        and entry.gid < _IDS
        and entry.size < _SIZES
        and name.isascii()
        and link.isascii()
    )
    if not plain:
        return long_head(one, now_ns, first)
    if kind == tarfile.DIRTYPE and not name.endswith("/"):
        name += "/"
    size = entry.size if kind == tarfile.REGTYPE else 0
    when = now_ns if one.made else entry.mtime_ns
    record = b"mtime=%s\n" % _seconds(when)
    length = len(record) + 3  # of the length itself, which has two digits, and a space
    said = b"%d %s" % (length, record)
    fields = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        _mode(entry), entry.uid, entry.gid, size, _whole(when),
    )  # fmt: skip
    middle, end, total = _fixed(kind)
    called, led = name.encode(), link.encode()
    total += sum(called) + sum(fields) + sum(led)
    return b"".join((
        _extended(length), said, bytes(-length % _BLOCK),
        called, bytes(100 - len(called)), fields, b"%06o\0" % total, middle,
        led, bytes(100 - len(led)), end,
    ))  # fmt: skip


@functools.cache
def _fixed(kind: bytes) -> tuple[bytes, bytes, int]:
    """What is the same in all of a kind: what is between checksum and link, the rest; and the sum
    of all with a checksum of spaces."""
    info = tarfile.TarInfo("")
    info.type, info.mode, info.mtime = kind, 0, 0
    whole = info.tobuf(tarfile.USTAR_FORMAT)
    middle, end = whole[155:157], whole[257:]
    return middle, end, sum(middle[1:]) + sum(end) + 8 * ord(" ")


@functools.cache
def _extended(length: int) -> bytes:
    """The head of an extended header of so many bytes, which no other entry has."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.mode, info.size = tarfile.XHDTYPE, 0, length
    return info.tobuf(tarfile.USTAR_FORMAT)


def long_head(one: Placed, now_ns: int, first: str | None) -> bytes:
    """By tarfile: whatever the name, the numbers and the attributes are."""
    entry = one.entry
    info = tarfile.TarInfo(one.target or ".")
    info.mode, info.uid, info.gid = _mode(entry), entry.uid, entry.gid
    info.type = _TYPES[entry.kind]
    info.linkname = entry.link
    info.size = entry.size if entry.kind == FILE else 0
    if first is not None:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
    when = now_ns if one.made else entry.mtime_ns
    info.mtime = _whole(when)
    info.pax_headers = {"mtime": _seconds(when).decode()}
    for name, value in entry.xattrs:
        info.pax_headers[ATTRIBUTE + name] = value
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _mode(entry: Entry) -> int:
    """Of a link as every file system has it."""
    return 0o777 if entry.kind == LINK else entry.mode & 0o7777


def _whole(ns: int) -> int:
    """For who reads no pax: as far as the field goes."""
    seconds = ns // 1_000_000_000
    return seconds if 0 <= seconds < _SIZES else 0


def _seconds(ns: int) -> bytes:
    whole, part = divmod(abs(ns), 1_000_000_000)
    return b"%s%d.%09d" % (b"-" if ns < 0 else b"", whole, part)
