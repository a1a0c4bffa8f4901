"""What a pull that was cut off leaves for the next one: finished layers, and the bytes of blobs
that had come. It is kept for a day, or until somebody prunes.

The record goes before all of it. A file of ``partial`` belongs to the one download that has locked
it; what cannot be written or locked is simply not kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cove.image.layers import drop_unused
from cove.linux.disk import file_usage
from cove.oci import digest as digests
from cove.oci.manifest import Descriptor
from cove.store.db import Store, free_bytes
from cove.store.gc import partial_name
from cove.store.records import LeftoverRecord

LEAST = 1 << 20
"""Smaller blobs are fetched again sooner than they are kept."""
ROOM = 4
"""A blob is kept while the disk has room for this many of it: unpacked it is larger."""
CHUNK = 256 << 10


def begin(store: Store, name: str, layers: tuple[str, ...], blobs: tuple[str, ...]) -> None:
    """Before the first byte. The caller has pinned all of it."""
    record = LeftoverRecord(name, tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(blobs)),
                            time.time())  # fmt: skip
    former = [known for known in store.leftovers() if known.name == name]
    store.put_leftover(record)
    for known in former:  # the name means something else by now
        _sweep(store, known)


def end(store: Store, name: str) -> None:
    """Nothing of it is wanted: the pull is done, or can never be."""
    for known in store.leftovers():
        if known.name == name:
            store.remove_leftover(name)
            _sweep(store, known)


def settle(store: Store, name: str) -> None:
    """After a pull that may be taken up again: a record of nothing is not kept."""
    for known in store.leftovers():
        if known.name == name and not _anything(store, known):
            store.remove_leftover(name)


def expire(store: Store, before: float) -> None:
    """Give up what nobody came back for; a pull that goes on holds its own."""
    for known in store.leftovers():
        if known.time < before:
            _give_up(store, known)


def drop_all(store: Store) -> tuple[tuple[str, ...], int]:
    """For prune: all but what is being pulled now. The layers that are gone, and the bytes of parts
    of blobs.
    """
    before = partial_usage(store)
    layers = [layer for known in store.leftovers() for layer in _give_up(store, known)]
    return tuple(layers), max(0, before - partial_usage(store))


def partial_usage(store: Store) -> int:
    place = store.layout.partial
    return sum(file_usage(f"{place}/{name}") for name in os.listdir(place))


def _give_up(store: Store, known: LeftoverRecord) -> tuple[str, ...]:
    with store.transaction():  # a pull pins before it counts on what is here
        if store.pins() & {*known.layers, *known.blobs}:
            return ()
        store.remove_leftover(known.name)
    return _sweep(store, known)


def _sweep(store: Store, known: LeftoverRecord) -> tuple[str, ...]:
    """Removes what no other record and no verb holds: the layers that are gone."""
    with store.transaction():
        held = {blob for other in store.leftovers() for blob in other.blobs} | store.pins()
        for blob in known.blobs:
            if blob not in held:
                _unlink(_path(store, blob))
    return drop_unused(store, known.layers)


def _anything(store: Store, known: LeftoverRecord) -> bool:
    blobs = any(os.path.exists(_path(store, blob)) for blob in known.blobs)
    return blobs or any(store.layer(layer) is not None for layer in known.layers)


def _path(store: Store, digest: str) -> str:
    digests.parse_digest(digests.of_archive(digest))
    return f"{store.layout.partial}/{partial_name(digest)}"


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class Partial:
    """The bytes of one blob that are here; ``fd`` -1: none are, and none will be kept."""

    def __init__(self, path: str, fd: int, size: int) -> None:
        self.size = size
        self._path, self._fd = path, fd

    def pieces(self) -> Iterator[bytes]:
        at = 0
        while at < self.size and (data := os.pread(self._fd, min(CHUNK, self.size - at), at)):
            at += len(data)
            yield data

    def write(self, data: bytes) -> None:
        """Behind what is here."""
        rest = memoryview(data)
        try:
            while rest and self._fd >= 0:
                count = os.pwrite(self._fd, rest, self.size)
                self.size += count
                rest = rest[count:]
        except OSError:  # a full disk: the layer itself needs the room more
            self.drop()

    def drop(self) -> None:
        if self._fd >= 0:
            _unlink(self._path)
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextmanager
def open_partial(store: Store, layer: Descriptor) -> Iterator[Partial]:
    """For one download of the blob: what is here of it, and where more is written."""
    partial = _open(store, layer)
    try:
        yield partial
    finally:
        partial.close()


def _open(store: Store, layer: Descriptor) -> Partial:
    path = _path(store, layer.digest)
    if layer.size < LEAST or free_bytes(store.layout.partial) < ROOM * layer.size:
        return Partial(path, -1, 0)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return Partial(path, -1, 0)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        if size > layer.size:
            os.ftruncate(fd, 0)
            size = 0
    except OSError:  # another download has it
        os.close(fd)
        return Partial(path, -1, 0)
    return Partial(path, fd, size)


def take(store: Store, layer: Descriptor, path: str) -> bool:
    """The whole blob as the file ``path``, if all of it is here."""
    try:
        if os.stat(_path(store, layer.digest)).st_size != layer.size:
            return False
        os.rename(_path(store, layer.digest), path)
    except OSError:
        return False
    return True


def partial_size(store: Store, digest: str) -> int:
    """How much of a blob is here."""
    try:
        return os.stat(_path(store, digest)).st_size
    except FileNotFoundError:
        return 0


def forget_blob(store: Store, digest: str) -> None:
    """Its layer is there, or its bytes are wrong."""
    _unlink(_path(store, digest))
