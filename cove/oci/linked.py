"""What a manifest or index holds, whatever it is for: of who copies nothing is asked but where the
rest is. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from cove.errors import NOT_JSON, BadArchive
from cove.oci import digest as digests
from cove.oci.manifest import INDEXES, MANIFEST_MAX, MANIFESTS, Descriptor

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
FOREIGN = ("nondistributable", ".foreign.")
"""In the media types of layers that no registry may give away."""


class _Linked(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(_Linked).decode


@dataclass(frozen=True, slots=True)
class Linked:
    kind: str
    """Media type."""
    children: tuple[Descriptor, ...]
    """Of an index."""
    blobs: tuple[Descriptor, ...]
    """Of a manifest: its config, then its layers."""

    @property
    def is_index(self) -> bool:
        return self.kind in INDEXES


def parse_linked(data: bytes, what: str, kind: str = "") -> Linked:
    """``kind``: what somebody else calls it, who is not believed."""
    if len(data) > MANIFEST_MAX:
        raise BadArchive(f"cannot read {what}: a manifest of more than {MANIFEST_MAX >> 20} MiB")
    try:
        found = _decode(data)
    except NOT_JSON as error:
        raise BadArchive(f"cannot read {what}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    if found.schema_version != 2:
        raise BadArchive(
            f"cannot read {what}: manifest schema version {found.schema_version} is not 2"
        )
    blobs = (*([found.config] if found.config else ()), *(found.layers or ()))
    for one in (*blobs, *(found.manifests or ())):
        digests.of_archive(one.digest)
        if one.size < 0:
            raise BadArchive(f"cannot read {what}: {one.digest} has a negative size")
    said = found.media_type or kind
    if found.manifests is not None and found.config is None and found.layers is None:
        return Linked(said if said in INDEXES else OCI_INDEX, tuple(found.manifests), ())
    if found.manifests is None and found.config is not None:
        return Linked(said if said in MANIFESTS else OCI_MANIFEST, (), blobs)
    raise BadArchive(f"cannot read {what}: it is neither a manifest nor an index")


def is_foreign(descriptor: Descriptor) -> bool:
    return any(word in descriptor.media_type for word in FOREIGN)
