"""Where a copy comes from: documents that are what their digests say, and blobs as they arrive."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cove.errors import NOT_JSON, BadArchive, NotFound, UsageError
from cove.image import compress
from cove.oci import digest as digests
from cove.oci.archive import IMAGE_NAME, REF_NAME, DirectoryFiles, Files, Span
from cove.oci.config import CONFIG_MAX
from cove.oci.digest import digest_of
from cove.oci.linked import OCI_MANIFEST, parse_linked
from cove.oci.manifest import MANIFEST_MAX, Descriptor
from cove.oci.places import Place
from cove.oci.reference import familiar, parse_reference
from cove.oci.registry import Registry

CHUNK = 1 << 20
NAMES_SHOWN = 10
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
PACKED = {"none": LAYER, "gzip": f"{LAYER}+gzip", "zstd": f"{LAYER}+zstd"}


@dataclass(frozen=True, slots=True)
class Item:
    """A manifest or index."""

    kind: str
    digest: str
    data: bytes


class Source(Protocol):
    text: str
    """As it was typed."""

    def root(self) -> Item: ...

    def child(self, descriptor: Descriptor) -> Item: ...

    def pieces(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        """A blob from a byte on; its digest is for the reader to check."""


class FromRegistry:
    def __init__(self, text: str, registry: Registry) -> None:
        self.text, self.registry = text, registry

    def root(self) -> Item:
        reference = self.registry.reference
        found = self.registry.document(reference.digest or reference.tag)
        return _item(found.data, found.digest, f"manifest of {self.text}", found.kind)

    def child(self, descriptor: Descriptor) -> Item:
        found = self.registry.document(descriptor.digest, descriptor.size)
        what = f"manifest {descriptor.digest} of {self.text}"
        return _item(found.data, found.digest, what, descriptor.media_type or found.kind)

    def pieces(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        return self.registry.blob(descriptor, at)


class FromLayout:
    """An OCI layout, directory or tar: ``fd`` is a directory, or ``tar`` knows its members."""

    def __init__(self, place: Place, fd: int, tar: Files | None) -> None:
        self.text, self._place, self._fd, self._tar = place.text, place, fd, tar

    def root(self) -> Item:
        chosen = self._chosen(self._named(self._read("index.json", MANIFEST_MAX)))
        return self.child(chosen)

    def child(self, descriptor: Descriptor) -> Item:
        what = f"manifest {descriptor.digest} of {self.text}"
        data = self._read(_path(descriptor.digest), MANIFEST_MAX)
        digests.check(data, descriptor.digest, what)
        return _item(data, descriptor.digest, what, descriptor.media_type)

    def pieces(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        with self._opened(_path(descriptor.digest)) as span:
            if span.size != descriptor.size:
                raise BadArchive(
                    f"cannot copy {self.text}: {descriptor.digest} has {span.size} bytes, its "
                    f"manifest says {descriptor.size}",
                    origin=self.text,
                )
            yield from _bytes_of(span, at, self.text)

    def _named(self, data: bytes) -> list[tuple[Descriptor, frozenset[str]]]:
        """What the layout offers, each with the names that it can be called by."""
        linked = parse_linked(data, f"index.json of {self.text}")
        if not linked.is_index:
            raise BadArchive(f"cannot copy {self.text}: its index.json is no index")
        found: list[tuple[Descriptor, frozenset[str]]] = []
        for one in linked.children:
            notes = one.annotations or {}
            names = {notes.get(IMAGE_NAME, ""), notes.get(REF_NAME, "")} - {""}
            found.append((one, frozenset(names | {familiar(name) for name in names})))
        return found

    def _chosen(self, offered: list[tuple[Descriptor, frozenset[str]]]) -> Descriptor:
        name = self._place.name
        fits = [one for one, names in offered if not name or names & _spellings(name)]
        if len({one.digest for one in fits}) == 1:
            return fits[0]
        known = sorted({min(names, key=len) for _, names in offered if names})
        listed = ", ".join([*known[:NAMES_SHOWN], *(["…"] if len(known) > NAMES_SHOWN else [])])
        if fits and not name:
            raise UsageError(
                f"cannot copy {self.text}: it holds {len(fits)} images",
                origin=self.text,
                host=f"it has: {listed}" if listed else "none of them has a name",
                hint=f"name one: {self.text}:{known[0]}" if known else "",
                exit_code=1,
            )
        raise NotFound(
            f"cannot copy {self.text}: it has no image called {name}" if name
            else f"cannot copy {self.text}: it has no image",
            origin=self.text,
            host=f"it has: {listed}" if listed else "",
        )  # fmt: skip

    def _read(self, name: str, limit: int) -> bytes:
        with self._opened(name) as span:
            return read_span(span, limit, name, self.text)

    @contextmanager
    def _opened(self, name: str) -> Iterator[Span]:
        """Open only as long as it is read: a layout may have more files than a process."""
        with ExitStack() as stack:
            files = self._tar or DirectoryFiles(self._fd, self.text, stack)
            yield span_of(files, name, self.text)


class FromDockerArchive:
    """What ``docker save`` writes, or wrote before it was a layout, too."""

    def __init__(self, place: Place, files: Files) -> None:
        self.text, self._files = place.text, files
        self._spans: dict[str, tuple[Span, bytes]] = {}
        self._item = self._found(place.name)

    def root(self) -> Item:
        """A manifest, which such an archive does not have."""
        config = _read(self._files, str(self._item.get("Config")), CONFIG_MAX, self.text)
        entries = [self._layer(name, diff_id) for name, diff_id in self._layers(config)]
        first = self._keep(digest_of(config), config)
        data = msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": CONFIG, "digest": first, "size": len(config)},
                "layers": entries,
            }
        )
        return Item(OCI_MANIFEST, digest_of(data), data)

    def child(self, descriptor: Descriptor) -> Item:
        raise BadArchive(f"cannot copy {self.text}: it has no {descriptor.digest}")

    def pieces(self, descriptor: Descriptor, at: int) -> Iterator[bytes]:
        span, data = self._spans[descriptor.digest]
        if data:
            yield data[at:]
        else:
            yield from _bytes_of(span, at, self.text)

    def _keep(self, digest: str, data: bytes = b"", span: Span | None = None) -> str:
        self._spans[digest] = span or Span(-1, 0, len(data)), data
        return digest

    def _found(self, name: str) -> dict[str, object]:
        data = _read(self._files, "manifest.json", MANIFEST_MAX, self.text)
        try:
            items = msgspec.json.decode(data)
        except NOT_JSON:
            items = None
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise BadArchive(f"cannot copy {self.text}: its manifest.json is no list of images")
        fits: list[dict[str, object]] = [item for item in items if not name or _has(item, name)]
        if len(fits) == 1:
            return fits[0]
        raise UsageError(
            f"cannot copy {self.text}: "
            + (f"it holds {len(fits)} images" if fits else f"it has no image called {name}"),
            origin=self.text,
            hint=f"name one: {self.text}:NAME" if fits and not name else "",
            exit_code=1,
        )

    def _layers(self, config: bytes) -> list[tuple[str, str]]:
        names = self._item.get("Layers")
        try:
            diff_ids = msgspec.json.decode(config)["rootfs"]["diff_ids"]
        except (*NOT_JSON, KeyError, TypeError):
            diff_ids = None
        if not isinstance(names, list) or not isinstance(diff_ids, list):
            raise BadArchive(f"cannot copy {self.text}: its config or manifest.json has no layers")
        if len(names) != len(diff_ids):
            raise BadArchive(
                f"cannot copy {self.text}: its config has {len(diff_ids)} layers, its "
                f"manifest.json {len(names)}"
            )
        return [
            (str(name), digests.of_archive(str(diff_id)))
            for name, diff_id in zip(names, diff_ids, strict=True)
        ]

    def _layer(self, name: str, diff_id: str) -> dict[str, object]:
        """A compressed one's digest nobody tells: it is read once for that."""
        span = span_of(self._files, name, self.text)
        kind = compress.detect(os.pread(span.fd, compress.MAGIC_LENGTH, span.offset))
        digest = diff_id
        if kind not in PACKED:
            raise BadArchive(f"cannot copy {self.text}: its layer {name} is packed by {kind}")
        if kind != "none":
            import hashlib

            seen = hashlib.sha256()
            for piece in _bytes_of(span, 0, self.text):
                seen.update(piece)
            digest = f"sha256:{seen.hexdigest()}"
        self._keep(digest, span=span)
        return {"mediaType": PACKED[kind], "digest": digest, "size": span.size}


