"""``cove image import``: a root file system as a tar becomes an image of one layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime

import msgspec

from cove.errors import Unsupported, UsageError
from cove.image.changes import apply_changes
from cove.image.layers import Blob, Progress, add_layer, drop_unused
from cove.oci.archive import Span
from cove.oci.digest import digest_of
from cove.oci.manifest import Platform, host_platform_of, parse_platform
from cove.oci.reference import Reference, parse_reference
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, LayerRecord

RESERVED = "host"


def import_rootfs(
    store: Store,
    fd: int,
    reference: str = "",
    *,
    changes: tuple[str, ...] = (),
    message: str = "",
    platform: str = "",
    progress: Progress | None = None,
    origin: str = "-",
    check: Callable[[], None] | None = None,
) -> ImageRecord:
    """Read a tar, plain or compressed, from ``fd`` to its end; the new image's record. ``check``
    may raise when all is read: then there is no image.
    """
    name = parse_name(reference) if reference else None
    target = parse_platform(platform) if platform else host_platform_of()
    if target.os != "linux":
        raise Unsupported(f"cannot import for {target}: only linux is supported", origin=platform)
    start = apply_changes({}, changes)
    what = origin if origin not in ("", "-") else "the archive"
    with ExitStack() as pins:
        layer = add_layer(store, Blob(Span(fd, -1, -1), what), progress=progress, pins=pins)
        try:
            if check is not None:
                check()
        except BaseException:
            pins.close()
            drop_unused(store, (layer.diff_id,))
            raise
        return _record(store, layer, target, start, message or f"Imported from {origin}", name)


def parse_name(text: str) -> Reference:
    """A name that an image may be given."""
    reference = parse_reference(text)
    if reference.digest:
        raise UsageError(f'cannot use "{text}" as a name: it has a digest', origin=text)
    if reference.familiar_name == RESERVED:
        raise UsageError(f'cannot use "{text}" as a name: "{RESERVED}" is built in', origin=text)
    return reference


def _record(
    store: Store,
    layer: LayerRecord,
    target: Platform,
    start: dict[str, object],
    comment: str,
    name: Reference | None,
) -> ImageRecord:
    created = datetime.now(UTC)
    stamp = created.isoformat().replace("+00:00", "Z")
    config: dict[str, object] = {
        "architecture": target.architecture,
        **({"variant": target.variant} if target.variant else {}),
        "comment": comment,
        "config": start,
        "created": stamp,
        "history": [{"created": stamp, "comment": comment}],
        "os": target.os,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    data = msgspec.json.encode(config)
    image_id = digest_of(data)
    with store.pinned(image_id):
        Blobs(store.layout).put(data, image_id)
        record = ImageRecord(image_id, config, (layer.diff_id,), layer.size, created.timestamp())
        with store.transaction():
            store.put_image(record)
            if name is not None:
                store.tag(str(name), image_id)
    return record
