"""Manifests and indexes, of OCI and of Docker, and the choice of a platform. Pure."""

from __future__ import annotations

import platform as host_platform
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from cove.errors import BadArchive
from cove.oci import digest as digests

MANIFEST_MAX = 4 << 20
SHOWN = 40
"""Platforms of an index that a message lists."""

INDEXES = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
MANIFESTS = frozenset(
    {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    }
)
CONFIGS = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)
LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.",
    "application/vnd.docker.image.rootfs.",
)
"""Followed by ``v1.tar+gzip``, ``nondistributable...``, ``diff.tar.gzip``: what it is compressed
with is seen from its first bytes.
"""

MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
}
"""``uname -m`` to OCI architecture and variant."""

VARIANTS = {"amd64": ("v1",), "arm": ("v8", "v7", "v6", "v5"), "arm64": ("v8",)}
"""Of each architecture, newest first; a processor runs those after its own, too."""

ALIASES = {"x86-64": ("amd64", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6")}


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    artifact_type: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    manifests: tuple[Descriptor, ...]


def host_platform_of(machine: str = "") -> Platform:
    """The platform of this host, or of ``machine`` as ``uname -m`` names it."""
    machine = machine or host_platform.machine()
    architecture, variant = MACHINES.get(machine, (machine, ""))
    return Platform(architecture, "linux", variant)


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8`` or ``arm64``."""
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", parts[0]]
    os, architecture, variant = (*parts, "", "")[:3]
    architecture, implied = (MACHINES | ALIASES).get(architecture, (architecture, ""))
    return Platform(architecture, os, variant or implied)


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(_Document).decode


def parse_document(data: bytes, what: str) -> Manifest | Index:
    """A manifest or index, told apart by what it holds."""
    if len(data) > MANIFEST_MAX:
        raise BadArchive(f"cannot read {what}: a manifest of more than {MANIFEST_MAX >> 20} MiB")
    try:
        document = _decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadArchive(f"cannot read {what}: {str(error)[:1].lower()}{str(error)[1:]}") from None
    if document.schema_version != 2:
        raise BadArchive(
            f"cannot read {what}: manifest schema version {document.schema_version} is not 2"
        )
    for descriptor in (document.config, *(document.layers or ()), *(document.manifests or ())):
        if descriptor is not None:
            _check_descriptor(descriptor, what)
    if document.config is not None and document.layers is not None and document.manifests is None:
        return _manifest(document.config, document.layers, what)
    if document.manifests is not None and document.config is None:
        return Index(tuple(document.manifests))
    raise BadArchive(f"cannot read {what}: it is neither an image manifest nor an index")


def _manifest(config: Descriptor, layers: list[Descriptor], what: str) -> Manifest:
    for descriptor, known in ((config, CONFIGS), *((layer, None) for layer in layers)):
        kind = descriptor.media_type
        good = kind in known if known is not None else kind.startswith(LAYER_PREFIXES)
        if kind and not good:
            raise BadArchive(f'cannot read {what}: it holds "{kind}", so it is not a system image')
    return Manifest(config, tuple(layers))


def _check_descriptor(descriptor: Descriptor, what: str) -> None:
    digests.of_archive(descriptor.digest)
    if descriptor.size < 0:
        raise BadArchive(f"cannot read {what}: {descriptor.digest} has a negative size")


def matches(wanted: Platform, has: Platform) -> bool:
    if (has.os or wanted.os, has.architecture or wanted.architecture) != (
        wanted.os,
        wanted.architecture,
    ):
        return False
    return not has.variant or not wanted.variant or has.variant == wanted.variant


def choose(index: Index, wanted: Platform) -> Descriptor | None:
    """The best manifest for the platform; entries without one are for every platform."""
    place = best(wanted, [one.platform or Platform() for one in index.manifests])
    return None if place is None else index.manifests[place]


def best(wanted: Platform, offered: Sequence[Platform]) -> int | None:
    """The place of the one that serves best; None: none does."""
    ranks = ((_rank(wanted, has), place) for place, has in enumerate(offered))
    found = [(rank, place) for rank, place in ranks if rank is not None]
    return min(found)[1] if found else None


def _rank(wanted: Platform, has: Platform) -> int | None:
    """0 is best: the very variant, then one for all, then the best older one that runs there too;
    None: it does not run there.
    """
    order = VARIANTS.get(wanted.architecture, ())
    if matches(wanted, has):
        if has.variant == wanted.variant:
            return 0
        if not has.variant:
            return 1
        return 2 + (order.index(has.variant) if has.variant in order else len(order))
    if not matches(msgspec.structs.replace(wanted, variant=""), has):
        return None
    if wanted.variant in order and has.variant in order[order.index(wanted.variant) :]:
        return 2 + order.index(has.variant)
    return None


def platforms(index: Index) -> str:
    """What an index has, for messages; attestations ("unknown/unknown") are no platform."""
    found = {str(d.platform) for d in index.manifests if d.platform is not None}
    names = sorted(found - {"unknown/unknown"})
    return ", ".join([*names[:SHOWN], *(["…"] if len(names) > SHOWN else [])]) or "none"
