"""Layers: each diff ID is unpacked once, into ``roots/l<key>``, and shared by all images.

A layer is made in ``tmp``, renamed into ``roots``, then recorded: what a killed daemon leaves
behind is a directory without a record, which the next start sweeps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

from cove.errors import BadArchive, CoveError
from cove.image import pipeline
from cove.image.pipeline import NO_LIMITS, Limits
from cove.oci.archive import Span
from cove.store.db import Store
from cove.store.gc import forget_recipe
from cove.store.records import LayerRecord

RESERVE = 64 << 20
"""Bytes that an unpack leaves free for everybody else ..."""
RESERVE_PART = 50
"""... or this part of the file system, if that is less."""

IMPLIED_MAX = 20_000
"""Directories without an entry of their own that are remembered for one layer."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a long verb is, for people."""

    stage: str
    id: str = ""
    current: int = 0
    total: int = 0
    """0: unknown."""
    unit: str = ""
    """What is counted; empty: bytes."""


Progress = Callable[[Step], None]
"""May be called in any thread; raising in it cancels the verb."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer to be: its bytes, and the digests it must have, empty where none is known."""

    span: Span
    what: str
    """For messages: ``layer sha256:... of web.tar``."""
    diff_id: str = ""
    digest: str = ""
    limits: Limits = NO_LIMITS
    plain: bytes | None = None
    """The bytes themselves, without compression, of which ``diff_id`` has been found out."""
    tree: str = ""
    """The directory that the bytes were read of, which becomes the layer: overlayfs wrote it, and
    nobody else writes it any more."""
    open: Callable[[], AbstractContextManager[Span]] | None = None
    """Where the bytes come from only when they are wanted; of ``span`` the size counts then."""
    keep: Callable[[str], bool] | None = None
    """Puts the bytes that were read, all of them, into a file of this name; whether it could."""


