"""The verbs of networks."""

from __future__ import annotations

import msgspec

from cove.spec.network import NetworkSpec
from cove.store.records import Endpoint, NetworkRecord, Refused


class NetworkCreate(msgspec.Struct, frozen=True):
    spec: NetworkSpec


class NetworkNamed(msgspec.Struct, frozen=True):
    id: str
    name: str


class Member(msgspec.Struct, frozen=True):
    """A machine on a network."""

    machine: str
    """Its id."""
    name: str
    endpoint: Endpoint


class Network(msgspec.Struct, frozen=True):
    record: NetworkRecord
    members: tuple[Member, ...] = ()
    """Those that run."""
    bridge: str = ""
    """The host's interface, once a machine has joined."""
    builtin: bool = False
    """host or none: no network, and always there."""


class NetworkList(msgspec.Struct, frozen=True):
    pass


class NetworksListed(msgspec.Struct, frozen=True):
    """The built-in ones first, then oldest first."""

    networks: tuple[Network, ...]


class NetworkInspect(msgspec.Struct, frozen=True):
    network: str


class NetworkRemove(msgspec.Struct, frozen=True):
    network: str


class NetworkPrune(msgspec.Struct, frozen=True):
    until: float = 0.0
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    """Names of some that stay."""


class NetworksPruned(msgspec.Struct, frozen=True):
    names: tuple[str, ...]


class NetworkConnect(msgspec.Struct, frozen=True):
    network: str
    machine: str
    ip: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    ip6: str = ""
    forwards: bool = False
    driver_options: dict[str, str] = {}
    links: tuple[str, ...] = ()


class NetworkDisconnect(msgspec.Struct, frozen=True):
    network: str
    machine: str
    force: bool = False


class NetworkRefused(msgspec.Struct, frozen=True):
    machine: str


class Refusals(msgspec.Struct, frozen=True):
    """What a machine's network policy refused in its last run, the last first."""

    policy: tuple[str, ...]
    refused: tuple[Refused, ...]
    packets: int
    """All of them, also to places that are not remembered."""
