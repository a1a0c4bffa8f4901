"""What each verb of the engine takes and answers, as frozen data; the verb table is in
``cove.client.verbs``.

Plain data only: no engine is imported here, so that a client outside the daemon can read it.
A machine is named by the user's own words (name, id or a prefix of the id). Times are Unix seconds,
sizes bytes.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

import msgspec

from cove.plan.facts import Facts
from cove.spec.machine import ExecSpec, MachineSpec
from cove.store.records import Cause, ImageRecord, MachineRecord

# ---- what comes with a call besides its parameters ----


@dataclass(frozen=True, slots=True)
class Session:
    """A caller's foreground: the engine hands it to a monitor, or gives it back by an error.

    ``front`` is a SEQPACKET socket that speaks the session messages of ``init/cove.h``; who hands
    the session over duplicates it. ``stdio`` are the caller's fds or -1 (then everything is
    relayed).
    """

    front: int
    stdio: tuple[int, int, int]
    terminals: int
    """Bits 1, 2, 4: fd 0, 1, 2 is a terminal."""
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Call:
    """Every method of the engine is ``method(params, call)``; most ignore ``call``."""

    session: Session | None = None
    body: int = -1
    """fd of the bytes sent along (load, import): a file, a pipe, or a directory for an OCI layout.
    """
    cancelled: threading.Event | None = None
    """Set when the caller gave up: streams and waits end soon after, without an error."""


# ---- machines ----

Streams = tuple[Literal["stdin", "stdout", "stderr"], ...]


class Create(msgspec.Struct, frozen=True):
    spec: MachineSpec


class Created(msgspec.Struct, frozen=True):
    id: str
    name: str
    warnings: tuple[str, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """Create and start in one call. With a session and ``attach``: answers nothing, the monitor
    goes on."""

    spec: MachineSpec
    attach: Streams = ()
    """Empty: detached."""
    sig_proxy: bool = True


class Start(msgspec.Struct, frozen=True):
    machine: str
    attach: Streams = ()
    sig_proxy: bool = True
    detach_keys: str = ""
    """Empty: those of the machine's spec."""


class Attach(msgspec.Struct, frozen=True):
    machine: str
    attach: Streams = ("stdin", "stdout", "stderr")
    sig_proxy: bool = True
    detach_keys: str = ""


class Exec(msgspec.Struct, frozen=True):
    machine: str
    spec: ExecSpec
    attach: Streams = ()
    """Empty: detached."""


class Started(msgspec.Struct, frozen=True):
    id: str
    name: str = ""


class Stop(msgspec.Struct, frozen=True):
    machine: str
    timeout: int | None = None
    """Seconds until SIGKILL; None: the machine's own; -1: never."""
    signal: str = ""
    """Empty: the machine's own."""


class Kill(msgspec.Struct, frozen=True):
    machine: str
    signal: str = "KILL"


class Wait(msgspec.Struct, frozen=True):
    machine: str
    condition: Literal["not-running", "next-exit", "removed"] = "not-running"


class Waited(msgspec.Struct, frozen=True):
    exit_code: int
    cause: Cause = Cause("")


class Remove(msgspec.Struct, frozen=True):
    machine: str
    force: bool = False
    volumes: bool = False
    """Anonymous volumes too."""


class Named(msgspec.Struct, frozen=True):
    """What a verb that only acts answers: whom it acted on."""

    id: str
    name: str


class List(msgspec.Struct, frozen=True):
    all: bool = False
    """Also machines that do not run."""
    sizes: bool = False


class Sizes(msgspec.Struct, frozen=True):
    writable: int
    root: int
    """Writable layer and image together."""


class Listed(msgspec.Struct, frozen=True):
    """Newest first."""

    machines: tuple[MachineRecord, ...]
    sizes: dict[str, Sizes] = {}
    """By id, when asked for."""


class Inspect(msgspec.Struct, frozen=True):
    machine: str
    sizes: bool = False


class Inspected(msgspec.Struct, frozen=True, omit_defaults=True):
    record: MachineRecord
    image: ImageRecord | None = None
    """None: the image is gone."""
    image_name: str = ""
    """A tag the image has now."""
    log_path: str = ""
    directory: str = ""
    """Of the machine in the state directory."""
    upper: str = ""
    """The writable layer."""
    layers: tuple[str, ...] = ()
    """Directories of the layers, lowest first."""
    cgroup: str = ""
    walls: tuple[str, ...] = ()
    """What stands between this machine and the host, one line each."""
    sizes: Sizes | None = None


class Logs(msgspec.Struct, frozen=True):
    machine: str
    follow: bool = False
    tail: int = -1
    """Last lines; -1: all."""
    since: float = 0.0
    until: float = 0.0
    streams: Streams = ("stdout", "stderr")


class LogEntry(msgspec.Struct, frozen=True):
    """A piece of output as the machine wrote it; not cut at lines."""

    time_ns: int
    stream: int
    """1 or 2."""
    data: bytes


class PlanRequest(msgspec.Struct, frozen=True):
    spec: MachineSpec
    json: bool = False


class Planned(msgspec.Struct, frozen=True):
    text: str


# ---- images ----


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


class ImageRemove(msgspec.Struct, frozen=True):
    image: str
    force: bool = False
    prune: bool = True
    """Remove untagged parents too; accepted for Docker's ``--no-prune``."""


class ImageRemoved(msgspec.Struct, frozen=True):
    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


class ImageLoad(msgspec.Struct, frozen=True):
    """A docker-archive, OCI archive or OCI layout directory, as ``Call.body``."""

    origin: str = ""
    """As typed, for messages."""


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

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


class ImagePull(msgspec.Struct, frozen=True):
    image: str
    platform: str = ""
    """``linux/arm64``; empty: this host's."""
    login: Login | None = None


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
    fresh: bool = False
    """With ``done``, of a pull: the image was not here under this name."""


# ---- the system ----


class Nothing(msgspec.Struct, frozen=True):
    pass


class Version(msgspec.Struct, frozen=True):
    version: str
    protocol: int
    """Of the verb table; a client of another number asks for an upgrade."""
    python: str
    kernel: str
    arch: str
    built: str = ""
    """Of cove-init: its compiler."""


class Info(msgspec.Struct, frozen=True):
    version: str
    root: str
    """The state directory."""
    facts: Facts
    machines: dict[str, int]
    """State to how many."""
    images: int
    disk_free: int
    disk_total: int
    pid: int
    started: float
    host: str = ""
    system: str = ""
    """PRETTY_NAME of os-release."""
    warnings: tuple[str, ...] = ()
