"""Caches of ``RUN --mount=type=cache``: volumes that only builds know, and who has them now.

A step takes all of them before anything else of it is made, in the order of their names: no two
steps ever wait for each other. What it names twice it takes once, as BuildKit does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from cove.engine.home import Home
from cove.engine.volumes import making
from cove.errors import Conflict, NotFound
from cove.linux.disk import trees_usage
from cove.spec.volume import VolumeSpec
from cove.store.records import VolumeRecord

if TYPE_CHECKING:  # what disks are measured by needs no Dockerfile
    from cove.build.dockerfile.mounts import Mount as Wish

PREFIX = "build-cache-"
LABEL = "cove.build.cache"
APART = "\0"
"""Between the id of a cache and what it begins with, of which each has caches of its own."""
LOOK = 0.2
"""Seconds between two looks whether the build is still wanted."""

Key = tuple[str, str]
"""State directory and volume."""

_guard = threading.Condition()
_held: dict[Key, int] = {}
"""How many have it, -1 for one alone."""
_turns: dict[Key, int] = {}
"""How often it was given back: nobody else writes it."""
_measured: dict[Key, tuple[int, int]] = {}
"""Bytes, and after which turn."""


def begins_with(wish: Wish, base: str) -> str:
    """The id of a cache by which it is known: as with BuildKit one that begins with other files, or
    belongs to somebody else, is another one. ``base``: a digest; empty: of nothing.
    """
    owned = (0o755 if wish.mode is None else wish.mode, wish.uid or 0, wish.gid or 0)
    if not base and owned == (0o755, 0, 0):
        return wish.id
    source = posixpath.normpath("/" + wish.source.strip("/")) if base else ""
    return APART.join((wish.id, base, source, *map(str, owned)))


def volume_of(cache: str) -> str:
    """The name of the volume for the id of a cache."""
    return PREFIX + hashlib.sha256(cache.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def sharing_of(wishes: Iterable[Wish]) -> dict[str, str]:
    """By id: of several ways to have a cache the one that keeps the others' promises, too."""
    found: dict[str, str] = {}
    for wish in wishes:
        found[wish.id] = max(found.get(wish.id, "shared"), wish.sharing or "shared", key=_STRICT)
    return found


_STRICT = ("shared", "private", "locked").index


@contextlib.contextmanager
def taken(home: Home, wishes: Iterable[Wish], gone: Callable[[], None]) -> Iterator[dict[str, str]]:
    """Id to the volume that the step has until the block ends. ``locked``: who wants it too waits;
    ``private``: he gets another one.
    """
    sharing = sharing_of(wishes)
    names: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        for cache in sorted(sharing, key=volume_of):
            key = _take(home.root, volume_of(cache), sharing[cache], gone)
            stack.callback(_give, key)
            names[cache] = key[1]
        yield names


def _take(root: str, name: str, sharing: str, gone: Callable[[], None]) -> Key:
    with _guard:
        base, number = name, 0
        while (held := _held.get((root, name), 0)) and (sharing != "shared" or held < 0):
            if sharing == "private":
                number += 1
                name = f"{base}-{number}"
            else:
                _guard.wait(LOOK)
                gone()
        _held[root, name] = held + 1 if sharing == "shared" else -1
    return root, name


def _give(key: Key) -> None:
    with _guard:
        left = _held[key] - 1 if _held[key] > 0 else 0
        if left:
            _held[key] = left
        else:
            del _held[key]
        _turns[key] = _turns.get(key, 0) + 1
        _guard.notify_all()


def is_cache(record: VolumeRecord) -> bool:
    return record.name.startswith(PREFIX) and LABEL in record.labels


def is_held(home: Home, name: str) -> bool:
    return (home.root, name) in _held


def sizes(home: Home, names: Iterable[str], *, anew: bool) -> dict[str, int]:
    """Bytes on the disk; unless ``anew`` only those are measured that somebody had since, or has
    now. One that nobody has had yet is measured each time: of a daemon that was killed a step may
    still write.
    """
    with _guard:
        turns = {name: _turns.get((home.root, name), 0) for name in names}
        still = {name for name in turns if turns[name] and (home.root, name) not in _held}
        known = {name: _measured.get((home.root, name), (0, 0)) for name in still}
        found = {n: size for n, (size, turn) in known.items() if turn == turns[n] and not anew}
    places = {name: home.store.layout.volume_data(name) for name in turns if name not in found}
    measured = trees_usage(places.values()) if places else {}
    found |= {name: measured.get(place, 0) for name, place in places.items()}
    with _guard:
        _measured.update({(home.root, n): (found[n], turns[n]) for n in still if n in places})
    return found


def remove(home: Home, name: str) -> bool:
    """Unless somebody has it."""
    key = (home.root, name)
    with _guard:
        if key in _held:
            return False
        _held[key] = -1
    try:
        making.take_away(home, name)
        return True
    except (Conflict, NotFound):
        return False
    finally:
        _give(key)


def made(home: Home, name: str, wish: Wish, begun: Callable[[], str]) -> None:
    """The volume of a cache that is taken. ``begun`` makes a directory with what a new one begins
    with, ``_data``, which becomes the volume as a whole: nobody finds a part of it.
    """
    spec = VolumeSpec(name, {LABEL: wish.id.partition(APART)[0]})
    if home.store.volume(name) is None:
        ready = begun()
        path = f"{ready}/_data"
        os.chown(path, _or_as_it_is(wish.uid), _or_as_it_is(wish.gid))
        if wish.mode is not None:
            os.chmod(path, wish.mode & 0o7777)
        with contextlib.suppress(Conflict):  # who shares it was faster
            making.make(home, spec, ready=ready)
    record = making.make(home, spec)
    home.store.put_volume(msgspec.structs.replace(record, used=time.time()))


def _or_as_it_is(number: int | None) -> int:
    return -1 if number is None else number
