"""The verbs about cove itself and this host."""

from __future__ import annotations

import msgspec

from cove.plan.facts import Facts


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
    emulated: tuple[str, ...] = ()
    """Platforms of other CPUs whose images run here."""
    warnings: tuple[str, ...] = ()
    virtual: str = ""
    """How virtual machines run here: ``KVM``, ``emulated: why``, or what they lack."""
    emulated_guests: tuple[str, ...] = ()
    """Virtual machines of other CPUs: platform, and what makes them or what they lack."""
    docker_socket: str = ""
    """Where Docker's API is served."""
    settings: dict[str, str] = {}
    """The daemon's variables, by name; of a proxy with a login only the name."""
