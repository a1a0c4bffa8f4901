"""``cove push``: an image into a registry. What the registry has is not sent, nor what it can take
from another of its own repositories; a layer is compressed only for one that has it not.

A layer that came compressed goes out as the bytes it came as, and an image whose layers all do
under the manifest it came with: its digest is the same everywhere. Archives of other layers are
made again of what is unpacked.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from cove.errors import NotFound, UsageError
from cove.image import catalog, several
from cove.image.layers import Progress, Step, short
from cove.image.registries import open_for
from cove.image.repacking import Written, write_archive
from cove.image.saving import (
    COMPRESSIONS,
    LAYER,
    MANIFEST,
    check_platform,
    descriptor,
    encode_manifest,
)
from cove.oci.auth import Credentials
from cove.oci.digest import digest_of
from cove.oci.manifest import Descriptor, Manifest, parse_document
from cove.oci.reference import Reference, parse_reference
from cove.oci.uploading import Upload
from cove.oci.web import Patience
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, IndexRecord, LayerRecord

AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Pushed:
    id: str
    reference: str
    digest: str
    size: int
    """Of the manifest."""
    kind: str
    """Its media type."""


@dataclass(frozen=True, slots=True)
class _Wish:
    store: Store
    registry: Upload
    reference: Reference
    record: ImageRecord
    kind: str
    asked: bool
    """Somebody wants this compression, whatever layers came with."""
    tell: Progress
    stopped: threading.Event

    @property
    def what(self) -> str:
        return f"push {self.reference.familiar()}"


@dataclass(frozen=True, slots=True)
class _Placed:
    """A layer as the registry has it now."""

    entry: dict[str, object]
    original: bool
    """As it was once pulled."""


def tags_of(store: Store, text: str) -> tuple[str, ...]:
    """Every name that the repository ``text`` has here."""
    typed = parse_reference(text, default_tag=False)
    if typed.tag or typed.digest:
        raise UsageError(f'cannot push all tags of "{text}": it names one', origin=text)
    names = sorted(name for name in store.tags() if parse_reference(name).name == typed.name)
    if not names:
        raise _nothing(text, typed)
    return tuple(parse_reference(name).familiar() for name in names)


def push(
    store: Store,
    text: str,
    *,
    platform: str = "",
    kind: str = "",
    credentials: Credentials | None = None,
    progress: Progress | None = None,
    stopped: threading.Event | None = None,
    patience: Patience | None = None,
) -> Pushed:
    """The image called ``text``, to where that name leads; ``kind``: gzip or zstd."""
    typed = parse_reference(text)
    if typed.digest:
        raise UsageError(f'cannot push "{text}": a digest is no place to push to', origin=text,
                         hint="push a tag")  # fmt: skip
    index, records = _meant(store, text, typed, platform)
    tell, ended = progress or (lambda step: None), stopped or threading.Event()
    with (
        open_for(store, text, credentials, tell, stopped, patience, "push", Upload) as opened,
        store.pinned(*(thing for record in records for thing in _needed(record))),
    ):
        assert isinstance(opened[1], Upload)
        wishes = [
            _Wish(store, opened[1], typed, record, kind or "gzip", bool(kind), tell, ended)
            for record in records
        ]
        for record in records:
            catalog.layer_keys(store, record)  # pinned now, and here
        tell(Step(f"pushing to {typed.name}", typed.tag))
        return _push(wishes[0]) if index is None else _push_index(index, wishes)


def _meant(
    store: Store, text: str, typed: Reference, platform: str
) -> tuple[IndexRecord | None, tuple[ImageRecord, ...]]:
    """All that a name means; with a platform the image for it."""
    index = store.index(str(typed)) if not platform else None
    if index is not None:
        return index, several.members(store, index)
    if store.tagged(str(typed)) is None:
        raise _nothing(text, typed)
    record = catalog.resolve(store, str(typed), platform)
    check_platform(record, platform, f"push {text}")
    return None, (record,)


def _needed(record: ImageRecord) -> tuple[str, ...]:
    return (*record.layers, record.id, *([record.manifest] if record.manifest else []))


def _nothing(text: str, typed: Reference) -> NotFound:
    return NotFound(
        f"cannot push {typed.familiar()}: no image here has that name",
        origin=text,
        hint=f"give it one: cove tag IMAGE {typed.familiar()}",
    )


def _push(wish: _Wish) -> Pushed:
    kind, data = _bring(wish)
    digest = wish.registry.manifest(wish.reference.tag, kind, data)
    _remember_place(wish, digest)
    return Pushed(wish.record.id, str(wish.reference), digest, len(data), kind)


def _push_index(index: IndexRecord, wishes: Sequence[_Wish]) -> Pushed:
    """Its images first, under their digests: the name never means what is not there."""
    entries = []
    for wish in wishes:
        kind, data = _bring(wish)
        digest = wish.registry.manifest(digest_of(data), kind, data)
        entries.append((descriptor(kind, digest, len(data)), wish.record))
    kind, data = several.document_of(index, entries)
    first = wishes[0]
    digest = first.registry.manifest(first.reference.tag, kind, data)
    for wish in wishes:
        _remember_place(wish, digest)
    meant = first.store.tagged(index.name) or first.record.id
    return Pushed(meant, str(first.reference), digest, len(data), kind)


def _bring(wish: _Wish) -> tuple[str, bytes]:
    """Layers and config into the registry: the manifest that names them, and its media type."""
    blobs = Blobs(wish.store.layout)
    data, original = _original(wish, blobs)
    # The first question: a registry that is not there is found out before a layer is compressed.
    known = wish.registry.has(wish.record.id) is not None
    placed = _place_all(wish, original)
    config = blobs.read(wish.record.id)
    if not known:
        wish.registry.send_blob(wish.record.id, len(config), _slice_of(config), lambda at: None)
    kind = MANIFEST
    if data and all(one.original for one in placed):
        kind = str(msgspec.json.decode(data).get("mediaType") or MANIFEST)
    else:
        data = encode_manifest(config, [one.entry for one in placed])
    return kind, data


def _original(wish: _Wish, blobs: Blobs) -> tuple[bytes, tuple[Descriptor, ...]]:
    """The manifest that the image came with, and its layers, if it is known."""
    record = wish.record
    if not record.manifest or not blobs.has(record.manifest):
        return b"", ()
    data = blobs.read(record.manifest)
    document = parse_document(data, f"manifest {record.manifest}")
    if not isinstance(document, Manifest) or len(document.layers) != len(record.layers):
        return b"", ()
    return data, document.layers


def _place_all(wish: _Wish, original: Sequence[Descriptor]) -> list[_Placed]:
    """Several at once, each diff ID once; the first error ends the others."""
    known: dict[str, Descriptor | None] = {}
    for number, name in enumerate(wish.record.layers):
        known.setdefault(name, original[number] if original else None)
    failures: list[BaseException] = []

    def place(name: str) -> _Placed | None:
        if failures:
            return None
        try:
            return _place(wish, name, known[name])
        except BaseException as error:
            failures.append(error)
            wish.registry.stop()
            return None

    for name in known:
        wish.tell(Step("preparing", short(name)))
    with ThreadPoolExecutor(AT_ONCE, "push") as pool:
        found = dict(zip(known, pool.map(place, known), strict=True))
    if failures:
        raise failures[0]
    return [one for name in wish.record.layers if (one := found[name]) is not None]


def _place(wish: _Wish, name: str, original: Descriptor | None) -> _Placed:
    layer = wish.store.layer(name)
    if layer is None:
        raise NotFound(f"cannot {wish.what}: its layer {name} is missing")
    shown = short(name)
    if original is not None:
        if wish.registry.has(original.digest) is not None:
            wish.tell(Step("layer already exists", shown))
            return _Placed(_oci_entry(original), original=True)
        source = _mounted(wish, original.digest)
        if source:
            wish.tell(Step(f"mounted from {source}", shown))
            return _Placed(_oci_entry(original), original=True)
    if original is not None and not wish.asked and _send_kept(wish, layer, original, shown):
        return _Placed(_oci_entry(original), original=True)
    packed = layer.packed.get(wish.kind)
    if packed is not None and wish.registry.has(packed[0]) is not None:
        wish.tell(Step("layer already exists", shown))
    elif packed is not None and (source := _mounted(wish, packed[0])):
        wish.tell(Step(f"mounted from {source}", shown))
    else:
        packed = _send(wish, layer, shown)
    return _Placed(descriptor(COMPRESSIONS[wish.kind], *packed), original=False)


def _mounted(wish: _Wish, digest: str) -> str:
    """The repository of the same registry that it came from or went to; empty: none has it."""
    own = wish.reference
    for text in wish.record.digests:
        known = parse_reference(text)
        if known.domain != own.domain or known.path == own.path:
            continue
        wish.registry.also_pull(known.path)
        if wish.registry.mount(digest, known.path):
            return known.path
    return ""


def _send_kept(wish: _Wish, layer: LayerRecord, original: Descriptor, shown: str) -> bool:
    """Whether the bytes it came as are here, and there now."""
    if layer.blob != (original.digest, original.size):
        return False
    try:
        fd = os.open(wish.store.layout.packed_layer(layer.key), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(fd).st_size != original.size:
            return False
        wish.tell(Step("pushing", shown, 0, original.size))
        wish.registry.send_blob(
            original.digest,
            original.size,
            lambda at, size: os.pread(fd, size, at),
            lambda at: wish.tell(Step("pushing", shown, at, original.size)),
        )
    finally:
        os.close(fd)
    wish.tell(Step("pushed", shown))
    return True


def _send(wish: _Wish, layer: LayerRecord, shown: str) -> tuple[str, int]:
    """Compressed into a file without a name, which goes with this process."""
    with tempfile.TemporaryFile(prefix="push-", dir=wish.store.layout.tmp, buffering=0) as file:
        written = write_archive(
            wish.store,
            layer,
            file.fileno(),
            what=wish.what,
            kind=wish.kind,
            gone=wish.stopped.is_set,
            tell=lambda read: wish.tell(Step("compressing", shown, read, layer.tar)),
        )
        _remember(wish.store, layer, wish.kind, written)
        if wish.registry.has(written.digest) is not None:
            wish.tell(Step("layer already exists", shown))
            return written.digest, written.size
        wish.tell(Step("pushing", shown, 0, written.size))
        wish.registry.send_blob(
            written.digest,
            written.size,
            lambda at, size: os.pread(file.fileno(), size, at),
            lambda at: wish.tell(Step("pushing", shown, at, written.size)),
        )
    wish.tell(Step("pushed", shown))
    return written.digest, written.size


def _remember(store: Store, layer: LayerRecord, kind: str, written: Written) -> None:
    with store.transaction():
        now = store.layer(layer.diff_id)
        if now is not None and now.key == layer.key:
            packed = now.packed | {kind: (written.digest, written.size)}
            store.put_layer(msgspec.structs.replace(now, packed=packed))


def _remember_place(wish: _Wish, digest: str) -> None:
    """The image can be named by what the registry calls it."""
    name = f"{wish.reference.name}@{digest}"
    with wish.store.transaction():
        now = wish.store.image(wish.record.id)
        if now is not None and name not in now.digests:
            wish.store.put_image(msgspec.structs.replace(now, digests=(*now.digests, name)))


def _oci_entry(original: Descriptor) -> dict[str, object]:
    """Of Docker's media types those of OCI: what is new is in one language."""
    kind = original.media_type
    if kind.startswith("application/vnd.docker.image.rootfs."):
        kind = f"{LAYER}+gzip" if kind.endswith("gzip") else LAYER
    return descriptor(kind, original.digest, original.size)


def _slice_of(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, size: data[at : at + size]
