"""``cove save``: images as one archive that Docker, skopeo and cove itself load: an OCI layout with
a ``manifest.json`` beside it, as Docker has written it since 25. Layers are in it as they were
unpacked, without compression: what their diff IDs promise, and all that ``docker load`` reads.

Where only OCI is asked for, a layer that came compressed is in it as the bytes it came as, and an
image whose layers all are has the manifest it came with: its digest is the same everywhere.
"""

from __future__ import annotations

import hashlib
import os
import select
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from cove.errors import HostError, NotFound, UsageError
from cove.image import catalog, compress, several
from cove.image.host import HOST
from cove.image.layers import short
from cove.image.repacking import Unwanted, check_recipe, plain_diff_id, write_archive
from cove.linux.pump import Stopped, pump
from cove.oci.archive import IMAGE_NAME, REF_NAME
from cove.oci.digest import digest_of
from cove.oci.linked import OCI_INDEX
from cove.oci.manifest import Manifest, matches, parse_document, parse_platform
from cove.oci.reference import familiar, parse_reference
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, IndexRecord, LayerRecord

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
COMPRESSIONS = {"gzip": f"{LAYER}+gzip", "zstd": f"{LAYER}+zstd"}
FORMATS = ("docker-archive", "oci-archive", "oci-dir", "rootfs")
PACKED = ("oci-archive", "oci-dir")
"""In which a layer may be compressed: Docker's own archive promises that none is."""
BLOCK = 512
LOOK = 200


@dataclass(frozen=True, slots=True)
class Part:
    """A layer as it is in the archive: media type, digest and size."""

    layer: LayerRecord
    kind: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Saved:
    """One image of an archive."""

    record: ImageRecord
    config: bytes
    manifest: bytes
    layers: tuple[Part, ...]
    names: tuple[str, ...]
    """Full references, which mean nothing else."""


@dataclass(frozen=True, slots=True)
class SavedIndex:
    """What one name, or none, means: several of the images."""

    record: IndexRecord
    meant: str
    """Id of the image that it means to who knows of no platforms."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What an archive is to have. The names of indexes are no names of their images."""

    images: tuple[Saved, ...]
    indexes: tuple[SavedIndex, ...] = ()


def chosen(
    store: Store,
    texts: Sequence[str],
    platform: str = "",
    *,
    joined: bool = False,
    packed: bool = False,
) -> Chosen:
    """The images that ``texts`` mean, each once; a repository without a tag means all its tags, a
    name that means several images all of them. ``joined``: they are one index without a name;
    ``packed``: a layer that came compressed may stay so.
    """
    names: dict[str, list[str]] = {}
    indexes: dict[str, SavedIndex] = {}
    for text in texts:
        for record, name in _meant(store, text, platform):
            index = store.index(name) if name and not platform else None
            if index is not None:
                indexes[name] = SavedIndex(index, record.id)
                for one in index.images:
                    names.setdefault(one, [])
                continue
            check_platform(record, platform, f"save {text}")
            known = names.setdefault(record.id, [])
            if name and name not in known:
                known.append(name)
    images = tuple(
        read_image(store, image, tuple(found), packed=packed) for image, found in names.items()
    )
    if joined and len(images) > 1:
        indexes[""] = SavedIndex(IndexRecord("", tuple(names)), images[0].record.id)
    return Chosen(images, tuple(indexes.values()))


def _meant(store: Store, text: str, platform: str) -> Iterator[tuple[ImageRecord, str]]:
    if text in catalog.HOST_NAMES:
        raise UsageError(
            "cannot save host: it is built in, and made of this host's own files",
            origin=text,
            hint="save a machine made of it: cove commit MACHINE NAME",
        )
    try:
        typed = parse_reference(text, default_tag=False)
    except UsageError:
        yield catalog.resolve(store, text), ""
        return
    repository = [] if typed.tag or typed.digest else [
        (name, image) for name, image in sorted(store.tags().items())
        if parse_reference(name).name == typed.name
    ]  # fmt: skip
    for name, image in repository:
        yield catalog.resolve(store, name if platform else image, platform), name
    if not repository:
        record = catalog.resolve(store, text, platform)
        full = str(parse_reference(text))
        yield record, full if full in store.names_of(record.id) else ""


