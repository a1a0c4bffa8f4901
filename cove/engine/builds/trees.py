"""Root file systems between two steps: an image, and the layers of steps above it.

A step writes into a layer of its own, ``roots/u<key>``, which no record names: what a killed daemon
leaves of it is swept by the next one. From there it becomes a layer as that of ``commit`` does.
Files are looked up and written by cove's archiver inside the tree's own walls (``visits``): the
daemon follows no path of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from cove.engine.builds.heads import ATTRIBUTE
from cove.engine.descriptors import Descriptors
from cove.engine.home import SCRATCH, Base, Home
from cove.engine.ranges import range_base
from cove.errors import Unsupported
from cove.executor.archiver import Archiver, run_archiver
from cove.image.layers import Blob, add_layer
from cove.linux.pump import Stopped, pump
from cove.oci.archive import Span
from cove.oci.digest import digest_of
from cove.planner import Place
from cove.planner.files.archive import plan_layer, plan_stopped
from cove.roots import is_blank, prepare_root
from cove.spec.machine import MachineSpec
from cove.store.records import ImageRecord, LayerRecord

SMALL = 4 << 20
"""Bytes of a layer that is not worth a process of its own."""
EMPTY = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
"""Of the layer without an entry: an archive of two blocks of zeros."""
BLANK = bytes(1024)
LITTLE = 16 << 10
"""Bytes of an archive that may be of one directory alone."""
_NOTHING = MachineSpec(image="")


@dataclass(frozen=True, slots=True)
class Tree:
    image: ImageRecord = SCRATCH
    layers: tuple[str, ...] = ()
    """Diff IDs above the image."""

    @property
    def chain(self) -> tuple[str, ...]:
        return (*self.image.layers, *self.layers)

    @property
    def key(self) -> str:
        """What is in it decides, not how it came about."""
        return hashlib.sha256("\n".join(self.chain).encode()).hexdigest()

    def above(self, diff_id: str) -> Tree:
        return Tree(self.image, (*self.layers, diff_id))


def base_of(home: Home, tree: Tree) -> Base:
    base = home.base_of(tree.image)
    if base.views:
        raise Unsupported(
            "cannot build on image host: it shows the host's own directories, which are no layer",
            hint="make an image of a distribution: cove image bootstrap debian:bookworm",
            exit_code=1,
        )
    return home.base_above(base, tree.layers) if tree.layers else base


@contextlib.contextmanager
def writable(home: Home) -> Iterator[int]:
    """The key of an empty writable layer, which is gone when the block ends."""
    key = home.store.new_key()
    try:
        prepare_root(home.root, key)
        yield key
    finally:
        home.remover.remove(home.store.layout.upper(key))


@contextlib.contextmanager
def visit(
    home: Home, tree: Tree, upper: int, words: tuple[str, ...], *, what: str, reads: bool = False
) -> Iterator[Archiver]:
    """The archiver in the tree's root, with ``upper`` on top, under an id range of its own."""
    key = home.store.new_key()
    try:
        place = Place(
            key, home.root, range_base(home.store.take_range(key)), base_of(home, tree).layers,
            own=upper, points=False,
        )  # fmt: skip
        prepare_root(home.root, upper)  # overlayfs wants new work directories for each mount
        with Descriptors() as fds:
            plan = plan_stopped(_NOTHING, home.facts, place, words, bare=True)
            with run_archiver(plan, fds, what=what, reads=reads) as archiver:
                yield archiver
    finally:
        home.store.free_range(key)


def layer_of(
    home: Home, tree: Tree, upper: int, what: str, pins: contextlib.ExitStack, *, own: bool = False
) -> LayerRecord:
    """What is in a writable layer, as a layer; ``pins`` holds it from now on. ``own``: cove's
    archiver alone wrote it, so that nothing is in it that a layer does not hold (sockets), and the
    directory itself becomes the layer.
    """
    if is_blank(home.root, upper):
        return _empty(home, pins)
    with _reader(home, tree, upper, what) as archiver:
        there = f"{home.store.layout.upper(upper)}/fs" if own else ""
        return read_layer(home, archiver, pins, there)


