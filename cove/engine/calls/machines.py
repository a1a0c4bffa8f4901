"""The verbs of machines. A machine is named by the user's own words: name, id, prefix of the id."""

from __future__ import annotations

from typing import Literal

import msgspec

from cove.spec.machine import ExecSpec, MachineSpec
from cove.store.records import Cause, ImageRecord, MachineRecord

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
    bound: bool = False
    """The machine is killed when its session is lost: it never outlives who asked for it."""


class Start(msgspec.Struct, frozen=True):
    machine: str
    attach: Streams = ()
    sig_proxy: bool = True
    detach_keys: str = ""
    """Empty: those of the machine's spec."""
    begun: bool = False
    """With a session, too: answer once its program runs."""


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
    bound: bool = False
    """As for ``Run``; what the process has started goes on."""
    id: str = ""
    """64 hexadecimal digits; empty: some are chosen."""


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
    link: str = ""
    """Only what it calls another machine so, and not the machine."""


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
    emulation: str = ""
    """``linux/arm64 by qemu-aarch64 on x86_64``, or ``by qemu-system-aarch64``; empty: its programs
    are of this host's CPU."""
    emulator: tuple[str, ...] = ()
    """Of a virtual machine that runs: its emulator's command line."""
    sizes: Sizes | None = None
    volumes: dict[str, str] = {}
    """The directory of each volume that it has, by name."""


class Logs(msgspec.Struct, frozen=True):
    machine: str
    follow: bool = False
    tail: int = -1
    """Last lines; -1: all."""
    since: float = 0.0
    until: float = 0.0
    streams: Streams = ("stdout", "stderr")
    notes: bool = False
    """Also what the log says about itself, as stream 0."""
    merged: bool = False
    """Neighbouring pieces of one stream as one, with the time of the last."""
    positions: bool = False
    """Say where reading goes on; the first entry may be empty."""
    position: str = ""
    """Of an entry that was read before: go on behind it."""
    fresh: bool = False
    """Without ``follow``: of a program that began this moment the first word is waited for."""


class LogEntry(msgspec.Struct, frozen=True):
    """A piece of output as the machine wrote it; not cut at lines."""

    time_ns: int
    stream: int
    """1 or 2; 0: what the log says about itself."""
    data: bytes
    position: str = ""
    """Where reading goes on behind it; empty: together with the entries that follow."""


class PlanRequest(msgspec.Struct, frozen=True):
    spec: MachineSpec
    json: bool = False


class Planned(msgspec.Struct, frozen=True):
    text: str
