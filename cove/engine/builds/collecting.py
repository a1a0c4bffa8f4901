"""The build cache within its limits, and what it takes of the disk.

A thing is a layer that the cache has, by all the steps that made it, or a cache mount. What a build
that runs holds stays: its layers are pinned, its mounts taken (``caches``).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Set

import msgspec

from cove.build.keeping import Kept, Limits, doomed
from cove.engine.builds import caches
from cove.engine.calls.build import MOUNT, BuildPrune, BuildPruned
from cove.engine.calls.disk import CacheUsage
from cove.engine.home import Home
from cove.engine.system.layers import layer_sizes
from cove.errors import NOT_JSON, CoveError, HostError, UsageError
from cove.linux.disk import Space, free_space
from cove.spec.values import parse_size
from cove.store.records import CacheRecord

EVERY = 3600.0
"""Seconds between two looks without a build."""

_alone = threading.Lock()


def usage(
    home: Home, sizes: dict[str, int], of_images: Set[str], *, anew: bool = True
) -> tuple[CacheUsage, ...]:
    """Of steps that made the same, the oldest has it. ``anew``: cache mounts are measured whether
    anybody had them since or not.
    """
    left, pins = dict(sizes), home.store.pins()
    return tuple(
        CacheUsage(
            record,
            left.pop(record.diff_id, 0),
            record.diff_id in of_images,
            in_use=record.diff_id in pins,
        )
        for record in sorted(home.store.all_cached(), key=lambda record: record.created)
    ) + tuple(_mounts(home, anew=anew))


def _mounts(home: Home, *, anew: bool) -> Iterator[CacheUsage]:
    records = [one for one in home.store.volumes() if caches.is_cache(one)]
    sizes = caches.sizes(home, [one.name for one in records], anew=anew)
    for one in records:
        used = max(one.used, one.created)
        title = f"cache mount {one.labels[caches.LABEL]}"
        yield CacheUsage(
            CacheRecord(one.name, "", one.created, used, title[:200]),
            sizes[one.name],
            shared=False,
            kind=MOUNT,
            in_use=caches.is_held(home, one.name),
        )


# ---- giving it back ----


def prune(home: Home, params: BuildPrune) -> BuildPruned:
    """What steps of builds made is forgotten, caches and layers that no image has go with it."""
    if min(params.reserved, params.most, params.free) < 0:
        raise UsageError("cannot keep less than nothing of the build cache")
    limits = Limits(params.reserved, params.most, params.free, params.older)
    with _alone:
        return _prune(home, limits, params.kinds)


def _prune(home: Home, limits: Limits, kinds: tuple[str, ...]) -> BuildPruned:
    keys: list[str] = []
    reclaimed, more = 0, True
    while more:
        sizes = layer_sizes(home.store)
        images = {layer for image in home.store.images() for layer in image.layers}
        seen = [
            one for one in usage(home, sizes, images, anew=False) if not kinds or one.kind in kinds
        ]
        if limits:  # what an image has takes no room of the cache's
            seen = [one for one in seen if not one.shared]
        free = free_space(home.store.layout.root).free
        chosen = doomed(_things(seen), limits, now=time.time(), free=free)
        gone, size = _remove(home, {one.name for one in chosen}, seen, sizes)
        keys += gone
        reclaimed += size
        # Layers may be links to each other's files: what goes with them is seen afterwards.
        more = bool(limits and gone)
    return BuildPruned(tuple(keys), reclaimed)


def _things(seen: list[CacheUsage]) -> list[Kept]:
    found: dict[str, Kept] = {}
    for one in seen:
        name = one.record.diff_id or one.record.key
        known = found.get(name, Kept(name, 0, 0.0, one.record.created))
        used = max(known.used, one.record.used)
        found[name] = Kept(name, known.size + one.size, used, known.created, one.in_use)
    return list(found.values())


def _remove(
    home: Home, names: Set[str], seen: list[CacheUsage], sizes: dict[str, int]
) -> tuple[list[str], int]:
    """Keys of what is gone, and bytes."""
    from cove.image.layers import drop_unused

    store, reclaimed = home.store, 0
    steps = [one.record for one in seen if one.record.diff_id in names]
    store.remove_cached([one.key for one in steps])
    gone = [one.key for one in steps]
    reclaimed += sum(
        sizes.get(layer, 0) for layer in drop_unused(store, [s.diff_id for s in steps])
    )
    for one in seen:
        if one.kind == MOUNT and one.record.key in names and caches.remove(home, one.record.key):
            gone.append(one.record.key)
            reclaimed += one.size
    return gone, reclaimed


# ---- by itself ----


def watch(home: Home) -> None:
    """Every hour: a cache mount may have grown, and the disk filled otherwise."""

    def again() -> None:
        if not home.closing:
            after_build(home)
            home.reactor.after(EVERY, again)

    home.reactor.after(EVERY, again)


def after_build(home: Home) -> None:
    """In a thread of its own: what puts machines away and strikes those that do not stop is another
    one, because a cache may take long to measure.
    """

    def look() -> None:
        if home.closing:
            return
        with _alone:
            if (limits := settings(home)) is not None:
                _prune(home, limits, ())

    home.collector.do(look)


def settings(home: Home) -> Limits | None:
    """Of ``builder.json``, whose words are those of Docker's daemon.json; None: all is kept."""
    path = home.store.layout.builder
    try:
        with open(path, "rb") as file:
            found = _decode(file.read(1 << 20)).gc
    except FileNotFoundError:
        found = _Collection()
    except OSError as error:
        raise HostError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except NOT_JSON as error:
        raise _bad(path, str(error)) from None
    if not found.enabled:
        return None
    space = free_space(home.store.layout.root)
    try:
        return _limits(found, space)
    except UsageError as error:
        raise _bad(path, error.message) from None


def _bad(path: str, why: str) -> CoveError:
    return UsageError(
        f"cannot read {path}: {why}",
        hint='write {"gc": {"defaultMaxUsedSpace": "20GB"}}',
        exit_code=1,
    )


def _limits(found: _Collection, space: Space) -> Limits:
    """What is not said is as with BuildKit."""
    reserved = found.default_reserved_space or found.default_keep_storage
    said = reserved or found.default_max_used_space or found.default_min_free_space
    if said:
        return Limits(
            _bytes(reserved, space), _bytes(found.default_max_used_space, space),
            _bytes(found.default_min_free_space, space),
        )  # fmt: skip
    return Limits(
        min(space.total // 10, 10 * 10**9), min(space.total // 5 * 4, 100 * 10**9),
        space.total // 5,
    )  # fmt: skip


def _bytes(text: str | int, space: Space) -> int:
    if match := re.fullmatch(r"([0-9]{1,2})%", str(text)):
        return space.total * int(match[1]) // 100
    return parse_size(str(text)) if text else 0


class _Collection(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    enabled: bool = True
    default_keep_storage: str | int = 0
    default_reserved_space: str | int = 0
    default_max_used_space: str | int = 0
    default_min_free_space: str | int = 0


class _Builder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gc: _Collection = _Collection()


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode: Callable[[bytes], _Builder] = msgspec.json.Decoder(_Builder).decode
