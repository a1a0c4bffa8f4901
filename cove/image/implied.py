"""Directories that a layer has only because files are in them.

In one tree such a directory is what the layers below say; overlayfs shows the uppermost layer's
attributes instead, so they are copied up from below when an image is put together. A layer that is
in use by another image is never touched: this one gets a copy whose files are links.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from cove.image import pipeline
from cove.image.layers import install_layer, staging
from cove.store.db import Store
from cove.store.records import LayerRecord

OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Attributes:
    mode: int
    uid: int
    gid: int
    mtime_ns: int


def fit_chain(
    store: Store,
    diff_ids: Sequence[str],
    layers: dict[str, LayerRecord],
    *,
    pins: ExitStack,
) -> tuple[LayerRecord, ...]:
    """The layers of one image, lowest first, each with its implied directories as below it."""
    chain: list[LayerRecord] = []
    for diff_id in diff_ids:
        layer = layers[diff_id]
        wanted = _wanted(store, layer, chain)
        if wanted:
            layer = _fitted(store, layer, wanted, pins)
        chain.append(layer)
    return tuple(chain)


def _wanted(store: Store, layer: LayerRecord, chain: list[LayerRecord]) -> dict[str, Attributes]:
    """Implied directories that are not yet as they must be."""
    wanted: dict[str, Attributes] = {}
    own = store.layout.layer(layer.key)
    below = [store.layout.layer(record.key) for record in reversed(chain)]
    for name in layer.implied:
        here, _ = _look(own, name)
        there = _look_below(below, name)
        if here is not None and there is not None and here != there:
            wanted[name] = there
    return wanted


def _fitted(
    store: Store, layer: LayerRecord, wanted: dict[str, Attributes], pins: ExitStack
) -> LayerRecord:
    if not any(layer.diff_id in image.layers for image in store.images()):
        _apply(store.layout.layer(layer.key), wanted)
        return layer
    text = "\n".join(f"{name} {attributes}" for name, attributes in sorted(wanted.items()))
    name = f"{layer.diff_id}+{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    pins.enter_context(store.pinned(name))
    known = store.layer(name)
    if known is not None and store.is_whole(known):
        return known
    with staging(store) as directory:
        pipeline.link_tree(store.layout.layer(layer.key), f"{directory}/fs")
        _apply(f"{directory}/fs", wanted)
        if layer.tar:
            os.link(store.layout.recipe(layer.key), f"{directory}/recipe")
        packed = ""
        if layer.blob[0]:
            with suppress(FileNotFoundError):
                os.link(store.layout.packed_layer(layer.key), f"{directory}/packed")
                packed = f"{directory}/packed"
        return install_layer(
            store,
            f"{directory}/fs",
            name,
            layer.size,
            implied=layer.implied,
            recipe=f"{directory}/recipe",
            tar=layer.tar,
            packed=packed,
            blob=layer.blob,
        )


def _apply(directory: str, wanted: dict[str, Attributes]) -> None:
    for name, attributes in wanted.items():
        with ExitStack() as stack:
            fd, _ = _open(directory, name, stack)
            if fd < 0:
                continue
            real = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            stack.callback(os.close, real)
            os.fchown(real, attributes.uid, attributes.gid)
            os.fchmod(real, stat.S_IMODE(attributes.mode))
            os.utime(real, ns=(attributes.mtime_ns, attributes.mtime_ns))


def _look_below(layers: list[str], name: str) -> Attributes | None:
    """The directory in the uppermost layer that has it, unless something hides what is below."""
    for layer in layers:
        found, hidden = _look(layer, name)
        if found is not None or hidden:
            return found
    return None


def _look(layer: str, name: str) -> tuple[Attributes | None, bool]:
    """The directory in this layer; and whether the layer hides it in those below."""
    with ExitStack() as stack:
        fd, hidden = _open(layer, name, stack)
        if fd < 0:
            return None, hidden
        status = os.fstat(fd)
        return Attributes(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns), hidden


def _open(layer: str, name: str, stack: ExitStack) -> tuple[int, bool]:
    """Part by part, so that no link of the image is followed. -1: it is not there."""
    fd = os.open(layer, _DIRECTORY)
    stack.callback(os.close, fd)
    hidden = False
    for part in name.encode("latin-1").split(b"/"):
        try:
            fd = os.open(part, _DIRECTORY, dir_fd=fd)
        except FileNotFoundError:
            return -1, hidden
        except OSError:
            return -1, True  # a whiteout, a file or a link
        stack.callback(os.close, fd)
        with contextlib.suppress(OSError):
            hidden |= os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y"
    return fd, hidden
