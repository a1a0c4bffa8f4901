"""``cove pull``: an image from a registry. Layers are decoded and unpacked while they arrive, those
that the store has are not fetched, and one that two verbs want is fetched once.

What a pull that was cut off has got is kept for the next one (``leftovers``). The bytes pass
through a thread here; hashing, decoding and unpacking are children.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from cove.errors import (
    BadArchive,
    CoveError,
    NotFound,
    Unsupported,
    UsageError,
)
from cove.image import leftovers, pipeline, several
from cove.image.implied import fit_chain
from cove.image.layers import Blob, Progress, Step, add_layer, drop_unused, short
from cove.image.loading import Adding, add_layers, created_of, forget_manifests, parse_fitting
from cove.image.registries import mirrors_of, open_for
from cove.linux.pump import write_all
from cove.oci.archive import DEPTH_MAX, Span
from cove.oci.auth import Credentials
from cove.oci.config import ParsedConfig
from cove.oci.digest import digest_of
from cove.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose,
    host_platform_of,
    matches,
    parse_document,
    parse_platform,
    platforms,
)
from cove.oci.reference import Reference, parse_reference
from cove.oci.registry import Registry, Stopped
from cove.oci.web import Patience
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, LayerRecord

AT_ONCE = 3
"""Layers on their way, as Docker has it."""

WORDS = {"unpacking": "pulling", "unpacked": "pull complete", "layer exists": "already exists"}
"""Stages of a layer, as people know them."""


@dataclass(frozen=True, slots=True)
class Pulled:
    id: str
    reference: str
    """Full, as it was asked for."""
    digest: str
    """Of what the reference means: an index or a manifest."""
    fresh: bool
    """False: the image was here, under this name."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """One pull: what, from where, for whom."""

    store: Store
    registry: Registry
    reference: Reference
    platform: Platform
    chosen: bool
    """The user named the platform."""
    tell: Progress
    beside: bool
    """The name goes on meaning what it means for other platforms."""

    @property
    def name(self) -> str:
        return self.reference.familiar()


@dataclass(frozen=True, slots=True)
class _Found:
    """What the reference means, as documents."""

    digest: str
    manifest: Manifest
    data: bytes
    """Of the manifest."""
    config: bytes
    parsed: ParsedConfig


def pull(
    store: Store,
    text: str,
    *,
    platform: str = "",
    beside: bool = False,
    credentials: Credentials | None = None,
    progress: Progress | None = None,
    stopped: threading.Event | None = None,
    patience: Patience | None = None,
) -> Pulled:
    """Fetch what ``text`` means and give it that name; ``stopped`` ends it soon after it is set."""
    wanted = parse_platform(platform) if platform else host_platform_of()
    tell = progress or (lambda step: None)
    for mirror in mirrors_of(store, parse_reference(text)):
        try:
            with open_for(
                store, text, None, tell, stopped, patience, mirror=mirror
            ) as (reference, registry):  # fmt: skip
                return _pull(
                    _Wish(store, registry, reference, wanted, bool(platform), tell, beside)
                )
        except (UsageError, pipeline.NoSpace, Stopped):
            raise
        except CoveError as error:  # what it has given so far is kept
            if stopped is not None and stopped.is_set():
                raise
            tell(Step(f"mirror {mirror} does not serve: {error.message}"))
    with open_for(store, text, credentials, tell, stopped, patience) as (reference, registry):
        return _pull(_Wish(store, registry, reference, wanted, bool(platform), tell, beside))


def tags_of(
    store: Store,
    text: str,
    *,
    credentials: Credentials | None = None,
    progress: Progress | None = None,
    stopped: threading.Event | None = None,
    patience: Patience | None = None,
) -> tuple[str, ...]:
    """The references of every tag that the repository ``text`` has."""
    typed = parse_reference(text, default_tag=False)
    if typed.tag or typed.digest:
        raise UsageError(f'cannot pull all tags of "{text}": it names one', origin=text)
    tell = progress or (lambda step: None)
    for mirror in mirrors_of(store, typed):
        try:
            with open_for(
                store, text, None, tell, stopped, patience, mirror=mirror
            ) as (reference, registry):  # fmt: skip
                return tuple(f"{reference.familiar_name}:{tag}" for tag in registry.tags())
        except CoveError as error:
            if stopped is not None and stopped.is_set():
                raise
            tell(Step(f"mirror {mirror} does not serve: {error.message}"))
    with open_for(store, text, credentials, tell, stopped, patience) as (reference, registry):
        return tuple(f"{reference.familiar_name}:{tag}" for tag in registry.tags())


# ---- one pull ----


def _pull(wish: _Wish) -> Pulled:
    kept = f"{wish.reference} {wish.platform}"
    known = _known(wish)
    if known is not None:
        leftovers.end(wish.store, kept)  # of one whose daemon was killed when all was there
        return known
    found = _find(wish)
    wish.tell(Step(f"pulling from {wish.reference.path}", wish.reference.tag or "digest"))
    before = wish.store.tagged(str(wish.reference))
    image_id = digest_of(found.config)
    diff_ids = list(found.parsed.diff_ids)
    blobs = tuple(layer.digest for layer in found.manifest.layers)
    try:
        with wish.store.pinned(*diff_ids, *blobs), ExitStack() as pins:
            chain = _here(wish.store, image_id)
            if chain is None:
                leftovers.begin(wish.store, kept, tuple(diff_ids), blobs)
                layers = add_layers(_adding(wish, found), wish.tell, workers=AT_ONCE)
                chain = fit_chain(wish.store, diff_ids, layers, pins=pins)
                diff_ids += [record.diff_id for record in chain]
            fresh = _record(wish, found, chain)
        leftovers.end(wish.store, kept)
    except (BadArchive, Unsupported, pipeline.NoSpace):
        leftovers.end(wish.store, kept)
        drop_unused(wish.store, diff_ids)
        raise
    except BaseException:  # what there is may do for the next attempt
        leftovers.settle(wish.store, kept)
        drop_unused(wish.store, diff_ids)
        raise
    return Pulled(image_id, str(wish.reference), found.digest, fresh or before != image_id)


def _known(wish: _Wish) -> Pulled | None:
    """The image, if it is here and the registry still means it; a digest always means the same."""
    reference = wish.reference
    digest = reference.digest
    if not digest:
        image = _tagged(wish.store, reference)
        if image is None or not any(d.startswith(f"{reference.name}@") for d in image.digests):
            return None
        digest = wish.registry.digest_of(reference.tag)
    for record in wish.store.images():
        same = f"{reference.name}@{digest}" in record.digests
        if not same:
            continue
        meant = reference.digest or str(reference) in wish.store.names_of(record.id)
        if meant and _serves(record, wish) and _here(wish.store, record.id) is not None:
            return Pulled(record.id, str(reference), digest, fresh=False)
    return None


def _tagged(store: Store, reference: Reference) -> ImageRecord | None:
    image_id = store.tagged(str(reference))
    return store.image(image_id) if image_id else None


def _serves(record: ImageRecord, wish: _Wish) -> bool:
    """Whether the image is for the wanted platform."""
    words = (str(record.config.get(key) or "") for key in ("architecture", "os", "variant"))
    return matches(wish.platform, Platform(*words))


def _here(store: Store, image_id: str) -> tuple[LayerRecord, ...] | None:
    """The layers of an image that is whole already."""
    image = store.image(image_id)
    if image is None:
        return None
    chain = [store.layer(diff_id) for diff_id in image.layers]
    if not all(layer and store.is_whole(layer) for layer in chain):
        return None
    return tuple(layer for layer in chain if layer is not None)


# ---- documents ----


def _find(wish: _Wish) -> _Found:
    """The manifest for the platform and its config."""
    document = wish.registry.document(wish.reference.digest or wish.reference.tag)
    digest = document.digest
    parsed = parse_document(document.data, f"manifest of {wish.name}")
    for _ in range(DEPTH_MAX):
        if isinstance(parsed, Manifest):
            break
        chosen = _choose(parsed, wish)
        document = wish.registry.document(chosen.digest, chosen.size)
        parsed = parse_document(document.data, f"manifest {chosen.digest} of {wish.name}")
    if not isinstance(parsed, Manifest):
        raise BadArchive(f"cannot pull {wish.name}: indexes within indexes")
    return _with_config(wish, digest, parsed, document.data)


def _with_config(wish: _Wish, digest: str, manifest: Manifest, data: bytes) -> _Found:
    blobs = Blobs(wish.store.layout)
    known = manifest.config.digest.startswith("sha256:") and blobs.has(manifest.config.digest)
    config = b""
    if known:
        with contextlib.suppress(CoveError):  # damaged or just removed: fetched anew
            config = blobs.read(manifest.config.digest)
    config = config or wish.registry.config(manifest.config)
    parsed = parse_fitting(config, len(manifest.layers), wish.name, verb="pull")
    has = Platform(parsed.config.architecture, parsed.config.os, parsed.config.variant)
    if wish.chosen and not matches(wish.platform, has):
        raise _no_platform(wish, str(has))
    return _Found(digest, manifest, data, config, parsed)


def _choose(index: Index, wish: _Wish) -> Descriptor:
    chosen = choose(index, wish.platform)
    if chosen is None:
        raise _no_platform(wish, platforms(index))
    return chosen


def _no_platform(wish: _Wish, there: str) -> NotFound:
    return NotFound(
        f"cannot pull {wish.name}: there is no image for {wish.platform}",
        origin=f"--platform {wish.platform}" if wish.chosen else "",
        host=f"it has: {there}",
    )


# ---- layers ----


def _adding(wish: _Wish, found: _Found) -> dict[str, Adding]:
    """One for each diff ID, the largest first: the last one to come should be a small one."""
    adding: dict[str, tuple[int, Adding]] = {}
    for diff_id, layer in zip(found.parsed.diff_ids, found.manifest.layers, strict=True):
        if diff_id not in adding:
            wish.tell(Step("waiting", short(layer.digest)))
            adding[diff_id] = layer.size, partial(_add, wish, diff_id, layer)
    ordered = sorted(adding.items(), key=lambda item: -item[1][0])
    return {diff_id: add for diff_id, (_, add) in ordered}


def _add(wish: _Wish, diff_id: str, layer: Descriptor, tell: Progress) -> LayerRecord:
    name = short(layer.digest)

    def told(step: Step) -> None:
        total = step.total if step.stage == "unpacking" else 0
        stage = WORDS.get(step.stage, step.stage)
        tell(replace(step, id=name, stage=stage, current=min(step.current, total), total=total))

    small: bytearray | None = bytearray() if layer.size < leftovers.LEAST else None

    def keep(path: str) -> bool:
        if small is None:
            return leftovers.take(wish.store, layer, path)
        with contextlib.suppress(OSError), open(path, "xb") as file:
            file.write(small)
            return True
        return False

    blob = Blob(
        Span(-1, -1, layer.size),
        f"layer {name} of {wish.name}",
        diff_id,
        layer.digest,
        open=partial(_downloading, wish, layer, small),
        keep=keep,
    )
    try:
        record = _added(wish, blob, told)
    except BaseException:
        wish.registry.stop()  # nobody waits for what the others still ask for
        raise
    leftovers.forget_blob(wish.store, layer.digest)
    return record


def _added(wish: _Wish, blob: Blob, told: Progress) -> LayerRecord:
    """What was kept may have suffered: where it does not fit the blob is fetched anew, once."""
    resumed = leftovers.partial_size(wish.store, blob.digest)
    try:
        return add_layer(wish.store, blob, progress=told)
    except BadArchive:
        leftovers.forget_blob(wish.store, blob.digest)
        if not resumed:
            raise
    return add_layer(wish.store, blob, progress=told)


@contextmanager
def _downloading(wish: _Wish, layer: Descriptor, small: bytearray | None) -> Iterator[Span]:
    """The blob as a pipe that a thread fills. What ails the download is told, rather than what the
    reader makes of its sudden end. ``small``: what gets a copy of one that has no file.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pipeline.widen(writer)
    failures: list[BaseException] = []

    def fill() -> None:
        try:
            if small is not None:
                small.clear()
            with leftovers.open_partial(wish.store, layer) as kept:
                for piece in kept.pieces():
                    write_all(writer, piece)
                for piece in wish.registry.blob(layer, kept.size):
                    kept.write(piece)
                    if small is not None:
                        small.extend(piece)
                    write_all(writer, piece)
        except BrokenPipeError:
            pass  # the reader says why it stopped
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(writer)

    feeder = threading.Thread(target=fill, name="download", daemon=True)
    feeder.start()
    try:
        yield Span(reader, -1, -1)
    except BaseException as error:
        os.close(reader)
        feeder.join()
        if failures and isinstance(error, BadArchive):
            raise failures[0] from error
        raise
    os.close(reader)
    feeder.join()
    if failures:
        raise failures[0]


# ---- records ----


def _record(wish: _Wish, found: _Found, chain: tuple[LayerRecord, ...]) -> bool:
    """The image with its name, in one write; whether that is new."""
    store, reference = wish.store, wish.reference
    blobs, image_id = Blobs(store.layout), digest_of(found.config)
    name = f"{reference.name}@{found.digest}"
    with store.pinned(image_id, digest_of(found.data)):
        blobs.put(found.config)
        blobs.put(found.data)
        with store.transaction():
            before = store.image(image_id)
            digests = before.digests if before else ()
            record = ImageRecord(
                image_id,
                found.parsed.raw,
                tuple(layer.diff_id for layer in chain),
                sum(layer.size for layer in chain),
                created_of(found.parsed.raw),
                digest_of(found.data),
                tuple(dict.fromkeys((*digests, name))),
            )
            store.put_image(record)
            if not reference.digest and wish.beside:
                several.add(store, str(reference), record)
            elif not reference.digest:
                store.tag(str(reference), image_id)
        forget_manifests(store, {before.manifest} if before else set())
    return before is None or (bool(reference.digest) and name not in before.digests)
