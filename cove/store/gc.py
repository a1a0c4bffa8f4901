"""What nothing refers to any more: layers and blobs without an image, directories without a record,
what a pull kept that nobody took up again.

A record goes before its directory: what a killed daemon leaves behind is a directory without a
record, which ``strays`` finds at the next start. Removal itself is the caller's (``roots``): big
trees take time.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.layout import SOCKETS, Layout
from cove.store.records import ImageRecord, LayerRecord

LEFTOVER_LIFE = 24 * 3600.0
"""Seconds that a pull which was cut off has to come back."""

ROOT_NAME = re.compile(r"([lu])([0-9]+)")
KEY_NAME = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Collected:
    """``directories`` are without a record now and must be removed; blobs are removed already."""

    layers: tuple[LayerRecord, ...]
    blobs: tuple[str, ...]
    directories: tuple[str, ...]


def collect(store: Store) -> Collected:
    """Forget the layers and blobs that no image refers to and no import has pinned."""
    layers: tuple[LayerRecord, ...] = ()

    def forget() -> None:
        nonlocal layers
        with store.transaction():
            used = store.needed_layers()
            layers = tuple(layer for layer in store.layers() if layer.diff_id not in used)
            for layer in layers:
                store.remove_layer(layer.diff_id)
                forget_recipe(store.layout, layer)

    store.needed(forget)
    images, pins = store.images(), store.pins()
    blobs = Blobs(store.layout)
    wanted = {digest for image in images for digest in _blobs_of(image)} | pins
    lost = tuple(digest for digest in blobs.digests() if digest not in wanted)
    for digest in lost:
        blobs.remove(digest)
    _collect_disks(store.layout, {image.id for image in images})
    return Collected(layers, lost, tuple(store.layout.layer(layer.key) for layer in layers))


def forget_recipe(layout: Layout, layer: LayerRecord) -> None:
    """Of a layer whose record is gone, with the archive that it came as."""
    for path in (layout.recipe(layer.key), layout.packed_layer(layer.key)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _collect_disks(layout: Layout, images: set[str]) -> None:
    """The root disks of images that are gone, which a machine that has one open keeps; and what is
    half made.
    """
    for name in os.listdir(layout.disks):
        image = name.removesuffix(".erofs")
        gone = name != image and f"sha256:{image}" not in images
        if gone or not name.endswith((".erofs", ".ext4")):
            os.unlink(f"{layout.disks}/{name}")


def expire(store: Store, before: float) -> None:
    """Forget what pulls have kept since before that time; ``collect`` and ``strays`` do the rest.
    For the daemon's start: no pull is under way.
    """
    for record in store.leftovers():
        if record.time < before:
            store.remove_leftover(record.name)


def strays(store: Store) -> list[str]:
    """What no record names: directories below ``roots`` and ``machines``, and what is in ``tmp``,
    ``partial`` and ``run``.

    For the daemon's start, before it makes anything new: what is being made has no record yet.
    """
    layout = store.layout
    machines = {machine.key for machine in store.machines()}
    layers, uppers = {layer.key for layer in store.layers()}, store.uppers()
    found = [f"{layout.tmp}/{name}" for name in os.listdir(layout.tmp)]
    for name in os.listdir(layout.roots):
        match = ROOT_NAME.fullmatch(name)
        if match and int(match[2]) not in (layers if match[1] == "l" else uppers):
            found.append(f"{layout.roots}/{name}")
    for place in (layout.recipes, layout.packed):
        found += [f"{place}/{name}" for name in os.listdir(place)
                  if not KEY_NAME.fullmatch(name) or int(name) not in layers]  # fmt: skip
    for name in os.listdir(layout.machines):
        if KEY_NAME.fullmatch(name) and int(name) not in machines:
            found.append(f"{layout.machines}/{name}")
    for name in os.listdir(layout.run):
        key, _, kind = name.partition(".")
        if kind in SOCKETS and KEY_NAME.fullmatch(key) and int(key) not in machines:
            found.append(f"{layout.run}/{name}")
    snapshots = {snapshot.id for snapshot in store.snapshots()}
    found += [f"{layout.snapshots}/{name}" for name in os.listdir(layout.snapshots)
              if name not in snapshots]  # fmt: skip
    kept = {partial_name(blob) for record in store.leftovers() for blob in record.blobs}
    found += [f"{layout.partial}/{name}" for name in os.listdir(layout.partial) if name not in kept]
    return found


def partial_name(digest: str) -> str:
    """The file below ``partial`` of a blob whose digest was checked for its form."""
    return digest.replace(":", "-")


def _blobs_of(image: ImageRecord) -> Iterable[str]:
    return (image.id, image.manifest)
