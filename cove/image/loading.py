"""``cove load``: the images of a docker-archive, OCI archive or layout directory."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from cove.errors import BadArchive, CoveError, HostError
from cove.image import compress, pipeline, several
from cove.image.holding import holders
from cove.image.implied import fit_chain
from cove.image.importing import RESERVED
from cove.image.layers import Blob, Progress, Step, add_layer, drop_unused, short
from cove.oci.archive import ArchivedImage, Span, open_files, read_images
from cove.oci.config import ParsedConfig, parse_config
from cove.oci.digest import digest_of
from cove.oci.manifest import host_platform_of
from cove.oci.reference import familiar
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, LayerRecord

WORKERS = max(2, min(4, os.cpu_count() or 2))


class _Cancelled(CoveError):
    """Another layer of the same archive failed."""


LAYERS_MAX = 500
"""What overlayfs stacks."""


@dataclass(frozen=True, slots=True)
class Loaded:
    id: str
    tags: tuple[str, ...]
    """As people write them."""


def load_archive(
    store: Store,
    source: int | str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    origin: str = "",
    holder: str = "",
) -> tuple[Loaded, ...]:
    """Load every image for this host's platform from an open file, a pipe, or a path; for
    ``holder`` alone, or for everybody.

    Either all images of the archive are in the store afterwards, or none.
    """
    what = origin or (str(source) if not isinstance(source, int) else "the archive")
    what = "standard input" if what == "-" else what
    with ExitStack() as stack:
        fd = stack.enter_context(_opened(source, what))
        fd = stack.enter_context(seekable(store, fd, what, progress))
        files = stack.enter_context(open_files(fd, what))
        stem = os.path.basename(os.path.abspath(origin)).partition(".")[0].lower() if origin else ""
        if not isinstance(source, int):
            stem = os.path.basename(os.path.abspath(source)).partition(".")[0].lower()
        images = read_images(files, host_platform_of(), stem)
        return _load_all(store, images, what, progress, holder)


def _load_all(
    store: Store,
    images: tuple[ArchivedImage, ...],
    what: str,
    progress: Progress | None,
    holder: str,
) -> tuple[Loaded, ...]:
    """Layers first, of all images, then the records in one transaction."""
    parsed = [(image, _parse(image, what)) for image in images]
    diff_ids = [diff_id for _, config in parsed for diff_id in config.diff_ids]
    try:
        with store.pinned(*diff_ids):
            blobs = _blobs(parsed, what)
            adding = {name: partial(_add, store, blob) for name, blob in blobs.items()}
            layers = add_layers(adding, progress)
            with ExitStack() as pins:
                chains = [fit_chain(store, c.diff_ids, layers, pins=pins) for _, c in parsed]
                diff_ids += [record.diff_id for chain in chains for record in chain]
                return _record_all(store, parsed, chains, holder)
    except BaseException:
        drop_unused(store, diff_ids)
        raise


def _record_all(
    store: Store,
    parsed: list[tuple[ArchivedImage, ParsedConfig]],
    chains: list[tuple[LayerRecord, ...]],
    holder: str,
) -> tuple[Loaded, ...]:
    blobs = Blobs(store.layout)
    kept = [data for image, _ in parsed for data in (image.config, image.manifest) if data]
    with store.pinned(*(digest_of(data) for data in kept)):
        for data in kept:
            blobs.put(data)
        before = {image.manifest for image in store.images()}
        with store.transaction():
            loaded = [
                _put(store, image, config, chain, holder)
                for (image, config), chain in zip(parsed, chains, strict=True)
            ]
            indexes = {image.index: image.references for image, _ in parsed if image.index}
            for document, references in indexes.items():
                ids = [digest_of(image.config) for image, _ in parsed if image.index == document]
                loaded = _name_index(store, loaded, ids, _free(references), document)
        forget_manifests(store, before)
        return tuple(loaded)


def _name_index(
    store: Store, loaded: list[Loaded], ids: list[str], references: tuple[str, ...], document: bytes
) -> list[Loaded]:
    """With the names told of the image that they mean here."""
    records = [one for image in ids if (one := store.image(image)) is not None]
    for reference in references:
        meant = several.name(store, reference, records, document)
        place = next(n for n, one in enumerate(loaded) if one.id == meant.id)
        tags = dict.fromkeys((*loaded[place].tags, familiar(reference)))
        loaded[place] = Loaded(meant.id, tuple(tags))
    return loaded


def _free(references: tuple[str, ...]) -> tuple[str, ...]:
    """Nobody's archive says what ``host`` is."""
    return tuple(name for name in references if familiar(name).partition(":")[0] != RESERVED)


def forget_manifests(store: Store, digests: set[str]) -> None:
    """Those that no image has any more, as it came with another; what a push reads is pinned."""
    with store.transaction():
        used = {image.manifest for image in store.images()} | store.pins() | {""}
        for digest in digests - used:
            Blobs(store.layout).remove(digest)