def archive_of(home: Home, tree: Tree, upper: int, what: str) -> bytes | None:
    """What is in a writable layer, as the archive of a layer; None: more than a little."""
    with _reader(home, tree, upper, what) as archiver:
        data = _read(archiver.stdout, SMALL)
        if len(data) == SMALL:
            return None
        archiver.finish()
    return data


@contextlib.contextmanager
def _reader(home: Home, tree: Tree, upper: int, what: str) -> Iterator[Archiver]:
    layers = base_of(home, tree).layers
    plan = plan_layer(Place(upper, home.root, 0, layers, own=upper), "layer")
    with run_archiver(plan, {}, what=what) as archiver:
        yield archiver


def read_layer(
    home: Home, archiver: Archiver, pins: contextlib.ExitStack, there: str = ""
) -> LayerRecord:
    """What an archiver says of a writable layer. ``there``: where it may be taken from."""
    first = _read(archiver.stdout, SMALL)
    if len(first) < SMALL:
        archiver.finish()
        return _empty(home, pins) if _says_nothing(first) else _small(home, first, pins)
    return _large(home, archiver, first, pins, there)


def _says_nothing(data: bytes) -> bool:
    """Of the root alone, and of that what it is anyway: as a directory tells that is looked at
    (``is_blank``).
    """
    if len(data) > LITTLE:
        return False
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            entries = list(itertools.islice(tar, 2))
    except (tarfile.TarError, ValueError):
        return False  # who unpacks it says so
    if len(entries) != 1 or not entries[0].isdir() or entries[0].name not in (".", ""):
        return False
    root = entries[0]
    attributes = any(name.startswith(ATTRIBUTE) for name in root.pax_headers)
    return (root.mode, root.uid, root.gid, attributes) == (0o755, 0, 0, False)


def _read(fd: int, most: int) -> bytes:
    data = bytearray()
    while len(data) < most and (piece := os.read(fd, most - len(data))):
        data += piece
    return bytes(data)


def _small(home: Home, data: bytes, pins: contextlib.ExitStack) -> LayerRecord:
    diff_id = digest_of(data)
    pins.enter_context(home.store.pinned(diff_id))
    what = "the layer of a step"
    blob = Blob(Span(-1, -1, len(data)), what, diff_id=diff_id, plain=data)
    return add_layer(home.store, blob)


def _large(
    home: Home, archiver: Archiver, first: bytes, pins: contextlib.ExitStack, there: str
) -> LayerRecord:
    """What was read of it already is put in front of the rest."""
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def carry() -> None:
        with contextlib.suppress(OSError, Stopped), os.fdopen(writer, "wb", buffering=0) as out:
            rest = memoryview(first)
            while rest:
                rest = rest[out.write(rest) or 0 :]
            pump(archiver.stdout, out.fileno(), archiver.stopped.is_set)

    thread = threading.Thread(target=carry, name="layer", daemon=True)
    thread.start()
    try:
        blob = Blob(Span(reader, -1, -1), "the layer of a step", tree=there)
        layer = add_layer(home.store, blob, pins=pins)
    except BaseException:
        os.close(reader)
        thread.join()
        archiver.blame()  # why it ended too soon
        raise
    os.close(reader)
    thread.join()
    archiver.finish()
    return layer


def _empty(home: Home, pins: contextlib.ExitStack) -> LayerRecord:
    pins.enter_context(home.store.pinned(EMPTY))
    known = home.store.layer(EMPTY)
    if known is not None and home.store.is_whole(known):
        return known
    fd = os.memfd_create("empty", os.MFD_CLOEXEC)
    try:
        os.write(fd, BLANK)
        return add_layer(home.store, Blob(Span(fd, 0, len(BLANK)), "no files", diff_id=EMPTY))
    finally:
        os.close(fd)
