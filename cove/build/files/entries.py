"""A tree of files as data: a build context, or a part of a stage's root. Pure.

Its links are data, too: one is followed within the tree, whoever made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from cove.errors import BadArchive, printable

FILE, FOLDER, LINK, FIFO = "file", "folder", "link", "fifo"
LINKS_MAX = 40
"""As the kernel has it."""
PATH_MAX = 4095
DEPTH_MAX = 250
"""Folders in each other."""
ENTRIES_MAX = 1_000_000
"""Of a tree, the folders that nobody named included; a layer has no more, either."""
NAMES_MAX = 256 << 20
"""Characters of all its paths, links and attributes together."""
CAPABILITY = "security.capability"
CAPABILITY_MAX = 64
ATTRIBUTES_MAX = 16 << 10
"""Bytes of all attributes of one file."""


class Entry(msgspec.Struct, frozen=True):
    """``content`` is where the bytes of a file begin in what the tree came with."""

    path: str
    """From the tree's root, without a slash in front; empty: the root."""
    kind: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    content: int = -1
    digest: str = ""
    """SHA-256 of a file's content."""
    link: str = ""
    """Where a link leads."""
    shared: bool = False
    """A hard link: others have the same ``content``."""
    xattrs: tuple[tuple[str, str], ...] = ()
    """Of files and folders: those that ``is_attribute`` says are kept."""


class Sent(msgspec.Struct, frozen=True, array_like=True):
    """An entry on its way from who reads a context; the bytes of a file follow it."""

    path: bytes
    kind: str
    mode: int
    mtime_ns: int
    size: int = 0
    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


def is_attribute(name: str) -> bool:
    """What a layer keeps: users' own, and what a program may do (setcap)."""
    return name == CAPABILITY or (name.startswith("user.") and "\0" not in name)


def attributes_of(found: Iterable[tuple[str, str]], what: str) -> tuple[tuple[str, str], ...]:
    """Those that are kept, judged; in order, since what a file is known by has them."""
    kept = tuple(sorted((name, value) for name, value in found if is_attribute(name)))
    if sum(len(name) + len(value) for name, value in kept) > ATTRIBUTES_MAX:
        raise BadArchive(
            f"cannot read {what}: a file has over {ATTRIBUTES_MAX >> 10} KiB of attributes"
        )
    if any(name == CAPABILITY and len(value) > CAPABILITY_MAX for name, value in kept):
        raise BadArchive(f"cannot read {what}: a file has a capability that cannot be")
    return kept


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def clean(path: str, what: str) -> str:
    """A name as an archive has it, judged: it leads nowhere but into the tree."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path or len(path) > PATH_MAX:
        raise BadArchive(f"cannot read {what}: a file is called {printable(path)[:200]}")
    if len(parts) > DEPTH_MAX + 1:
        raise BadArchive(f"cannot read {what}: it has more than {DEPTH_MAX} folders in each other")
    return "/".join(parts)


def _go_on() -> None:
    pass


class Files:
    """The entries by their paths; folders that nobody named are there all the same."""

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        *,
        what: str = "a tree of files",
        alone: bool = False,
        gone: Callable[[], None] = _go_on,
    ) -> None:
        """``alone``: the root may be a file, which is all there is. ``gone`` raises once nobody
        wants it any more."""
        self.by_path: dict[str, Entry] = {"": Entry("", FOLDER, 0o755)}
        self._below: dict[str, dict[str, None]] = {}
        self._what, self._alone, self._letters = what, alone, 0
        for entry in entries:
            gone()
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Of two with one path the later one counts."""
        path = entry.path
        self._check(entry)
        new = path not in self.by_path
        self.by_path[path] = entry
        self._letters += len(entry.link)
        for name, value in entry.xattrs:
            self._letters += len(name) + len(value)
        while new and path:
            self._letters += len(path)
            folder, _, name = path.rpartition("/")
            self._below.setdefault(folder, {})[name] = None
            path = folder
            new = path not in self.by_path
            if new:
                self.by_path[path] = Entry(path, FOLDER, 0o755)
        if len(self.by_path) > ENTRIES_MAX:
            raise self._too_large(f"more than {ENTRIES_MAX} files and folders")
        if self._letters > NAMES_MAX:
            raise self._too_large(f"more than {NAMES_MAX >> 20} MiB of names")

    def _too_large(self, reason: str) -> BadArchive:
        return BadArchive(f"cannot read {self._what}: it has {reason}",
                          hint="leave out what no step needs: .dockerignore")  # fmt: skip

    def _check(self, entry: Entry) -> None:
        """A root that is a link would be followed by who asks where the root is."""
        if not entry.path and entry.kind != FOLDER and (not self._alone or entry.kind == LINK):
            raise BadArchive(f"cannot read {self._what}: its root is no folder")
        if len(entry.link) > PATH_MAX or "\0" in entry.link:
            raise BadArchive(
                f"cannot read {self._what}: {printable(entry.path)[:200]} leads to what is no path"
            )

    def __contains__(self, path: str) -> bool:
        return path in self.by_path

    def __getitem__(self, path: str) -> Entry:
        return self.by_path[path]

    def names(self, folder: str) -> list[str]:
        """In order; of what is no folder there are none, whatever an archive says."""
        found = self.by_path.get(folder)
        if found is None or found.kind != FOLDER:
            return []
        return sorted(self._below.get(folder, ()))

    def below(self, folder: str) -> Iterator[Entry]:
        """All that is in a folder, each folder before what is in it."""
        left = [joined(folder, name) for name in reversed(self.names(folder))]
        while left:
            path = left.pop()
            yield self.by_path[path]
            left += [joined(path, name) for name in reversed(self.names(path))]

    def resolve(self, path: str) -> str | None:
        """Where a path ends, with all links of it followed within the tree; None: nowhere."""
        left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        at: list[str] = []
        links = 0
        while left:
            part = left.pop()
            if part == "..":
                del at[-1:]
                continue
            found = self.by_path.get("/".join((*at, part)))
            if found is None:
                return None
            if found.kind == LINK:
                links += 1
                if links > LINKS_MAX or len(left) > PATH_MAX:
                    return None
                if found.link.startswith("/"):
                    at = []
                left += [p for p in reversed(found.link.split("/")) if p not in ("", ".")]
                continue
            if left and found.kind != FOLDER:
                return None
            at.append(part)
        return "/".join(at)


def joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
