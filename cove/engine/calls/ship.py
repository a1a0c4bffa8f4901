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
    """Refuse images for another."""


class ImagesSaved(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]


class RegistryLogin(msgspec.Struct, frozen=True):
    """Try it; it is the caller who keeps it."""

    domain: str
    login: Login
