"""The verbs that change a machine that exists: pause, rename, restart, update, and prune."""

from __future__ import annotations

import msgspec

from cove.spec.restart import Restart as Policy


class Pause(msgspec.Struct, frozen=True):
    machine: str


class Unpause(msgspec.Struct, frozen=True):
    machine: str


class Rename(msgspec.Struct, frozen=True):
    machine: str
    name: str


class Restart(msgspec.Struct, frozen=True):
    machine: str
    timeout: int | None = None
    """Seconds until SIGKILL; None: the machine's own; -1: never."""
    signal: str = ""
    """Empty: the machine's own."""


class Update(msgspec.Struct, frozen=True):
    """Other limits for a machine, at once and for its next start; another restart policy. 0 and
    empty: as it is.
    """

    machine: str
    memory: int = 0
    memory_swap: int = 0
    """Memory and swap together; -1: unlimited swap."""
    memory_reservation: int = 0
    cpus: float = 0.0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    blkio_weight: int = 0
    pids: int | None = None
    """None: as it is; 0: cove's default; -1: unlimited."""
    restart: Policy | None = None
    """None: as it is."""


class Prune(msgspec.Struct, frozen=True):
    """Remove the machines that do not run."""

    until: float = 0.0
    """Only those made before; 0: whenever."""
    labels: tuple[str, ...] = ()
    """Only those with all of these: ``name`` or ``name=value``."""
    without: tuple[str, ...] = ()
    """Only those with none of these."""


class Pruned(msgspec.Struct, frozen=True):
    ids: tuple[str, ...]
    reclaimed: int
    """Bytes of their writable layers."""