def _put(
    store: Store,
    image: ArchivedImage,
    parsed: ParsedConfig,
    chain: tuple[LayerRecord, ...],
    holder: str,
) -> Loaded:
    before = store.image(digest_of(image.config))
    manifest = digest_of(image.manifest) if image.manifest else ""
    record = ImageRecord(
        digest_of(image.config),
        parsed.raw,
        tuple(layer.diff_id for layer in chain),
        sum(layer.size for layer in chain),
        created_of(parsed.raw),
        manifest or (before.manifest if before else ""),
        before.digests if before else (),
        holders=holders(before, holder),
    )
    store.put_image(record)
    tags = _free(image.references) if not image.index else ()
    for tag in tags:
        store.tag(tag, record.id)
    return Loaded(record.id, tuple(familiar(tag) for tag in tags))


def _parse(image: ArchivedImage, what: str) -> ParsedConfig:
    return parse_fitting(image.config, len(image.layers), what, verb="load")


def parse_fitting(data: bytes, layers: int, what: str, *, verb: str) -> ParsedConfig:
    """A config for a manifest of so many layers."""
    parsed, cannot = parse_config(data, f"image config of {what}"), f"cannot {verb} {what}"
    if len(parsed.diff_ids) != layers:
        raise BadArchive(
            f"{cannot}: its config has {len(parsed.diff_ids)} layers, its manifest {layers}"
        )
    if not 0 < len(parsed.diff_ids) <= LAYERS_MAX:
        raise BadArchive(
            f"{cannot}: an image has 1 to {LAYERS_MAX} layers, not {len(parsed.diff_ids)}"
        )
    return parsed


def _blobs(parsed: list[tuple[ArchivedImage, ParsedConfig]], what: str) -> dict[str, Blob]:
    """One for each diff ID."""
    return {
        diff_id: Blob(
            layer.span,
            f"layer {short(diff_id)} of {what}",
            diff_id,
            layer.digest,
            keep=partial(_copy_span, layer.span),
        )
        for image, config in parsed
        for diff_id, layer in zip(config.diff_ids, image.layers, strict=True)
    }


def _copy_span(span: Span, path: str) -> bool:
    """Within the kernel; where there is no room the layer goes without."""
    at, end = span.offset, span.offset + span.size
    try:
        with open(path, "xb", buffering=0) as file:
            while at < end and (done := os.sendfile(file.fileno(), span.fd, at, end - at)):
                at += done
    except OSError:
        return False
    return at == end


def _add(store: Store, blob: Blob, tell: Progress) -> LayerRecord:
    return add_layer(store, blob, progress=tell)


Adding = Callable[[Progress], LayerRecord]
"""Adds one layer, telling of it."""


def add_layers(
    adding: Mapping[str, Adding], progress: Progress | None, *, workers: int = WORKERS
) -> dict[str, LayerRecord]:
    """In parallel, the first ones first; the first error ends the others."""
    failures: list[BaseException] = []

    def tell(step: Step) -> None:
        if failures:
            raise _Cancelled("another layer failed")
        if progress is not None:
            progress(step)

    def add(one: Adding) -> LayerRecord:
        try:
            if failures:
                raise _Cancelled("another layer failed")
            return one(tell)
        except BaseException as error:
            failures.append(error)
            raise

    with ThreadPoolExecutor(workers, "layer") as pool:
        futures = {diff_id: pool.submit(add, one) for diff_id, one in adding.items()}
    if failures:
        raise failures[0]
    return {diff_id: future.result() for diff_id, future in futures.items()}


def created_of(raw: dict[str, object]) -> float:
    try:
        return datetime.fromisoformat(str(raw.get("created"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0


@contextmanager
def _opened(source: int | str | os.PathLike[str], what: str) -> Iterator[int]:
    if isinstance(source, int):
        yield source
        return
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HostError(f"cannot load {what}: {reason}", exit_code=1) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def seekable(store: Store, fd: int, what: str, progress: Progress | None) -> Iterator[int]:
    """The archive as a file that can be seeked in: a pipe or a compressed one is decoded first."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode) or (
        stat.S_ISREG(mode) and compress.detect(os.pread(fd, compress.MAGIC_LENGTH, 0)) == "none"
    ):
        yield fd
        return
    total = os.fstat(fd).st_size if stat.S_ISREG(mode) else 0
    span = Span(fd, 0, total) if stat.S_ISREG(mode) else Span(fd, -1, -1)
    with tempfile.TemporaryFile(prefix="load-", dir=store.layout.tmp, buffering=0) as file:
        tell = (lambda n: progress(Step("reading", "", n, total))) if progress else None
        limit = max(
            1, os.statvfs(store.layout.tmp).f_bavail * os.statvfs(store.layout.tmp).f_frsize
        )
        pipeline.spool(span, file.fileno(), what=what, limit=limit, tell=tell)
        yield file.fileno()
