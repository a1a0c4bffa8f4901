"""The records of images, their names and layers, and of what an unfinished pull left: a part of
the store.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from cove.errors import Conflict, NotFound
from cove.store.layout import Layout
from cove.store.records import (
    ImageRecord,
    IndexRecord,
    LayerRecord,
    LeftoverRecord,
    MachineRecord,
    SnapshotRecord,
)

TABLES = """
CREATE TABLE image_index (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""

_encode = msgspec.json.Encoder().encode
_image = msgspec.json.Decoder(ImageRecord).decode
_layer = msgspec.json.Decoder(LayerRecord).decode
_index = msgspec.json.Decoder(IndexRecord).decode
_leftover = msgspec.json.Decoder(LeftoverRecord).decode


class Images:
    """What ``Store`` has of them. Callers that change several records do it in a transaction."""

    layout: Layout
    _lock: threading.RLock
    _machines: dict[int, MachineRecord]
    _images: dict[str, ImageRecord]
    _layers: dict[str, LayerRecord]
    _tags: dict[str, str]
    _indexes: dict[str, IndexRecord]
    _leftovers: dict[str, LeftoverRecord]
    _pins: dict[str, int]
    _write: Callable[..., None]
    needed: Callable[[Callable[[], None]], None]
    transaction: Callable[[], contextlib.AbstractContextManager[None]]
    snapshot_of_image: Callable[[str], SnapshotRecord | None]
    cached_layers: Callable[[], set[str]]

    def _load_images(self, rows: Callable[[str], Iterable[Any]]) -> None:
        self._images = {key: _image(blob) for key, blob in rows("SELECT id, record FROM image")}
        self._layers = {
            key: _layer(blob) for key, blob in rows("SELECT diff_id, record FROM layer")
        }
        self._tags = dict(rows("SELECT reference, image FROM tag"))
        self._indexes = {
            name: _index(blob) for name, blob in rows("SELECT name, record FROM image_index")
        }
        self._leftovers = {
            name: _leftover(blob) for name, blob in rows("SELECT name, record FROM leftover")
        }

    # ---- layers ----

    def put_layer(self, record: LayerRecord) -> None:
        with self._lock:
            self._write(
                "INSERT OR REPLACE INTO layer VALUES (?, ?, ?)",
                record.diff_id,
                record.key,
                _encode(record),
            )
            self._layers[record.diff_id] = record

    def layer(self, diff_id: str) -> LayerRecord | None:
        return self._layers.get(diff_id)

    def layers(self) -> list[LayerRecord]:
        with self._lock:
            return list(self._layers.values())

    def remove_layer(self, diff_id: str) -> None:
        with self._lock:
            self.needed(lambda: self._write("DELETE FROM layer WHERE diff_id = ?", diff_id))
            self._layers.pop(diff_id, None)

    @contextlib.contextmanager
    def pinned(self, *things: str) -> Iterator[None]:
        """Keep layers (diff IDs) and blobs (digests) from collection while an image that needs
        them is being made.
        """
        with self._lock:
            for thing in things:
                self._pins[thing] = self._pins.get(thing, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for thing in things:
                    self._pins[thing] -= 1
                    if not self._pins[thing]:
                        del self._pins[thing]

    def pins(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._pins)

    def is_whole(self, layer: LayerRecord) -> bool:
        """It need not be unpacked again."""
        return not layer.broken and os.path.isdir(self.layout.layer(layer.key))

    def put_leftover(self, record: LeftoverRecord) -> None:
        with self._lock:
            self._write("INSERT OR REPLACE INTO leftover VALUES (?, ?)", record.name,
                        _encode(record))  # fmt: skip
            self._leftovers[record.name] = record

    def leftovers(self) -> list[LeftoverRecord]:
        with self._lock:
            return list(self._leftovers.values())

    def remove_leftover(self, name: str) -> None:
        with self._lock:
            self.needed(lambda: self._write("DELETE FROM leftover WHERE name = ?", name))
            self._leftovers.pop(name, None)

    def needed_layers(self) -> frozenset[str]:
        """Diff IDs that an image has, or that a verb or a leftover holds."""
        with self._lock:
            needed = {layer for image in self._images.values() for layer in image.layers}
            needed |= {layer for known in self._leftovers.values() for layer in known.layers}
            needed |= {layer for machine in self._machines.values() for layer in machine.layers}
            needed |= self.cached_layers()
            return frozenset(needed) | self.pins()

    # ---- images and their names ----

    def put_image(self, record: ImageRecord) -> None:
        with self._lock:
            self._write("INSERT OR REPLACE INTO image VALUES (?, ?)", record.id, _encode(record))
            self._images[record.id] = record

    def image(self, image_id: str) -> ImageRecord | None:
        return self._images.get(image_id)

    def images(self) -> list[ImageRecord]:
        with self._lock:
            return list(self._images.values())

    def remove_image(self, image_id: str) -> None:
        """Forget an image and its tags; refused while a machine is made of it, whose layers would
        go.
        """
        self.needed(lambda: self._remove_image(image_id))

    def _remove_image(self, image_id: str) -> None:
        with self.transaction():
            for machine in self._machines.values():
                if machine.image == image_id:
                    name = machine.name or machine.id[:12]
                    raise Conflict(
                        f"cannot remove image {image_id.removeprefix('sha256:')[:12]}: "
                        f"machine {name} uses it",
                        hint=f"remove the machine first: cove rm {name}",
                    )
            snapshot = self.snapshot_of_image(image_id)
            if snapshot is not None:
                raise Conflict(
                    f"cannot remove image {image_id.removeprefix('sha256:')[:12]}: "
                    f"snapshot {snapshot.name} stands on it",
                    hint=f"remove the snapshot first: cove snapshot rm {snapshot.name}",
                )
            self._without(image_id)
            self._write("DELETE FROM tag WHERE image = ?", image_id)
            self._write("DELETE FROM image WHERE id = ?", image_id)
            self._images.pop(image_id, None)
            self._tags = {name: image for name, image in self._tags.items() if image != image_id}

    def _without(self, image_id: str) -> None:
        """Names that mean several images go on with the others."""
        for known in list(self._indexes.values()):
            if image_id not in known.images:
                continue
            rest = tuple(one for one in known.images if one != image_id)
            meant = self._tags[known.name]
            self.tag(known.name, rest[0] if meant == image_id else meant, rest)

    def tag(
        self, reference: str, image_id: str, images: tuple[str, ...] = (), document: bytes = b""
    ) -> None:
        """Let a name mean an image; what it meant before is forgotten. ``images``: what it means
        for one platform each, ``image_id`` among them.
        """
        with self.transaction():
            if not {image_id, *images} <= self._images.keys():
                raise NotFound(f"cannot tag {reference}: no such image {image_id}")
            self._write("INSERT OR REPLACE INTO tag VALUES (?, ?)", reference, image_id)
            self._tags[reference] = image_id
            self._forget_index(reference)
            if len(images) > 1:
                record = IndexRecord(reference, images, document)
                row = reference, _encode(record)
                self._write("INSERT OR REPLACE INTO image_index VALUES (?, ?)", *row)
                self._indexes[reference] = record

    def untag(self, reference: str) -> None:
        self.needed(lambda: self._untag(reference))

    def _untag(self, reference: str) -> None:
        with self.transaction():
            self._forget_index(reference)
            self._write("DELETE FROM tag WHERE reference = ?", reference)
            self._tags.pop(reference, None)

    def _forget_index(self, reference: str) -> None:
        if reference in self._indexes:
            self._write("DELETE FROM image_index WHERE name = ?", reference)
            del self._indexes[reference]

    def tags(self) -> dict[str, str]:
        """Reference to image id; of a name that means several, the one where none is chosen."""
        with self._lock:
            return dict(self._tags)

    def index(self, reference: str) -> IndexRecord | None:
        """What a name means, if that is several images."""
        return self._indexes.get(reference)

    def indexes(self) -> list[IndexRecord]:
        with self._lock:
            return list(self._indexes.values())

    def names_of(self, image_id: str) -> list[str]:
        """Of an image; also those that mean others, too."""
        with self._lock:
            found = {name for name, image in self._tags.items() if image == image_id}
            found |= {one.name for one in self._indexes.values() if image_id in one.images}
            return sorted(found)

    def tagged(self, reference: str) -> str | None:
        return self._tags.get(reference)