def check_platform(record: ImageRecord, platform: str, what: str) -> None:
    has = several.platform_of(record)
    if platform and not matches(parse_platform(platform), has):
        raise NotFound(
            f"cannot {what}: it is for {has}, not for {parse_platform(platform)}",
            origin=f"--platform {platform}",
        )


def read_image(store: Store, image: str, names: tuple[str, ...] = (), *, packed: bool) -> Saved:
    """Its documents; refused where an archive of one of its layers cannot be made again."""
    record = store.image(image)
    what = _save(names, image)
    if record is None or record.id == HOST:
        raise NotFound(f"cannot {what}: no such image")
    parts = []
    for diff_id in record.layers:
        layer = store.layer(diff_id)
        if layer is None:
            raise NotFound(f"cannot {what}: its layer {diff_id} is missing",
                           hint="pull, load or import it again")  # fmt: skip
        part = _packed(store, layer) if packed else None
        if part is None:
            check_recipe(layer, what)
            part = Part(layer, LAYER, plain_diff_id(layer), layer.tar)
        parts.append(part)
    config = Blobs(store.layout).read(record.id)
    manifest = _own_manifest(store, record, parts) or encode_manifest(
        config, [descriptor(part.kind, part.digest, part.size) for part in parts]
    )
    return Saved(record, config, manifest, tuple(parts), names)


def _save(names: Sequence[str], image: str) -> str:
    return f"save {familiar(names[0]) if names else catalog.short_id(image)}"


def _packed(store: Store, layer: LayerRecord) -> Part | None:
    """As the bytes it came as, if they are here and compressed as OCI knows it."""
    digest, size = layer.blob
    if not digest:
        return None
    try:
        with open(store.layout.packed_layer(layer.key), "rb", buffering=0) as file:
            whole = os.fstat(file.fileno()).st_size == size
            kind = COMPRESSIONS.get(compress.detect(file.read(compress.MAGIC_LENGTH)))
    except FileNotFoundError:
        return None
    return Part(layer, kind, digest, size) if whole and kind else None


def _own_manifest(store: Store, record: ImageRecord, parts: Sequence[Part]) -> bytes:
    """The one it came with, if it is OCI's and names these parts."""
    blobs = Blobs(store.layout)
    if not record.manifest:
        return b""
    try:
        data = blobs.read(record.manifest)
    except NotFound:  # it came with another one meanwhile
        return b""
    document = parse_document(data, f"manifest {record.manifest}")
    if not isinstance(document, Manifest):
        return b""
    ours = (msgspec.json.decode(data).get("mediaType") or MANIFEST) == MANIFEST
    named = [one.digest for one in document.layers]
    return data if ours and named == [part.digest for part in parts] else b""


def encode_manifest(config: bytes, layers: list[dict[str, object]]) -> bytes:
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, digest_of(config), len(config)),
            "layers": layers,
        }
    )


def descriptor(kind: str, digest: str, size: int, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest, "size": size, **more}


# ---- the archive ----


def write(store: Store, what: Chosen, out: int, gone: Callable[[], bool], *, docker: bool) -> None:
    """All of it to ``out``; ``docker``: with what Docker reads."""
    sink = Sink(out, gone)
    for name, data in _documents(what, docker=docker):
        sink.file(name, data)
    done: set[str] = set()
    for image in what.images:
        verb = _save(image.names, image.record.id)
        for part in image.layers:
            if part.digest in done:
                continue
            done.add(part.digest)
            sink.head(_path(part.digest), part.size)
            if part.kind == LAYER:
                write_archive(store, part.layer, out, what=verb, gone=gone)
            else:
                _copy_packed(store, part, out, verb, gone)
            sink.put(b"\0" * (-part.size % BLOCK))
    sink.put(b"\0" * (2 * BLOCK))


def _copy_packed(store: Store, part: Part, out: int, verb: str, gone: Callable[[], bool]) -> None:
    """The bytes it came as, by the kernel; what the disk made of them meanwhile is not believed."""
    found, at = hashlib.sha256(), 0
    with open(store.layout.packed_layer(part.layer.key), "rb", buffering=0) as file:

        def count(done: int) -> None:
            nonlocal at
            while at < done:
                data = os.pread(file.fileno(), min(done - at, compress.CHUNK), at)
                found.update(data)
                at += len(data)

        try:
            pump(file.fileno(), out, gone, count)
        except Stopped:
            raise Unwanted("interrupted") from None
    if f"sha256:{found.hexdigest()}" != part.digest:
        raise HostError(
            f"cannot {verb}: layer {short(part.layer.diff_id)} is not kept as it came",
            host=f"{store.layout.packed_layer(part.layer.key)} is damaged",
            hint="save it as it was unpacked: --format docker-archive",
            exit_code=1,
        )


