"""Files with their content, on their way into a step: a build context, or a part of another tree.

The bytes lie in a file without a name, and an index says what is where. Nothing of it is in the
daemon's own file system: a link in it is a word, and a name leads nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import struct
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

from cove.build.files.entries import (
    FIFO,
    FILE,
    FOLDER,
    LINK,
    Entry,
    Files,
    Sent,
    attributes_of,
    clean,
    text,
)
from cove.build.files.select import Placed
from cove.build.files.tars import Gone, Tar
from cove.engine.builds.heads import ATTRIBUTE, head_of
from cove.errors import NOT_JSON, BadArchive, CoveError
from cove.image import compress
from cove.image.layers import RESERVE, RESERVE_PART
from cove.image.pipeline import BYTES_MAX, RATIO, RATIO_FREE, TooLarge, spool, system_error
from cove.oci.archive import Span
from cove.store.db import Store

HEAD = struct.Struct(">I")
HEAD_MAX = 64 << 10
PIECE = 1 << 20
SMALL = 64 << 10
AHEAD, GAP = 256 << 10, 4 << 10
"""Bytes that are read at once of small files that follow each other, and may be between two."""
TIME_MAX = 1 << 40
"""Seconds: what no file system keeps."""
KINDS = (FILE, FOLDER, LINK, FIFO)
_TIME = re.compile(r"(-?)([0-9]{1,12})\.([0-9]+)")
_sent = msgspec.msgpack.Decoder(Sent).decode


@dataclass(frozen=True, slots=True)
class Pack:
    fd: int
    files: Files


@contextlib.contextmanager
def nameless(store: Store) -> Iterator[int]:
    """A file in ``tmp`` that nobody else sees."""
    fd = os.open(store.layout.tmp, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def room(place: int | str) -> int:
    """Bytes that the file system there may be given: what is full is full for everybody."""
    found = os.statvfs(place)
    reserve = min(RESERVE, found.f_blocks * found.f_frsize // RESERVE_PART)
    return max(0, found.f_bavail * found.f_frsize - reserve)


def check_room(place: str, placed: Iterable[Placed]) -> None:
    """Before the files are written there: a few bytes may stand for a long one."""
    if sum(one.entry.size for one in placed) > room(place):
        raise system_error("the files of a step", errno.ENOSPC, "")


# ---- a context as it is sent ----


def read_sent(body: int, out: int, gone: Gone) -> Files:
    """A build context alone."""
    with open(body, "rb", buffering=PIECE, closefd=False) as stream:
        return read_files(stream, out, gone)


def read_files(stream: BinaryIO, out: int, gone: Gone, what: str = "the build context") -> Files:
    """What ``client.packing`` sends: heads, each with the bytes of its file; one of no bytes ends
    it.
    """
    files = Files(what=what)
    at, left = 0, room(out)
    pending = bytearray()
    while length := HEAD.unpack(_exactly(stream, HEAD.size, what))[0]:
        gone()
        if length > HEAD_MAX:
            raise BadArchive(f"cannot read {what}: it is no context, or too large")
        sent = _head(_exactly(stream, length, what), what)
        digest = ""
        if sent.kind == FILE:
            if at + sent.size > left:
                raise system_error(what, errno.ENOSPC, "")
            digest = _take(stream, out, sent.size, pending, gone, what)
        files.add(_entry(sent, at, digest, what))
        at += sent.size if sent.kind == FILE else 0
    write_all(out, pending)
    return files


def _exactly(stream: BinaryIO, length: int, what: str) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise BadArchive(f"cannot read {what}: it ended in the middle")
    return data


def _head(data: bytes, what: str) -> Sent:
    try:
        sent = _sent(data)
    except NOT_JSON:
        raise BadArchive(f"cannot read {what}: it is no context") from None
    if sent.kind not in KINDS or sent.size < 0:
        raise BadArchive(f"cannot read {what}: it has files of an unknown kind")
    return sent


def _entry(sent: Sent, at: int, digest: str, what: str) -> Entry:
    said = sent.xattrs if sent.kind in (FILE, FOLDER) else ()
    return Entry(
        clean(text(sent.path), what),
        sent.kind,
        sent.mode & 0o7777,
        mtime_ns=sent.mtime_ns,
        size=sent.size if sent.kind == FILE else 0,
        content=at if sent.kind == FILE else -1,
        digest=digest,
        link=text(sent.link),
        xattrs=attributes_of(((text(name), text(value)) for name, value in said), what)
        if said
        else (),
    )


def _take(stream: BinaryIO, out: int, size: int, pending: bytearray, gone: Gone, what: str) -> str:
    """The digest of a file's bytes; ``pending``: what is written with those of the next ones."""
    whole = hashlib.sha256()
    while size:
        data = stream.read(min(size, PIECE))
        if not data:
            raise BadArchive(f"cannot read {what}: it ended in the middle")
        whole.update(data)
        pending += data
        if len(pending) >= PIECE:
            write_all(out, pending)
            pending.clear()
            gone()
        size -= len(data)
    return whole.hexdigest()


