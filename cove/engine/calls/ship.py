"""The verbs that take images out of the store."""

from __future__ import annotations

import msgspec


class ImageSave(msgspec.Struct, frozen=True):
    """To ``Call.sink``, as one tar."""

    images: tuple[str, ...]
    format: str = "docker-archive"
    """Or ``oci-archive``, ``oci-dir`` (the same, for who unpacks it), ``rootfs``."""
    platform: str = ""
    """Refuse images for another."""


class ImagesSaved(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]