def _documents(what: Chosen, *, docker: bool) -> Iterator[tuple[str, bytes]]:
    """What is read first comes first."""
    nested = [(one, *_nested(what, one)) for one in what.indexes]
    yield "oci-layout", b'{"imageLayoutVersion":"1.0.0"}'
    yield "index.json", _index(what, nested)
    if docker:
        named = [(image, _docker_names(what, image)) for image in what.images]
        yield "manifest.json", msgspec.json.encode([_item(*one) for one in named])
        yield "repositories", msgspec.json.encode(_repositories(named))
    yield "blobs/", b""
    yield "blobs/sha256/", b""
    blobs = {digest_of(data): data for one in what.images for data in (one.manifest, one.config)}
    blobs |= {digest_of(data): data for _, _, data in nested}
    yield from ((_path(digest), data) for digest, data in blobs.items())


def _nested(what: Chosen, index: SavedIndex) -> tuple[str, bytes]:
    """Media type and content."""
    there = {image.record.id: image for image in what.images}
    entries = [(_manifest_entry(there[one]), there[one].record) for one in index.record.images]
    return several.document_of(index.record, entries)


def _manifest_entry(image: Saved) -> dict[str, object]:
    return descriptor(MANIFEST, digest_of(image.manifest), len(image.manifest))


def _docker_names(what: Chosen, image: Saved) -> tuple[str, ...]:
    """Docker's own document has no platforms: a name means the image that fits this host."""
    meant = (one.record.name for one in what.indexes if one.meant == image.record.id)
    return (*image.names, *filter(None, meant))


def _index(what: Chosen, nested: Sequence[tuple[SavedIndex, str, bytes]]) -> bytes:
    entries = []
    for one, kind, data in nested:
        entries.append(descriptor(kind, digest_of(data), len(data)) | _notes(one.record.name))
    within = {image for one in what.indexes for image in one.record.images}
    for image in what.images:
        if image.record.id in within and not image.names:
            continue
        platform = {
            key: value
            for key in ("architecture", "os", "variant")
            if (value := image.record.config.get(key))
        }
        plain = _manifest_entry(image) | {"platform": platform}
        entries += [plain | _notes(name) for name in image.names or ("",)]
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})


def _notes(name: str) -> dict[str, object]:
    if not name:
        return {}
    return {"annotations": {IMAGE_NAME: name, REF_NAME: parse_reference(name).tag}}


def _item(image: Saved, names: Sequence[str]) -> dict[str, object]:
    return {
        "Config": _path(image.record.id),
        "RepoTags": [familiar(name) for name in names] or None,
        "Layers": [_path(part.digest) for part in image.layers],
    }


def _repositories(images: Sequence[tuple[Saved, Sequence[str]]]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for image, names in images:
        for name in names:
            reference = parse_reference(name)
            top = image.layers[-1].digest.partition(":")[2]
            found.setdefault(reference.familiar_name, {})[reference.tag] = top
    return found


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


class Sink:
    """A tar written piece by piece to what may be a slow reader's pipe."""

    def __init__(self, fd: int, gone: Callable[[], bool]) -> None:
        self._fd, self._gone = fd, gone

    def head(self, name: str, size: int) -> None:
        entry = tarfile.TarInfo(name.rstrip("/"))
        entry.size, entry.mode = size, 0o644
        if name.endswith("/"):
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        self.put(entry.tobuf(tarfile.GNU_FORMAT))

    def file(self, name: str, data: bytes) -> None:
        self.head(name, len(data))
        self.put(data + b"\0" * (-len(data) % BLOCK))

    def put(self, data: bytes) -> None:
        rest, poll = memoryview(data), select.poll()
        poll.register(self._fd, select.POLLOUT)
        while rest:
            if self._gone():
                raise Unwanted("interrupted")
            if poll.poll(LOOK):
                rest = rest[os.write(self._fd, rest[: select.PIPE_BUF]) :]
