"""Which files a COPY takes, and where they go: BuildKit's rules. Pure."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec

from cove.build.files.entries import FILE, FOLDER, Entry, Files, joined
from cove.build.files.modes import changed
from cove.build.ignore import Ignore, path_regex, read_ignore

_WILD = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step copies to, and what is there already."""

    path: str
    """From the root, without slashes at its ends."""
    folder: bool
    """Files go into it: it is a folder, or was written as one."""
    exists: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A file, and what it will be called."""

    entry: Entry
    target: str
    made: bool = False
    """A folder that is only there for what is in it: it has no time of its own."""


def is_wild(path: str) -> bool:
    return _WILD.search(path) is not None


def literal(path: str) -> tuple[str, str]:
    """The folders in front of the first wildcard, and the rest."""
    parts = path.strip("/").split("/")
    for number, part in enumerate(parts):
        if is_wild(part):
            return "/".join(parts[:number]), "/".join(parts[number:])
    return "/".join(parts), ""


def matches(files: Files, path: str) -> list[str]:
    """What a source's path means, in order: names in the tree, the last part of which may be that
    of a link."""
    front, pattern = literal(path)
    if not pattern:
        return [front] if files.resolve(front) is not None else []
    base = files.resolve(front)
    if base is None:
        return []
    return [joined(base, name) for name in _matches_below(files, base, pattern)]


def _matches_below(files: Files, base: str, pattern: str) -> list[str]:
    """Relative to ``base``; what is in a folder that matches goes with it."""
    regex = re.compile(path_regex(pattern), re.DOTALL)
    deep = 1_000 if "**" in pattern else pattern.count("/") + 1
    found: list[str] = []
    left = [(name, 1) for name in reversed(files.names(base))]
    while left:
        name, depth = left.pop()
        if regex.fullmatch(name):
            found.append(name)
        elif depth < deep:
            below = files.names(joined(base, name))
            left += [(f"{name}/{one}", depth + 1) for one in reversed(below)]
    return found


def excluded(patterns: tuple[str, ...]) -> Ignore | None:
    """``--exclude``: as .dockerignore has it."""
    text = "\n".join(patterns).encode("utf-8", "surrogateescape")
    return read_ignore(text, "--exclude") if patterns else None


def select(files: Files, path: str, place: Place, ignore: Ignore | None) -> list[Placed]:
    """What a source is, at its new place; nothing: there is no such file."""
    found: list[Placed] = []
    for match in matches(files, path):
        real = files.resolve(match)
        if real is None:
            continue
        entry = files[real]
        if entry.kind == FOLDER:
            found += _content(files, real, place, ignore)
            continue
        name = posixpath.basename(match)
        if ignore is None or ignore.kept(name):
            found.append(Placed(entry, joined(place.path, name) if place.folder else place.path))
    return found


def _content(files: Files, real: str, place: Place, ignore: Ignore | None) -> Iterator[Placed]:
    """What is in a folder. The folder itself is not copied: it is made where it is missing."""
    if not place.exists:
        yield Placed(Entry("", FOLDER, 0o755), place.path, made=True)
    for entry in files.below(real):
        name = entry.path[len(real) :].lstrip("/")
        if ignore is None or ignore.kept(name):
            yield Placed(entry, joined(place.path, name))


def select_whole(files: Files, path: str, target: str) -> list[Placed]:
    """What is at ``path``, which is no pattern, with the folder itself where it is one: as a mount
    shows it. Nothing: there is no such file.
    """
    real = files.resolve(path)
    if real is None:
        return []
    top = files[real]
    found = [Placed(top, target, made=top.kind == FOLDER and not top.mtime_ns)]
    for entry in files.below(real):
        found.append(Placed(entry, joined(target, entry.path[len(real) :].lstrip("/"))))
    return found


def select_parents(
    files: Files, front: str, pattern: str, place: Place, ignore: Ignore | None
) -> list[Placed]:
    """``--parents``: with the folders that lead there, from ``front`` on."""
    base = files.resolve(front)
    if base is None:
        return []
    names = _matches_below(files, base, pattern) if is_wild(pattern) else [pattern]
    found: dict[str, Placed] = {}
    for name in names:
        if not _is_reached(files, base, name):
            continue
        for path in (*_above(name), name):
            entry = files[joined(base, path)]
            found.setdefault(path, Placed(entry, joined(place.path, path)))
        for entry in files.below(joined(base, name)):
            path = entry.path[len(base) :].lstrip("/")
            found.setdefault(path, Placed(entry, joined(place.path, path)))
    return [one for path, one in found.items() if ignore is None or ignore.kept(path)]


def _is_reached(files: Files, base: str, name: str) -> bool:
    """Whether it is there, and by folders alone: an archive may put files below a link."""
    return joined(base, name) in files and all(
        files[joined(base, one)].kind == FOLDER for one in _above(name)
    )


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


# ---- what they become ----


@dataclass(frozen=True, slots=True)
class Owner:
    uid: int
    gid: int


def restyled(placed: Iterable[Placed], owner: Owner | None, chmod: str) -> list[Placed]:
    """With ``--chown`` and ``--chmod``."""
    if owner is None and not chmod:
        return list(placed)
    found = []
    for one in placed:
        entry = one.entry
        if owner is not None:
            entry = msgspec.structs.replace(entry, uid=owner.uid, gid=owner.gid)
        # As BuildKit: on folders that are only made on the way words like u+x have no effect.
        if chmod and entry.kind != "link" and (not one.made or chmod.isdigit()):
            mode = changed(entry.mode, chmod, folder=entry.kind == FOLDER)
            entry = msgspec.structs.replace(entry, mode=mode)
        found.append(replace(one, entry=entry))
    return found


def digest_of(placed: Iterable[Placed]) -> str:
    """What the files are known by in the cache: all but their times."""
    whole = hashlib.sha256()
    for one in placed:
        entry = one.entry
        attributes = ",".join(f'"{_hex(part)}"' for said in entry.xattrs for part in said)
        content = entry.digest if entry.kind == FILE else entry.link
        whole.update(
            f'["{_hex(one.target)}","{_hex(entry.kind)}",{entry.mode},{entry.uid},{entry.gid},'
            f'"{_hex(content)}",[{attributes}]]\n'.encode()
        )
    return whole.hexdigest()


def _hex(word: str) -> str:
    """Names and values may be no UTF-8."""
    return word.encode("utf-8", "surrogateescape").hex()
