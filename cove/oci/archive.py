"""Image archives: docker-archive (``docker save``), OCI archive and OCI layout directory.

Finds the images in one and where their blobs are; reads configs and manifests, never layers.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from cove.errors import BadArchive, UsageError
from cove.oci import digest as digests
from cove.oci.config import CONFIG_MAX
from cove.oci.manifest import (
    INDEXES,
    MANIFEST_MAX,
    Descriptor,
    Index,
    Manifest,
    Platform,
    matches,
    parse_document,
    platforms,
)
from cove.oci.reference import TAG, parse_reference
from cove.oci.tarindex import clean_name, find_member, index_tar

DEPTH_MAX = 4
"""Of indexes within indexes."""

SEVERAL_MAX = 100
"""Of an index with more only the image for the platform is taken."""

NAMES_MAX = 1 << 20
DOCUMENTS_MAX = 256 << 20
"""Of one archive: names that are looked up, and bytes of documents that are read, each time."""

IMAGE_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/)?([a-f0-9]{64})(?:\.json)?")
_BLOB_NAME = re.compile(r"blobs/(sha256|sha512)/([a-f0-9]+)")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an open file."""

    fd: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class ArchivedLayer:
    """``digest`` is that of the bytes as they are in the archive; empty where none is claimed."""

    name: str
    span: Span
    digest: str


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    config: bytes
    layers: tuple[ArchivedLayer, ...]
    references: tuple[str, ...]
    """Full names."""
    manifest: bytes = b""
    index: bytes = b""
    """The document of the index that has these names, of which it is one image."""


class Files(Protocol):
    """Files by name, of a tar or a directory."""

    what: str

    def span(self, name: str) -> Span | None: ...

    def has(self, name: str) -> bool: ...


class TarFiles:
    """The members of a tar that can be seeked."""

    def __init__(self, fd: int, what: str) -> None:
        self.fd, self.what = fd, what
        self._members = index_tar(fd, what)

    def span(self, name: str) -> Span | None:
        member = find_member(self._members, name)
        return Span(self.fd, member.offset, member.size) if member else None

    def has(self, name: str) -> bool:
        return find_member(self._members, name) is not None


class DirectoryFiles:
    """The files of a layout directory; no link below it is followed. Closed by its stack."""

    def __init__(self, fd: int, what: str, stack: ExitStack) -> None:
        self.fd, self.what, self._stack = fd, what, stack

    def span(self, name: str) -> Span | None:
        fd = self._open(name)
        if fd is None:
            return None
        status = os.fstat(self._own(fd))
        if not stat.S_ISREG(status.st_mode):
            raise BadArchive(f"cannot read {self.what}: {name} is no regular file")
        return Span(fd, 0, status.st_size)

    def has(self, name: str) -> bool:
        """Without a descriptor that stays open."""
        fd = self._open(name)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def _open(self, name: str) -> int | None:
        directory = self.fd
        *parents, last = clean_name(name).split("/")
        with ExitStack() as way:
            try:
                for part in parents:
                    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    directory = os.open(part, flags, dir_fd=directory)
                    way.callback(os.close, directory)
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                return os.open(last, flags, dir_fd=directory)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise BadArchive(f"cannot read {self.what}: {name}: {_reason(error)}") from error

    def _own(self, fd: int) -> int:
        self._stack.callback(os.close, fd)
        return fd


class Bounded:
    """Files whose names are looked up, and whose documents are read, as often as one archive may
    ask: a small one can name the same few of them again and again, in indexes within indexes.
    """

    def __init__(self, files: Files) -> None:
        self.what, self._files = files.what, files
        self._names = self._bytes = 0
        self.whole: dict[str, bool] = {}
        """Of manifests that were looked at, whether all they name is there; by digest."""

    def span(self, name: str) -> Span | None:
        self._look()
        return self._files.span(name)

    def has(self, name: str) -> bool:
        self._look()
        return self._files.has(name)

    def read(self, span: Span) -> bytes:
        self._bytes += span.size
        if self._bytes > DOCUMENTS_MAX:
            raise self._too_much()
        return os.pread(span.fd, span.size, span.offset)

    def _look(self) -> None:
        self._names += 1
        if self._names > NAMES_MAX:
            raise self._too_much()

    def _too_much(self) -> BadArchive:
        return BadArchive(f"cannot load {self.what}: its indexes and manifests name too much")


@contextmanager
def open_files(fd: int, what: str) -> Iterator[Files]:
    """The files of an archive or layout directory; ``what`` names it in messages."""
    with ExitStack() as stack:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            yield DirectoryFiles(fd, what, stack)
        else:
            yield TarFiles(fd, what)