def write_all(fd: int, data: bytes | bytearray) -> None:
    """Raises HostError where the disk is full."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise system_error("the files of a step", errno.ENOSPC, "") from None


# ---- a tar ----


def decode(source: Span, out: int, what: str) -> None:
    """An archive without its compression."""
    left = room(out)
    try:
        spool(source, out, what=what, limit=min(BYTES_MAX, left))
    except TooLarge:
        if left < BYTES_MAX and os.fstat(out).st_size >= left - PIECE:
            raise system_error(what, errno.ENOSPC, "") from None
        raise


def is_archive(fd: int, entry: Entry) -> bool:
    """Whether ADD unpacks it: by its first bytes, as BuildKit does."""
    head = os.pread(fd, min(entry.size, 512), entry.content)
    if compress.detect(head[: compress.MAGIC_LENGTH]) != "none":
        return True
    try:
        return len(head) == 512 and bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def read_tar(fd: int, what: str, gone: Gone, *, below: str = "") -> Files:
    """An archive without compression, in a file; ``below``: what its first entry is called, which
    is the root of the tree."""
    return _Reading(fd, what, gone, below).read()


class _Reading:
    """Of one archive."""

    def __init__(self, fd: int, what: str, gone: Gone, below: str) -> None:
        self._fd, self._what, self._gone, self._below = fd, what, gone, below
        self._size = os.fstat(fd).st_size
        self._files = Files(what=what, alone=bool(below))
        self._holes = min(BYTES_MAX, room(fd))
        """Bytes that files with holes may still have; those of a tree were made by a step."""
        if not below:
            self._holes = min(self._holes, RATIO_FREE + RATIO * self._size)

    def read(self) -> Files:
        with open(self._fd, "rb", buffering=PIECE, closefd=False) as stream:
            stream.seek(0)
            for member in Tar(stream, self._what, self._gone, end=self._size):
                entry = self._entry(member)
                if entry is not None:
                    self._files.add(entry)
        return self._files

    def _bad(self, reason: str) -> BadArchive:
        return BadArchive(f"cannot read {self._what}: {reason}")

    def _entry(self, member: tarfile.TarInfo) -> Entry | None:
        path = _beneath(clean(member.name, self._what), self._below)
        if path is None:
            return None
        common: dict[str, Any] = {
            "mode": member.mode & 0o7777,
            "uid": member.uid,
            "gid": member.gid,
            "mtime_ns": self._time(member),
        }
        if member.isdir():
            return Entry(path, FOLDER, xattrs=self._attributes(member), **common)
        if member.issym():
            return Entry(path, LINK, link=member.linkname, **common)
        if member.isfifo():
            return Entry(path, FIFO, **common)
        if member.islnk():
            return self._linked(path, member)
        if not member.isfile():
            return None  # a device: as everywhere, no machine gets one
        content, size = member.offset_data, member.size
        if member.issparse():
            content = self._expand(member)
        elif content + size > self._size:
            raise self._bad("it ended in the middle")
        digest = _digest(self._fd, content, size, self._gone)
        attributes = self._attributes(member)
        return Entry(
            path, FILE, size=size, content=content, digest=digest, xattrs=attributes, **common
        )

    def _linked(self, path: str, member: tarfile.TarInfo) -> Entry:
        """Another name for a file that came before it."""
        known = self._files.by_path
        first = known.get(_beneath(clean(member.linkname, self._what), self._below) or "")
        if first is None or first.kind == FOLDER:
            raise self._bad("a hard link to what is not in it")
        known[first.path] = msgspec.structs.replace(first, shared=True)
        return msgspec.structs.replace(first, path=path, shared=True)

    def _time(self, member: tarfile.TarInfo) -> int:
        found = _TIME.fullmatch(str(member.pax_headers.get("mtime", "")))
        if found is not None:
            ns = int(found[2]) * 1_000_000_000 + int(found[3][:9].ljust(9, "0"))
            return -ns if found[1] else ns
        if not -TIME_MAX < member.mtime < TIME_MAX:
            raise self._bad("a file has a time that cannot be")
        return int(member.mtime) * 1_000_000_000

    def _attributes(self, member: tarfile.TarInfo) -> tuple[tuple[str, str], ...]:
        length = len(ATTRIBUTE)
        said = member.pax_headers.items()
        found = ((name[length:], value) for name, value in said if name.startswith(ATTRIBUTE))
        return attributes_of(found, self._what)

    def _expand(self, member: tarfile.TarInfo) -> int:
        """A file with holes, behind the archive, with its holes."""
        self._holes -= member.size
        if self._holes < 0:
            raise self._bad("its files with holes are larger than there is room for")
        start = os.fstat(self._fd).st_size
        source, last = member.offset_data, 0
        os.ftruncate(self._fd, start + member.size)
        for at, length in member.sparse:  # type: ignore[misc, union-attr]  # not what is declared
            if at < last or length < 0 or at + length > member.size:
                raise self._bad("a file with holes has them in no order")
            if source + length > self._size:
                raise self._bad("it ended in the middle")
            last = at + length
            self._copy(source, start + at, length)
            source += length
        return start

    def _copy(self, source: int, target: int, length: int) -> None:
        while length:
            self._gone()
            data = os.pread(self._fd, min(length, PIECE), source)
            if not data:
                raise self._bad("it ended in the middle")
            os.pwrite(self._fd, data, target)
            source, target, length = source + len(data), target + len(data), length - len(data)


def _beneath(path: str, below: str) -> str | None:
    if not below:
        return path
    if path == below:
        return ""
    return path[len(below) + 1 :] if path.startswith(f"{below}/") else None


def _digest(fd: int, at: int, size: int, gone: Gone) -> str:
    whole = hashlib.sha256()
    end = at + size
    while at < end:
        gone()
        data = os.pread(fd, min(PIECE, end - at), at)
        if not data:
            raise BadArchive("cannot read an archive: it ended in the middle")
        whole.update(data)
        at += len(data)
    return whole.hexdigest()


# ---- into a tree ----


def write_tar(out: int, fd: int, placed: Iterable[Placed], now_ns: int, gone: Gone) -> None:
    """The files with their new names, as a tar; their content is in ``fd``."""
    write_entries(out, fd, placed, now_ns, gone)
    write_all(out, bytes(1024))


def write_entries(out: int, fd: int, placed: Iterable[Placed], now_ns: int, gone: Gone) -> None:
    """All but its end."""
    linked: dict[int, str] = {}
    window = _Window(fd)
    pending = bytearray()
    for one in placed:
        gone()
        entry = one.entry
        first = linked.get(entry.content) if entry.shared else None
        pending += head_of(one, now_ns, first)
        if entry.kind == FILE and first is None:
            if entry.shared:
                linked[entry.content] = one.target
            if entry.size <= SMALL:
                pending += window.content(entry)
            else:
                write_all(out, pending)
                pending.clear()
                _send(out, fd, entry, gone)
            pending += bytes(-entry.size % 512)
        if len(pending) >= PIECE:
            write_all(out, pending)
            pending.clear()
    write_all(out, pending)


class _Window:
    """Small files lie one behind the other in the order of their names, as a rule: then many of
    them are read at once."""

    def __init__(self, fd: int) -> None:
        self._fd, self._at, self._data = fd, 0, b""

    def content(self, entry: Entry) -> bytes:
        size, begin = entry.size, entry.content - self._at
        if not size:
            return b""
        if not 0 <= begin <= len(self._data) - size:
            near = 0 <= begin <= len(self._data) + GAP
            self._data = os.pread(self._fd, AHEAD if near else size, entry.content)
            self._at, begin = entry.content, 0
        data = self._data[begin : begin + size]
        if len(data) < size:
            raise CoveError("cannot copy: its content is gone")
        return data


def _send(out: int, fd: int, entry: Entry, gone: Gone) -> None:
    at, left = entry.content, entry.size
    while left:
        gone()
        moved = os.sendfile(out, fd, at, min(left, PIECE))
        if not moved:
            raise CoveError("cannot copy: its content is gone")
        at, left = at + moved, left - moved
