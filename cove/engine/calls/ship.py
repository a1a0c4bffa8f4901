"""The verbs that take images out of the store."""

from __future__ import annotations

import msgspec

from cove.engine.calls.images import Login


class ImageSave(msgspec.Struct, frozen=True):
    """To ``Call.sink``, as one tar."""

    images: tuple[str, ...]
    format: str = "docker-archive"
    """Or ``oci-archive``, ``oci-dir`` (the same, for who unpacks it), ``rootfs``."""
    platform: str = ""
    """Of several that a name means the one for it; refuse images for another."""
    joined: bool = False
    """One index of all images, which has no name."""


class ImagesSaved(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]


class RegistryLogin(msgspec.Struct, frozen=True):
    """Try it; it is the caller who keeps it."""

    domain: str
    login: Login


class ImagePush(msgspec.Struct, frozen=True):
    image: str
    platform: str = ""
    """Of several that a name means the one for it; refuse an image for another."""
    login: Login | None = None
    all_tags: bool = False
    """Every tag of the repository, one ``done`` for each."""
    compression: str = ""
    """gzip or zstd, of layers that the registry has not; empty: gzip."""


class ImageCopy(msgspec.Struct, frozen=True):
    """Past the store. Of a source that is here ``Call.body`` is the file or directory, of a target
    that is here ``Call.sink`` a tar, which is an OCI layout.
    """

    source: str
    """As skopeo spells it: docker://, oci:, oci-archive:, docker-archive:, or a reference."""
    target: str
    platform: str = ""
    """Empty: this host's."""
    every: bool = False
    """All platforms."""
    form: str = ""
    """oci or docker; empty: as it is."""
    compression: str = ""
    """Of layers: gzip, zstd or none; empty: as they are."""
    source_login: Login | None = None
    target_login: Login | None = None


class ImageCopied(msgspec.Struct, frozen=True):
    digest: str
    size: int
    """Of the manifest or index."""
