"""The verbs that take files into machines and out of them.

Paths are bytes, as the kernel has them; in a machine they begin at its root, also without a slash.
"""

from __future__ import annotations

import msgspec


class PathAsk(msgspec.Struct, frozen=True):
    machine: str
    path: bytes


class PathInfo(msgspec.Struct, frozen=True):
    """What is at a path; a symbolic link is told of itself."""

    name: bytes
    mode: int
    """st_mode, with the type."""
    size: int
    mtime_ns: int
    link: bytes = b""
    """The text of a link."""
    target: bytes = b""
    """Where all its links lead."""
    target_mode: int = 0
    """st_mode there; 0: nothing."""


class CopyOut(msgspec.Struct, frozen=True):
    machine: str
    path: bytes
    name: bytes = b""
    """Of the first entry; empty: the path's last part, ``.``: what is in the directory."""
    follow: bool = False
    """Copy what a link leads to."""


class CopyIn(msgspec.Struct, frozen=True):
    """A plain tar, as ``Call.body``."""

    machine: str
    path: bytes
    """A directory that is there."""
    owners: bool = False
    """The archive's user and group ids; else all belongs to the machine's root."""
    coded: bool = False
    """The tar may be compressed."""


class Copied(msgspec.Struct, frozen=True):
    entries: int
    bytes: int


class Diff(msgspec.Struct, frozen=True):
    machine: str


class Change(msgspec.Struct, frozen=True):
    kind: str
    """A added, C changed, D deleted."""
    path: bytes


class Changes(msgspec.Struct, frozen=True):
    """By path."""

    changes: tuple[Change, ...]


class Export(msgspec.Struct, frozen=True):
    machine: str


class Commit(msgspec.Struct, frozen=True):
    machine: str
    reference: str = ""
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    """Dockerfile instructions."""
    pause: bool = True
    """Freeze the machine while what it wrote is read."""


class Committed(msgspec.Struct, frozen=True):
    image: str
    """Its id."""
