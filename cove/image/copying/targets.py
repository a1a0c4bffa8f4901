"""Where a copy goes: a repository of a registry, or a tar that is a layout, for a file or for who
unpacks it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from cove.errors import BadArchive, UsageError
from cove.image.copying.sources import Item
from cove.image.saving import BLOCK, Sink
from cove.oci import digest as digests
from cove.oci.archive import IMAGE_NAME, REF_NAME
from cove.oci.linked import OCI_INDEX, parse_linked
from cove.oci.manifest import Descriptor
from cove.oci.places import Place
from cove.oci.reference import parse_reference
from cove.oci.uploading import Upload

Open = Callable[[int], Iterator[bytes]]
"""A blob's pieces from a byte on."""
Tell = Callable[[int], None]

BEHIND = 8 << 20
"""Bytes of a blob that can be sent once more: of a request that is cut some are lost."""


class Target(Protocol):
    at_once: int

    def begin(self, items: Sequence[Item]) -> None:
        """All documents that will come, children before what names them."""

    def placed(self, descriptor: Descriptor) -> str:
        """How a blob got there without being sent; empty: it is not there."""

    def put(self, descriptor: Descriptor, pieces: Open, tell: Tell) -> None: ...

    def end(self, items: Sequence[Item]) -> None:
        """The blobs are there: the last of the documents is what the name shall mean."""


class ToRegistry:
    at_once = 3

    def __init__(self, text: str, registry: Upload, source: str = "") -> None:
        """``source``: another repository of the same registry."""
        self.text, self.registry, self._source = text, registry, source
        if source:
            registry.also_pull(source)

    def begin(self, items: Sequence[Item]) -> None:
        pass

    def placed(self, descriptor: Descriptor) -> str:
        if self.registry.has(descriptor.digest) is not None:
            return "already exists"
        if self._source and self.registry.mount(descriptor.digest, self._source):
            return f"mounted from {self._source}"
        return ""

    def put(self, descriptor: Descriptor, pieces: Open, tell: Tell) -> None:
        rewound = _Rewound(descriptor, pieces, self.text)
        try:
            self.registry.send_blob(descriptor.digest, descriptor.size, rewound.read, tell)
        finally:
            rewound.close()

    def end(self, items: Sequence[Item]) -> None:
        reference = self.registry.reference
        for item in items[:-1]:
            self.registry.manifest(item.digest, item.kind, item.data)
        last = items[-1]
        self.registry.manifest(reference.digest or reference.tag, last.kind, last.data)


class _Rewound:
    """A stream as something to be read by place: what was just read may be read again, and what
    lies further back is asked for anew. What passes is hashed.
    """

    def __init__(self, descriptor: Descriptor, pieces: Open, text: str) -> None:
        self._descriptor, self._open, self._text = descriptor, pieces, text
        self._pieces: Iterator[bytes] = iter(())
        self._buffer = bytearray()
        self._begin = self._end = 0
        self._hash = new_hash(descriptor)
        self._hashed = 0
        self._live = False

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    def read(self, at: int, size: int) -> bytes:
        if not (self._live and self._begin <= at <= self._end):
            self.close()
            self._pieces, self._live = self._open(at), True
            self._begin = self._end = at
            self._buffer = bytearray()
        passed, end = max(0, at - BEHIND - self._begin), at + size
        del self._buffer[:passed]
        self._begin += passed
        while self._end < end and (piece := next(self._pieces, b"")):
            self._note(piece)
            self._buffer += piece
            self._end += len(piece)
        if self._end < end:
            raise BadArchive(f"cannot copy: {self._descriptor.digest} ends at byte {self._end}")
        if end == self._descriptor.size:
            check_hash(self._hash.hexdigest(), self._descriptor, self._text)
        return bytes(self._buffer[at - self._begin : end - self._begin])

    def _note(self, piece: bytes) -> None:
        """Each byte once, in order."""
        fresh = piece[max(0, self._hashed - self._end) :]
        if fresh and self._end + len(piece) > self._hashed >= self._end:
            self._hash.update(fresh)
            self._hashed += len(fresh)


class ToArchive:
    """``sink``: a tar. Each blob comes once, in the order in which it is given."""

    at_once = 1

    def __init__(self, place: Place, sink: Sink) -> None:
        self.text, self._place, self._sink = place.text, place, sink
        self._docker = place.kind == "docker-archive"

    def begin(self, items: Sequence[Item]) -> None:
        self._sink.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self._sink.file("index.json", self._index(items[-1]))
        if self._docker:
            self._sink.file("manifest.json", self._docker_manifest(items))
        self._sink.file("blobs/", b"")
        algorithms = {item.digest.partition(":")[0] for item in items}
        for item in items:
            linked = parse_linked(item.data, item.digest, item.kind)
            algorithms |= {one.digest.partition(":")[0] for one in linked.blobs}
        for algorithm in sorted(algorithms):
            self._sink.file(f"blobs/{algorithm}/", b"")
        for item in items:
            self._sink.file(blob_path(item.digest), item.data)

    def placed(self, descriptor: Descriptor) -> str:
        return ""

    def put(self, descriptor: Descriptor, pieces: Open, tell: Tell) -> None:
        self._sink.head(blob_path(descriptor.digest), descriptor.size)
        seen, size = new_hash(descriptor), 0
        for piece in pieces(0):
            seen.update(piece)
            size += len(piece)
            self._sink.put(piece)
            tell(size)
        if size != descriptor.size:
            raise BadArchive(f"cannot copy: {descriptor.digest} ends at byte {size}")
        check_hash(seen.hexdigest(), descriptor, self.text)
        self._sink.put(b"\0" * (-size % BLOCK))

    def end(self, items: Sequence[Item]) -> None:
        self._sink.put(b"\0" * (2 * BLOCK))

    def _index(self, root: Item) -> bytes:
        notes = _annotations(self._place)
        entry = {"mediaType": root.kind, "digest": root.digest, "size": len(root.data)}
        entry |= {"annotations": notes} if notes else {}
        return msgspec.json.encode(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        )

    def _docker_manifest(self, items: Sequence[Item]) -> bytes:
        linked = parse_linked(items[-1].data, items[-1].digest, items[-1].kind)
        if linked.is_index:
            raise UsageError(
                f"cannot copy to {self.text}: a docker-archive has one platform",
                origin=self.text,
                hint="leave --all away, or write oci-archive:FILE",
            )
        config, *layers = linked.blobs
        name = self._place.name
        tags = [parse_reference(name).familiar()] if name else None
        item = {
            "Config": blob_path(config.digest),
            "RepoTags": tags,
            "Layers": [blob_path(layer.digest) for layer in layers],
        }
        return msgspec.json.encode([item])


def _annotations(place: Place) -> dict[str, str]:
    if not place.name:
        return {}
    if place.kind != "docker-archive":
        return {REF_NAME: place.name}
    reference = parse_reference(place.name)
    return {IMAGE_NAME: str(reference), REF_NAME: reference.tag}


def blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def new_hash(descriptor: Descriptor) -> hashlib._Hash:
    return hashlib.new(digests.parse_digest(descriptor.digest)[0])


def check_hash(actual: str, descriptor: Descriptor, text: str) -> None:
    algorithm, digits = digests.parse_digest(descriptor.digest)
    if actual != digits:
        raise BadArchive(
            f"cannot copy to {text}: what comes as {descriptor.digest} has the digest "
            f"{algorithm}:{actual}"
        )
