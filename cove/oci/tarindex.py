"""Where the members of a tar file are, without reading their data. For archives that can be seeked.

The standard library's ``tarfile`` reads an extended header of any size into memory; this does not.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from cove.errors import BadArchive

BLOCK = 512
MEMBERS_MAX = 100_000
TEXT_MAX = 1 << 20
HOPS_MAX = 40


@dataclass(frozen=True, slots=True)
class Member:
    """A file in the tar, or with ``link`` another name for one."""

    offset: int
    size: int
    link: str = ""


@dataclass(slots=True)
class _Extended:
    """What extended headers say about the next entry."""

    name: str = ""
    link: str = ""
    size: int = -1


def index_tar(fd: int, what: str) -> dict[str, Member]:
    """Every regular file and link of the tar, by its clean name; of doubled names the last."""
    total = os.fstat(fd).st_size
    members: dict[str, Member] = {}
    extended = _Extended()
    offset = count = 0
    while header := os.pread(fd, BLOCK, offset):
        if not any(header):
            break
        if len(header) < BLOCK and offset:
            raise BadArchive(f"cannot read {what}: truncated: it ends in the middle of a header")
        if not _checksum_holds(header):
            reason = "its header is damaged" if offset else "it is not a tar archive"
            raise BadArchive(f"cannot read {what}: {reason}")
        kind, size = header[156:157], _number(header[124:136], what)
        data = offset + BLOCK
        if kind in b"xLK" or kind == b"g":
            _read_extended(fd, data, kind, size, extended, what)
        else:
            size = extended.size if extended.size >= 0 else size
            size = size if kind in b"\x000 7" else 0
            name = clean_name(extended.name or _name(header))
            if data + size > total:
                raise BadArchive(
                    f"cannot read {what}: truncated: it ends in the middle of {name or 'it'}"
                )
            member = _member(kind, name, extended.link or _text(header[157:257]), data, size)
            if member is not None:
                members[name] = member
            extended = _Extended()
        offset = data + (size + BLOCK - 1) // BLOCK * BLOCK
        count += 1
        if count > MEMBERS_MAX:
            raise BadArchive(f"cannot read {what}: it has more than {MEMBERS_MAX} members")
    if not count:
        raise BadArchive(f"cannot read {what}: it is empty" + (", only zeros" if total else ""))
    return members


def find_member(members: dict[str, Member], name: str) -> Member | None:
    """A member by name, through links: docker-archives have layers that are links to others."""
    for _ in range(HOPS_MAX):
        member = members.get(clean_name(name))
        if member is None or not member.link:
            return member
        name = member.link
    return None


def clean_name(name: str) -> str:
    """Relative, without ``.``; with ``..`` that leave the archive it names nothing."""
    return posixpath.normpath("/" + name).lstrip("/")


def _member(kind: bytes, name: str, link: str, offset: int, size: int) -> Member | None:
    if kind == b"2":
        target = link if link.startswith("/") else f"{posixpath.dirname(name)}/{link}"
        return Member(offset, 0, target)
    if kind == b"1":
        return Member(offset, 0, link)
    return Member(offset, size) if kind in b"\x0007" and not name.endswith("/") else None


def _read_extended(
    fd: int, offset: int, kind: bytes, size: int, extended: _Extended, what: str
) -> None:
    if size > TEXT_MAX:
        raise BadArchive(f"cannot read {what}: an extended header of more than 1 MiB")
    data = os.pread(fd, size, offset)
    if kind == b"L":
        extended.name = _text(data)
    elif kind == b"K":
        extended.link = _text(data)
    elif kind == b"x":
        for key, value in _records(data, what):
            if key == b"path":
                extended.name = _text(value)
            elif key == b"linkpath":
                extended.link = _text(value)
            elif key == b"size":
                extended.size = _decimal(value, what)


def _records(data: bytes, what: str) -> list[tuple[bytes, bytes]]:
    """``<length> <key>=<value>\\n``."""
    found, at = [], 0
    while at < len(data):
        number, space, _ = data[at : at + 20].partition(b" ")
        length = _decimal(number, what) if space else 0
        record = data[at : at + length]
        key, equals, value = record[len(number) + 1 : -1].partition(b"=")
        if not equals or len(record) != length or not record.endswith(b"\n"):
            raise BadArchive(f"cannot read {what}: an extended header is damaged")
        found.append((key, value))
        at += length
    return found


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise BadArchive(f"cannot read {what}: an extended header is damaged")
    return int(text)


def _number(field: bytes, what: str) -> int:
    """Octal, or base 256 when the first bit is set; a size, so never negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big") & (1 << 62) - 1
    try:
        value = int(field.replace(b"\0", b" ").strip() or b"0", 8)
    except ValueError:
        value = -1
    if value < 0:
        raise BadArchive(f"cannot read {what}: its header is damaged")
    return value


def _checksum_holds(header: bytes) -> bool:
    try:
        want = int(header[148:156].replace(b"\0", b" ").strip() or b"0", 8)
    except ValueError:
        return False
    return len(header) == BLOCK and want == sum(header[:148]) + sum(header[156:]) + 8 * 32