def open_local(place: Place, fd: int, files: Files, *, directory: bool) -> Source:
    """The image of an archive or directory that is open."""
    layout = files.span("index.json") is not None
    if place.kind == "docker-archive" and not (layout and not place.name):
        return FromDockerArchive(place, files)
    if not layout:
        raise BadArchive(
            f"cannot copy {place.text}: it holds no index.json, so it is no OCI layout",
            origin=place.text,
            hint="is it a docker-archive? Write docker-archive:FILE",
        )
    return FromLayout(place, fd, None if directory else files)


def _has(item: dict[str, object], name: str) -> bool:
    tags = item.get("RepoTags")
    known = {str(tag) for tag in tags} if isinstance(tags, list) else set()
    return bool(known & _spellings(name))


def _spellings(name: str) -> set[str]:
    try:
        full = parse_reference(name)
    except UsageError:
        return {name}
    return {name, str(full), full.familiar()}


def _item(data: bytes, digest: str, what: str, kind: str) -> Item:
    return Item(parse_linked(data, what, kind).kind, digest, data)


def _path(digest: str) -> str:
    algorithm, digits = digests.parse_digest(digest)
    return f"blobs/{algorithm}/{digits}"


def span_of(files: Files, name: str, text: str) -> Span:
    span = files.span(name)
    if span is None:
        raise BadArchive(f"cannot copy {text}: it lacks {name}", origin=text)
    return span


def _read(files: Files, name: str, limit: int, text: str) -> bytes:
    return read_span(span_of(files, name, text), limit, name, text)


def read_span(span: Span, limit: int, name: str, text: str) -> bytes:
    if span.size > limit:
        raise BadArchive(f"cannot copy {text}: {name} is larger than {limit >> 20} MiB")
    return b"".join(_bytes_of(span, 0, text))


def _bytes_of(span: Span, at: int, text: str) -> Iterator[bytes]:
    while at < span.size:
        data = os.pread(span.fd, min(CHUNK, span.size - at), span.offset + at)
        if not data:
            raise BadArchive(f"cannot copy {text}: it is truncated")
        at += len(data)
        yield data
