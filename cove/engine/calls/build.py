"""The verbs of builds."""

from __future__ import annotations

import msgspec

from cove.engine.calls.images import Login
from cove.spec.machine import Isolation, Ulimit

REGULAR, MOUNT = "regular", "exec.cachemount"
"""Kinds of what the cache has, as BuildKit calls them: what steps made, and cache mounts."""


class BuildAsked(msgspec.Struct, frozen=True):
    """``Call.body`` begins with an ``ImageBuild``, as msgpack behind its length in four bytes,
    big-endian; the build context follows."""


class ImageBuild(msgspec.Struct, frozen=True):
    """What is asked for."""

    dockerfile: bytes
    name: str = "Dockerfile"
    """Of the Dockerfile, for messages."""
    context: str = "files"
    """What the body is: ``files`` as ``client.packing`` sends them, a ``tar``, or ``none``."""
    contexts: dict[str, str] = {}
    """Those with names: ``image``, which ``images`` says, or ``files``: these stand in front of the
    build context, in this order.
    """
    ignore: bytes = b""
    """``.dockerignore``, for warnings: what it says is left out of the body already."""
    ignore_name: str = ""
    images: dict[str, str] = {}
    """What the names of images mean: ``NAME PLATFORM`` to the id."""
    tags: tuple[str, ...] = ()
    arguments: dict[str, str] = {}
    labels: dict[str, str] = {}
    target: str = ""
    platforms: tuple[str, ...] = ()
    """Several: an image for each, which have the names together; none: this host's."""
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    network: str = ""
    """Of RUN: none, default (empty), a network."""
    allow: tuple[str, ...] = ()
    """What single steps may ask for: network.host, security.insecure."""
    hosts: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    shm: int = 0
    memory: int = 0
    apart: bool = False
    """What RUN says on standard error is told apart; then it need not come in its order."""
    isolation: Isolation = "container"
    """Of the machines of RUN."""
    secrets: dict[str, bytes] = {}
    cache_from: tuple[str, ...] = ()
    """Ids of images that say of their layers which steps made them."""
    cache_to: tuple[str, ...] = ()
    """min, max: images to be made of what this build took from the cache or made."""
    cache_inline: bool = False
    """The result is such an image, too."""
    holder: str = ""
    """Who has the images of ``cache_to`` for himself alone, until he says ``ImageRemove``."""
    passing: bool = False
    """He has the result, too: it is only asked for as files."""
    ssh: dict[str, str] = {}
    """Agents for RUN --mount=type=ssh: an id, and the path of a socket of this host."""
    known_hosts: bytes = b""
    """With an agent: keys of hosts, for git over ssh."""
    logins: dict[str, Login] = {}
    """By the registry's name."""


class BuildStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happens in a build; the last one has ``event`` ``done``."""

    event: str
    """begin, log, end, failed, warning, done."""
    number: int = 0
    """Of the step, from 1 on in the order in which they begin."""
    title: str = ""
    """With ``begin``: ``[build 2/5] RUN make``."""
    stage: int = -1
    place: int = 0
    """With ``begin``: its stage, and the how manieth there; FROM and what makes layers count."""
    code: int = 0
    """With ``failed``: its program's exit code."""
    text: bytes = b""
    """With ``log``: what its program said, with ``code`` 2 on standard error; with
    ``failed`` and ``warning``: why."""
    time: float = 0.0
    """Seconds since the build began."""
    cached: bool = False
    """With ``end``: nothing was to be done."""
    image: str = ""
    """With ``done``: the image's id; of several that of the one for this host."""
    images: tuple[str, ...] = ()
    """With ``done``: all ids, in the order of the platforms that were asked for."""
    tags: tuple[str, ...] = ()
    caches: dict[str, str] = {}
    """With ``done``: ids of the images that ``cache_to`` asked for."""


class BuildPrune(msgspec.Struct, frozen=True):
    """Forget what steps have made. Bytes; 0: none. With any of the limits only as much as they ask
    for goes, what was used longest ago first.
    """

    older: float = 0.0
    """Only what was not used for so many seconds."""
    reserved: int = 0
    """What may always stay."""
    most: int = 0
    """What may stay at most."""
    free: int = 0
    """What shall be free on the disk."""
    kinds: tuple[str, ...] = ()
    """Only these: ``REGULAR``, ``MOUNT``."""


class BuildPruned(msgspec.Struct, frozen=True):
    keys: tuple[str, ...]
    """Of steps, and names of cache mounts."""
    reclaimed: int
