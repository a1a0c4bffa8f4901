"""The verbs that put manifest lists together."""

from __future__ import annotations

import msgspec

from cove.engine.calls.images import Login


class ManifestCreate(msgspec.Struct, frozen=True):
    name: str
    members: tuple[str, ...]
    """References, each to one image in a registry."""
    amend: bool = False
    logins: dict[str, Login] = {}
    """By the registry's name."""


class ManifestAnnotate(msgspec.Struct, frozen=True):
    """What is empty stays as it is."""

    name: str
    member: str
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()


class ManifestInspect(msgspec.Struct, frozen=True):
    name: str
    """A list that is put together here, or what a registry has."""
    member: str = ""
    logins: dict[str, Login] = {}
    local: bool = False
    """No registry is asked."""
    remote: bool = False
    """What the registry has, whatever is put together here."""


class ManifestPush(msgspec.Struct, frozen=True):
    name: str
    purge: bool = False
    """Forget the list once it is pushed."""
    logins: dict[str, Login] = {}
    members: tuple[str, ...] = ()
    """Of no list: these, as ``ManifestCreate`` takes them, for this push alone."""


class ManifestRemove(msgspec.Struct, frozen=True):
    name: str


class ManifestShown(msgspec.Struct, frozen=True):
    name: str
    """Full."""
    text: str = ""
    """The document."""
    members: tuple[str, ...] = ()
    """References, of a list that is put together here."""