def read_images(inside: Files, platform: Platform, stem: str = "") -> tuple[ArchivedImage, ...]:
    """The images of an archive that are for ``platform``; of an index within it all that are there.

    ``stem`` is the archive's own name: a layout whose reference is only a tag gets it as its name.
    """
    files = Bounded(inside)
    if files.span("manifest.json") is not None and not _has_several(files):
        return _docker_images(files)
    if files.span("index.json") is not None:
        return _oci_images(files, platform, stem)
    if files.span("repositories") is not None:
        raise BadArchive(
            f"cannot load {files.what}: it is a docker-archive of the first form",
            hint="load it into Docker 1.10 or newer and save it again",
        )
    raise BadArchive(
        f"cannot load {files.what}: it holds neither manifest.json nor index.json, so no image",
        hint="a root file system is imported: cove image import FILE NAME",
    )


# ---- docker-archive ----


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode_items = msgspec.json.Decoder(list[_Item]).decode


def _docker_images(files: Bounded) -> tuple[ArchivedImage, ...]:
    data = _read(files, "manifest.json", MANIFEST_MAX)
    try:
        items = _decode_items(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadArchive(f"cannot read manifest.json of {files.what}: {error}") from None
    if not items:
        raise BadArchive(f"cannot load {files.what}: its manifest.json names no image")
    return tuple(_docker_image(files, item) for item in items)


def _docker_image(files: Bounded, item: _Item) -> ArchivedImage:
    config = _read(files, item.config, CONFIG_MAX)
    named = _CONFIG_NAME.fullmatch(item.config)
    if named:
        digests.check(config, f"sha256:{named[1]}", f"{item.config} of {files.what}")
    layers = []
    for name in item.layers or ():
        blob = _BLOB_NAME.fullmatch(name)
        digest = digests.of_archive(f"{blob[1]}:{blob[2]}") if blob else ""
        layers.append(ArchivedLayer(name, _span(files, name), digest))
    references = tuple(_full(name, files.what) for name in item.repo_tags or ())
    return ArchivedImage(config, tuple(layers), references)


def _full(name: str, what: str) -> str:
    try:
        return str(parse_reference(name))
    except UsageError as error:
        raise BadArchive(f"cannot load {what}: {error.message}") from None


# ---- OCI ----


def _has_several(files: Bounded) -> bool:
    """Whether it knows of platforms what Docker's own document cannot say."""
    if files.span("oci-layout") is None or files.span("index.json") is None:
        return False
    document = parse_document(_read(files, "index.json", MANIFEST_MAX), f"index of {files.what}")
    return isinstance(document, Index) and bool(_indexes(files, document))


def _indexes(files: Bounded, document: Index) -> dict[str, tuple[Descriptor, ...]]:
    """The indexes in the archive's own of which it has several images, by digest."""
    found: dict[str, tuple[Descriptor, ...]] = {}
    for one in document.manifests:
        if one.media_type not in INDEXES or one.digest in found:
            continue
        there = files.has(_path(one.digest))
        inner = _document(files, one) if there else None
        found[one.digest] = _several(files, inner) if isinstance(inner, Index) else ()
    return {digest: images for digest, images in found.items() if images}


def _several(files: Bounded, index: Index) -> tuple[Descriptor, ...]:
    """The images of an index that are whole in this archive, if that is more than one; those that
    are for Linux: what it says of them besides (attestations) is for nobody.
    """
    if len(index.manifests) > SEVERAL_MAX:
        return ()
    found: dict[Platform, Descriptor] = {}
    for one in index.manifests:
        has = one.platform
        if has is None or has.os != "linux" or has.architecture in ("", "unknown"):
            continue
        if has not in found and _is_whole(files, one):
            found[has] = one
    return tuple(found.values()) if len(found) > 1 else ()


def _is_whole(files: Bounded, descriptor: Descriptor) -> bool:
    known = files.whole.get(descriptor.digest)
    if known is None:
        known = files.whole[descriptor.digest] = _has_all(files, descriptor)
    return known


def _has_all(files: Bounded, descriptor: Descriptor) -> bool:
    if not files.has(_path(descriptor.digest)):
        return False
    document = _document(files, descriptor)
    return isinstance(document, Manifest) and all(
        files.has(_path(blob.digest)) for blob in (document.config, *document.layers)
    )


def _oci_images(files: Bounded, platform: Platform, stem: str) -> tuple[ArchivedImage, ...]:
    document = parse_document(_read(files, "index.json", MANIFEST_MAX), f"index of {files.what}")
    if not isinstance(document, Index):
        raise BadArchive(f"cannot load {files.what}: its index.json is no index")
    images: dict[str, ArchivedImage] = {}
    indexes = _indexes(files, document)
    rest = Index(tuple(one for one in document.manifests if one.digest not in indexes))
    alone = len(document.manifests) == 1
    for descriptor, references in _chosen(files, rest, platform, stem, DEPTH_MAX, alone=alone):
        known = images.get(descriptor.digest)
        if known is not None:
            references = tuple(dict.fromkeys(known.references + references))
        images[descriptor.digest] = _oci_image(files, descriptor, references)
    found = (*images.values(), *_of_indexes(files, document, indexes, stem))
    if not found:
        raise BadArchive(
            f"cannot load {files.what}: it has no image for {platform}",
            host=f"it has: {platforms(document)}",
        )
    return found


def _of_indexes(
    files: Bounded, document: Index, indexes: dict[str, tuple[Descriptor, ...]], stem: str
) -> Iterator[ArchivedImage]:
    """Each with all names that its index has."""
    outer = {one.digest: one for one in document.manifests if one.digest in indexes}
    for digest, images in indexes.items():
        named = (_references(one, stem) for one in document.manifests if one.digest == digest)
        references = tuple(dict.fromkeys(name for names in named for name in names))
        data = _blob(files, outer[digest], MANIFEST_MAX)
        for one in images:
            yield replace(_oci_image(files, one, references), index=data)


def _chosen(
    files: Bounded, index: Index, platform: Platform, stem: str, depth: int, *, alone: bool
) -> Iterator[tuple[Descriptor, tuple[str, ...]]]:
    """The manifests for the platform. One that stands alone is taken whatever it is for."""
    if depth == 0:
        raise BadArchive(f"cannot load {files.what}: indexes within indexes")
    for descriptor in index.manifests:
        if not alone and not matches(platform, descriptor.platform or Platform()):
            continue
        references = _references(descriptor, stem)
        document = _document(files, descriptor)
        if isinstance(document, Manifest):
            yield descriptor, references
            continue
        single = len(document.manifests) == 1
        for inner, more in _chosen(files, document, platform, stem, depth - 1, alone=single):
            yield inner, tuple(dict.fromkeys(references + more))


def _oci_image(
    files: Bounded, descriptor: Descriptor, references: tuple[str, ...]
) -> ArchivedImage:
    manifest = _blob(files, descriptor, MANIFEST_MAX)
    document = parse_document(manifest, f"manifest {descriptor.digest}")
    if not isinstance(document, Manifest):
        raise BadArchive(f"cannot load {files.what}: {descriptor.digest} is no manifest")
    layers = []
    for layer in document.layers:
        span = _span(files, _path(layer.digest))
        if span.size != layer.size:
            raise BadArchive(
                f"cannot load {files.what}: layer {layer.digest} has {span.size} bytes, "
                f"its manifest says {layer.size}"
            )
        layers.append(ArchivedLayer(layer.digest, span, layer.digest))
    config = _blob(files, document.config, CONFIG_MAX)
    return ArchivedImage(config, tuple(layers), references, manifest)


def _document(files: Bounded, descriptor: Descriptor) -> Manifest | Index:
    return parse_document(_blob(files, descriptor, MANIFEST_MAX), f"manifest {descriptor.digest}")


def _blob(files: Bounded, descriptor: Descriptor, limit: int) -> bytes:
    data = _read(files, _path(descriptor.digest), limit)
    digests.check(data, descriptor.digest, f"blob of {files.what}")
    return data


def _path(digest: str) -> str:
    algorithm, digits = digests.parse_digest(digest)
    return f"blobs/{algorithm}/{digits}"


def _references(descriptor: Descriptor, stem: str) -> tuple[str, ...]:
    """The names a descriptor carries; what is no name is left out: it is only a note."""
    notes = descriptor.annotations or {}
    text = notes.get(IMAGE_NAME) or notes.get(REF_NAME) or ""
    if text and not re.search(r"[:/@]", text) and TAG.fullmatch(text):
        text = f"{stem}:{text}" if stem else ""
    try:
        return (str(parse_reference(text)),) if text else ()
    except UsageError:
        return ()


# ---- reading ----


def _span(files: Bounded, name: str) -> Span:
    span = files.span(name)
    if span is None:
        raise BadArchive(f"cannot load {files.what}: it lacks {name}")
    return span


def _read(files: Bounded, name: str, limit: int) -> bytes:
    span = _span(files, name)
    if span.size > limit:
        raise BadArchive(f"cannot load {files.what}: {name} is larger than {limit >> 20} MiB")
    data = files.read(span)
    if len(data) != span.size:
        raise BadArchive(f"cannot load {files.what}: {name} is truncated")
    return data


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
