"""The verbs of images."""

from __future__ import annotations

import msgspec

from cove.store.records import ImageRecord


class ImageList(msgspec.Struct, frozen=True):
    pass


class Image(msgspec.Struct, frozen=True):
    record: ImageRecord
    tags: tuple[str, ...] = ()
    """``name:tag``, sorted."""
    machines: int = 0
    """How many machines were made from it."""


class Images(msgspec.Struct, frozen=True):
    """Newest first."""

    images: tuple[Image, ...]


class ImageInspect(msgspec.Struct, frozen=True):
    image: str
    platform: str = ""
    """Of several that a name means the one for it; refuse one for another."""


class ImageRemove(msgspec.Struct, frozen=True):
    image: str
    force: bool = False
    prune: bool = True
    """Remove untagged parents too; accepted for Docker's ``--no-prune``."""
    holder: str = ""
    """In place of an image: all that this command had for itself alone, as far as nobody has given
    it a name, or made a machine of it.
    """


class ImageRemoved(msgspec.Struct, frozen=True):
    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


class ImageLoad(msgspec.Struct, frozen=True, omit_defaults=True):
    """A docker-archive, OCI archive or OCI layout directory, as ``Call.body``."""

    origin: str = ""
    """As typed, for messages."""
    holder: str = ""
    """Who has what is loaded for himself alone, until he says ``ImageRemove``."""


class ImageImport(msgspec.Struct, frozen=True):
    """A root file system as a tar, plain or compressed, as ``Call.body``."""

    reference: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    """Dockerfile instructions: ``CMD ["sh"]``, ``ENV A=b``."""
    platform: str = ""
    origin: str = ""


class Login(msgspec.Struct, frozen=True):
    """What a registry knows the caller by."""

    username: str
    password: str
    identity: str = ""
    """In place of both: what its token server knows the caller by."""

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


class ImagePull(msgspec.Struct, frozen=True):
    image: str
    platform: str = ""
    """``linux/arm64``; empty: this host's."""
    login: Login | None = None
    all_tags: bool = False
    """Every tag of the repository, one ``done`` for each."""
    beside: bool = False
    """The name goes on meaning what it means for other platforms."""


class ImageBootstrap(msgspec.Struct, frozen=True):
    distribution: str
    """``debian:bookworm``."""
    variant: str = ""
    """Of mmdebstrap; empty: minbase."""
    include: tuple[str, ...] = ()
    """More packages."""
    mirror: str = ""
    """Empty: the host's own package sources."""
    tag: str = ""
    """The image's name; empty: as the distribution."""
    env: tuple[str, ...] = ()
    """``http_proxy=…`` and the like, of the caller."""
    platform: str = ""
    """``linux/arm64``; empty: this host's."""


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of a long verb; the last one of a load, import, pull or bootstrap has
    ``stage`` ``done``."""

    stage: str
    """reading, unpacking, layer exists, done, …"""
    id: str = ""
    """Of the layer or blob, short."""
    current: int = 0
    total: int = 0
    """0: unknown."""
    unit: str = ""
    """What is counted; empty: bytes."""
    image: str = ""
    """With ``done``: the image's id."""
    tags: tuple[str, ...] = ()
    """With ``done``: the names it got."""
    digest: str = ""
    """With ``done``, of a pull: what the name means there."""
    kind: str = ""
    """With ``done``, of a push: the media type of that."""
    fresh: bool = False
    """With ``done``, of a pull: the image was not here under this name."""
