"""Files with their content, on their way into a step: a build context, or a part of another tree.

The bytes lie in a file without a name, and an index says what is where. Nothing of it is in the
daemon's own file system: a link in it is a word, and a name leads nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator
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
    clean,
    text,
)
from cove.build.files.select import Placed
from cove.errors import NOT_JSON, BadArchive, CoveError
from cove.image import compress
from cove.image.pipeline import BYTES_MAX, spool
from cove.oci.archive import Span
from cove.store.db import Store

HEAD = struct.Struct(">I")
HEAD_MAX = 64 << 10
PIECE = 1 << 20
ENTRIES_MAX = 2_000_000
KINDS = (FILE, FOLDER, LINK, FIFO)
XATTRS = ("security.capability",)
_CAPABILITY = "SCHILY.xattr."
_sent = msgspec.msgpack.Decoder(Sent).decode

Gone = Callable[[], None]
"""Raises once nobody wants it any more."""


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


# ---- a context as it is sent ----


def read_sent(body: int, out: int, gone: Gone) -> Files:
    """What ``client.packing`` sends: heads, each with the bytes of its file; one of no bytes ends
    it.
    """
    entries: list[Entry] = []
    at = 0
    with open(body, "rb", buffering=PIECE, closefd=False) as stream:
        while length := HEAD.unpack(_exactly(stream, HEAD.size))[0]:
            gone()
            if length > HEAD_MAX or len(entries) >= ENTRIES_MAX:
                raise BadArchive("cannot read the build context: it is no context, or too large")
            entry = _entry(_exactly(stream, length), at)
            if entry.kind == FILE:
                entry = msgspec.structs.replace(entry, digest=_take(stream, out, entry.size, gone))
                at += entry.size
            entries.append(entry)
    return Files(entries)


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise BadArchive("cannot read the build context: it ended in the middle")
    return data


def _entry(data: bytes, at: int) -> Entry:
    try:
        sent = _sent(data)
    except NOT_JSON:
        raise BadArchive("cannot read the build context: it is no context") from None
    if sent.kind not in KINDS or sent.size < 0:
        raise BadArchive("cannot read the build context: it has files of an unknown kind")
    return Entry(
        clean(text(sent.path), "the build context"),
        sent.kind,
        sent.mode & 0o7777,
        mtime_ns=sent.mtime_ns,
        size=sent.size if sent.kind == FILE else 0,
        content=at if sent.kind == FILE else -1,
        link=text(sent.link),
    )


def _take(stream: BinaryIO, out: int, size: int, gone: Gone) -> str:
    whole = hashlib.sha256()
    while size:
        data = stream.read(min(size, PIECE))
        if not data:
            raise BadArchive("cannot read the build context: it ended in the middle")
        whole.update(data)
        _write(out, data)
        size -= len(data)
        gone()
    return whole.hexdigest()


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


# ---- a tar ----


def decode(source: Span, out: int, what: str) -> None:
    """An archive without its compression."""
    spool(source, out, what=what, limit=BYTES_MAX)


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
    entries: dict[str, Entry] = {}
    contents: dict[int, str] = {}
    with open(fd, "rb", buffering=PIECE, closefd=False) as stream:
        stream.seek(0)
        try:
            with tarfile.open(
                fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as tar:
                while (member := tar.next()) is not None:
                    gone()
                    if len(entries) >= ENTRIES_MAX:
                        raise BadArchive(f"cannot read {what}: it has too many files")
                    entry = _member(fd, tar, member, entries, contents, what, below)
                    if entry is not None:
                        entries[entry.path] = entry
                    tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
        except tarfile.TarError as error:
            raise BadArchive(f"cannot read {what}: {str(error)[:200]}") from None
    return Files(entries.values())


def _member(
    fd: int,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    before: dict[str, Entry],
    contents: dict[int, str],
    what: str,
    below: str,
) -> Entry | None:
    path = _beneath(clean(member.name, what), below)
    if path is None:
        return None
    seconds, _, rest = str(member.pax_headers.get("mtime", "")).partition(".")
    mtime = int(member.mtime) * 1_000_000_000
    if rest.isdigit() and seconds.lstrip("-").isdigit():
        mtime = int(seconds) * 1_000_000_000 + int(rest.ljust(9, "0")[:9])
    common: dict[str, Any] = {
        "mode": member.mode & 0o7777,
        "uid": member.uid,
        "gid": member.gid,
        "mtime_ns": mtime,
    }
    xattrs = tuple(
        (name, member.pax_headers[_CAPABILITY + name])
        for name in XATTRS
        if _CAPABILITY + name in member.pax_headers
    )
    if member.isdir():
        return Entry(path, FOLDER, **common)
    if member.issym():
        return Entry(path, LINK, link=member.linkname, **common)
    if member.isfifo():
        return Entry(path, FIFO, **common)
    if member.islnk():
        target = _beneath(clean(member.linkname, what), below)
        first = before.get(target or "")
        if first is None:
            raise BadArchive(f"cannot read {what}: a hard link to what is not in it")
        before[first.path] = msgspec.structs.replace(first, shared=True)
        return msgspec.structs.replace(first, path=path, shared=True)
    if not member.isfile():
        return None  # a device: as everywhere, no machine gets one
    content, size = member.offset_data, member.size
    if member.issparse():
        content = _expand(fd, tar, member)
    digest = _digest(fd, content, size)
    return Entry(path, FILE, size=size, content=content, digest=digest, xattrs=xattrs, **common)


def _beneath(path: str, below: str) -> str | None:
    if not below:
        return path
    if path == below:
        return ""
    return path[len(below) + 1 :] if path.startswith(f"{below}/") else None


def _expand(fd: int, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    """A file with holes, in full behind the archive."""
    at = os.fstat(fd).st_size
    place = at
    source = tar.extractfile(member)
    assert source is not None
    while data := source.read(PIECE):
        os.pwrite(fd, data, place)
        place += len(data)
    return at


def _digest(fd: int, at: int, size: int) -> str:
    whole = hashlib.sha256()
    end = at + size
    while at < end:
        data = os.pread(fd, min(PIECE, end - at), at)
        if not data:
            raise BadArchive("cannot read an archive: it ended in the middle")
        whole.update(data)
        at += len(data)
    return whole.hexdigest()


# ---- into a tree ----


def write_tar(out: int, fd: int, placed: Iterable[Placed], now_ns: int, gone: Gone) -> None:
    """The files with their new names, as a tar; their content is in ``fd``."""
    linked: dict[int, str] = {}
    for one in placed:
        gone()
        entry = one.entry
        first = linked.get(entry.content) if entry.shared else None
        info = _info(one, now_ns, first)
        _write(out, info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        if entry.kind != FILE or first is not None:
            continue
        if entry.shared:
            linked[entry.content] = one.target
        _send(out, fd, entry)
    _write(out, bytes(1024))


def _info(one: Placed, now_ns: int, first: str | None) -> tarfile.TarInfo:
    entry = one.entry
    info = tarfile.TarInfo(one.target or ".")
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.type = {
        FILE: tarfile.REGTYPE, FOLDER: tarfile.DIRTYPE, LINK: tarfile.SYMTYPE,
        FIFO: tarfile.FIFOTYPE,
    }[entry.kind]  # fmt: skip
    info.linkname = entry.link
    info.size = entry.size if entry.kind == FILE else 0
    if first is not None:
        info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
    when = now_ns if one.made else entry.mtime_ns
    info.pax_headers = {"mtime": _seconds(when)}
    for name, value in entry.xattrs:
        info.pax_headers[_CAPABILITY + name] = value
    return info


def _seconds(ns: int) -> str:
    whole, part = divmod(abs(ns), 1_000_000_000)
    return f"{'-' if ns < 0 else ''}{whole}.{part:09d}"


def _send(out: int, fd: int, entry: Entry) -> None:
    at, left = entry.content, entry.size
    while left:
        moved = os.sendfile(out, fd, at, min(left, PIECE))
        if not moved:
            raise CoveError("cannot copy: its content is gone")
        at, left = at + moved, left - moved
    pad = -entry.size % 512
    if pad:
        _write(out, bytes(pad))