class _Turn:
    """A lock with the number of threads that hold or want it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


_guard = threading.Lock()
_busy: dict[tuple[str, str], _Turn] = {}


def add_layer(
    store: Store,
    blob: Blob,
    *,
    progress: Progress | None = None,
    pins: contextlib.ExitStack | None = None,
) -> LayerRecord:
    """The layer's record, unpacked now or before.

    The caller has pinned the diff ID, or gives ``pins`` where it does not know it.
    """
    tell = progress or _ignore
    waiting = Step("waiting", short(blob.diff_id))
    with _alone(store, blob.diff_id, lambda: tell(waiting)):
        known = store.layer(blob.diff_id) if blob.diff_id else None
        if known is not None and store.is_whole(known):
            tell(Step("layer exists", short(known.diff_id)))
            return known
        return _unpack_layer(store, blob, tell, pins)


def short(digest: str) -> str:
    return digest.partition(":")[2][:12] or digest


@contextlib.contextmanager
def staging(store: Store) -> Iterator[str]:
    """A directory in ``tmp`` that is gone when the block ends, whatever happened."""
    try:
        directory = tempfile.mkdtemp(prefix="layer-", dir=store.layout.tmp)
    except OSError as error:
        raise _system_error("a layer", error) from error
    try:
        yield directory
    finally:
        pipeline.remove_tree(directory)


def install_layer(
    store: Store,
    directory: str,
    diff_id: str,
    size: int,
    *,
    implied: tuple[str, ...] = (),
    recipe: str = "",
    tar: int = 0,
    packed: str = "",
    blob: tuple[str, int] = ("", 0),
) -> LayerRecord:
    """Make a finished directory tree the layer ``diff_id``; of two that race the first one wins.
    ``recipe``: the file from which, with the tree, its archive of ``tar`` bytes is made again;
    ``packed`` and ``blob``: the file of the archive as it came, its digest and size.
    """
    with _alone(store, f"record {diff_id}"):
        known = store.layer(diff_id)
        if known is not None and store.is_whole(known):
            return known
        record = LayerRecord(store.new_key(), diff_id, size, time.time(), implied, tar=tar)
        if packed:
            record = msgspec.structs.replace(record, blob=blob)
        try:
            if packed:
                os.rename(packed, store.layout.packed_layer(record.key))
            if tar:
                os.rename(recipe, store.layout.recipe(record.key))
            os.rename(directory, store.layout.layer(record.key))
        except OSError as error:
            raise _system_error(f"layer {short(diff_id)}", error) from error
        store.put_layer(record)
        if known is not None:  # it was broken
            forget_recipe(store.layout, known)
        return record


def drop_unused(store: Store, diff_ids: Iterable[str]) -> tuple[str, ...]:
    """Forget and remove those of the layers that no image, no other verb and no leftover has."""
    doomed = []
    with store.transaction():
        used = store.needed_layers()
        for diff_id in dict.fromkeys(diff_ids):
            record = store.layer(diff_id)
            if record is not None and diff_id not in used:
                store.remove_layer(diff_id)
                doomed.append(record)
    for record in doomed:
        forget_recipe(store.layout, record)
        _discard(store, store.layout.layer(record.key))
    return tuple(record.diff_id for record in doomed)


def _discard(store: Store, directory: str) -> None:
    """Remove a layer directory that no record names."""
    with staging(store) as doomed, contextlib.suppress(FileNotFoundError):
        os.rename(directory, f"{doomed}/layer")


def _unpack_layer(
    store: Store, blob: Blob, tell: Progress, pins: contextlib.ExitStack | None
) -> LayerRecord:
    name, total = short(blob.diff_id or blob.digest), max(blob.span.size, 0)
    with staging(store) as directory:
        if blob.plain is not None:
            return _unpack_plain(store, blob, blob.plain, directory)
        with blob.open() if blob.open is not None else contextlib.nullcontext(blob.span) as span:
            poured, unpacked = pipeline.unpack(
                span,
                directory,
                what=blob.what,
                limits=blob.limits if blob.tree else _limits(store, blob.limits),
                digest=blob.digest,
                diff_id=blob.diff_id,
                there=bool(blob.tree),
                tell=lambda read: tell(Step("unpacking", name, read, total)),
            )
        if not blob.diff_id and not unpacked.ended:
            raise BadArchive(f"cannot unpack {blob.what}: truncated: the archive has no end mark")
        if not blob.diff_id and not unpacked.entries:
            raise BadArchive(f"cannot unpack {blob.what}: it holds no files")
        if pins is not None:
            pins.enter_context(store.pinned(poured.diff))
        record = install_layer(
            store,
            blob.tree or f"{directory}/fs",
            poured.diff,
            unpacked.bytes,
            implied=_implied(directory, blob),
            recipe=f"{directory}/recipe",
            tar=0 if unpacked.lost else poured.wrote,
            packed=_kept(blob, poured, f"{directory}/packed"),
            blob=(poured.blob, poured.read),
        )
    tell(Step("unpacked", short(record.diff_id), poured.read, total))
    return record


def _kept(blob: Blob, poured: pipeline.Poured, path: str) -> str:
    """The archive as it came, of which a push is to be the same; of one that is not compressed the
    recipe does that.
    """
    if blob.keep is None or not blob.digest or poured.compression == "none":
        return ""
    return path if blob.keep(path) else ""


def _unpack_plain(store: Store, blob: Blob, data: bytes, directory: str) -> LayerRecord:
    limits = _limits(store, blob.limits)
    unpacked = pipeline.unpack_plain(data, directory, what=blob.what, limits=limits)
    return install_layer(
        store,
        f"{directory}/fs",
        blob.diff_id,
        unpacked.bytes,
        implied=_implied(directory, blob),
        recipe=f"{directory}/recipe",
        tar=0 if unpacked.lost else len(data),
    )


def _implied(directory: str, blob: Blob) -> tuple[str, ...]:
    """What the unpacker says of directories without an entry."""
    with open(f"{directory}/implied", "rb") as file:
        names = file.read(IMPLIED_MAX * 256).decode("latin-1").split("\0")[:-1]
    if len(names) > IMPLIED_MAX:
        raise BadArchive(
            f"cannot unpack {blob.what}: more than {IMPLIED_MAX} directories have no entry"
        )
    return tuple(dict.fromkeys(names))


def _limits(store: Store, limits: Limits) -> Limits:
    """No more than the file system has room for: what is full is full for everybody."""
    try:
        fs = os.statvfs(store.layout.roots)
    except OSError as error:
        raise _system_error("a layer", error) from error
    reserve = min(RESERVE, fs.f_blocks * fs.f_frsize // RESERVE_PART)
    room = fs.f_bavail * fs.f_frsize - reserve
    if room <= 0:
        raise pipeline.system_error("a layer", errno.ENOSPC, "")
    return limits if limits.bytes <= room else Limits(room, limits.entries, by_room=True)


@contextlib.contextmanager
def _alone(store: Store, name: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """One thread at a time for each name; a layer without a known diff ID has none. ``waiting`` is
    called now and then meanwhile, and may raise.
    """
    if not name:
        yield
        return
    key = (store.layout.root, name)
    with _guard:
        turn = _busy.setdefault(key, _Turn())
        turn.users += 1
    try:
        while not turn.lock.acquire(timeout=0.2):
            waiting()
        try:
            yield
        finally:
            turn.lock.release()
    finally:
        with _guard:
            turn.users -= 1
            if not turn.users:
                del _busy[key]


def _ignore(step: Step) -> None:
    pass


def _system_error(what: str, error: OSError) -> CoveError:
    reason = (error.strerror or str(error)).lower()
    return pipeline.system_error(what, error.errno or 0, reason)
