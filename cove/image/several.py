"""Names that mean several images, one for each platform: what such a name means where, and the OCI
index that it is outside of this store.

The store keeps, beside what a name means, which images it means for other platforms: all else is
images as ever, and who names no platform gets the one that fits this host.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cove.errors import NOT_JSON, UsageError
from cove.oci.linked import OCI_INDEX
from cove.oci.manifest import Platform, best, host_platform_of
from cove.oci.reference import parse_reference
from cove.store.db import Store
from cove.store.records import ImageRecord, IndexRecord

DOCUMENT_MAX = 256 << 10
"""Bytes of an index that are kept; a larger one is written anew where it goes."""


def platform_of(record: ImageRecord) -> Platform:
    """What an image says that it is for."""
    words = (str(record.config.get(key) or "") for key in ("architecture", "os", "variant"))
    return Platform(*words)


def index_of(store: Store, text: str) -> IndexRecord | None:
    """What ``text`` names, if that is several images."""
    try:
        return store.index(str(parse_reference(text)))
    except UsageError:
        return None


def members(store: Store, index: IndexRecord) -> tuple[ImageRecord, ...]:
    found = (store.image(one) for one in index.images)
    return tuple(record for record in found if record is not None)


def fitting(records: Sequence[ImageRecord], platform: Platform) -> ImageRecord | None:
    """The best of them for a platform."""
    place = best(platform, [platform_of(record) for record in records])
    return None if place is None else records[place]


def name(
    store: Store, reference: str, records: Sequence[ImageRecord], document: bytes = b""
) -> ImageRecord:
    """Let a name mean all of them; what it means where no platform is named is what fits this host,
    or else the first.
    """
    chosen = fitting(records, host_platform_of()) or records[0]
    images = tuple(dict.fromkeys(record.id for record in records))
    store.tag(reference, chosen.id, images, document if len(document) <= DOCUMENT_MAX else b"")
    return chosen


def add(store: Store, reference: str, record: ImageRecord) -> None:
    """Let a name mean this image, too, in place of one for the same platform."""
    with store.transaction():
        index, known = store.index(reference), store.tagged(reference)
        ids = index.images if index is not None else tuple(filter(None, (known,)))
        there = [one for each in ids if (one := store.image(each)) is not None]
        others = [one for one in there if platform_of(one) != platform_of(record)]
        name(store, reference, [*others, record])


# ---- as a document ----


def encode_index(entries: Sequence[tuple[dict[str, object], ImageRecord]]) -> bytes:
    """Of descriptors of manifests, and the images that they are of."""
    manifests = [entry | {"platform": _shown(record)} for entry, record in entries]
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def _shown(record: ImageRecord) -> dict[str, object]:
    keys = ("architecture", "os", "os.version", "os.features", "variant")
    return {key: value for key in keys if (value := record.config.get(key))}


def document_of(
    index: IndexRecord, entries: Sequence[tuple[dict[str, object], ImageRecord]]
) -> tuple[str, bytes]:
    """Media type and content. The one it came as, as long as its manifests are these."""
    try:
        known = msgspec.json.decode(index.document) if index.document else {}
        named = [one["digest"] for one in known.get("manifests", ())]
        kind = str(known.get("mediaType") or OCI_INDEX)
    except (*NOT_JSON, AttributeError, KeyError, TypeError):
        named, kind = [], ""
    if named and sorted(named) == sorted(str(entry["digest"]) for entry, _ in entries):
        return kind, index.document
    return OCI_INDEX, encode_index(entries)
