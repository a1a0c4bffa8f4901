"""What the user asked for, as frozen data: the machine spec. Sizes are bytes, times seconds.

The parsers of Docker-style values are in ``values``; checks that need the whole spec in ``check``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from cove.spec.health import Health
from cove.spec.network import ALONE, Connection, machine_of
from cove.spec.policy import Policy
from cove.spec.ports import Publish
from cove.spec.restart import Restart

Isolation = Literal["container", "vm"]


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mount into the machine, from ``-v``, ``--mount`` or ``--tmpfs``."""

    type: Literal["bind", "volume", "tmpfs", "image"]
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = "rprivate"
    recursive: bool = True
    create_source: bool = False
    """``-v`` makes a missing host directory, as Docker does; ``--mount`` refuses."""
    size: int = 0
    mode: int = 0o1777
    options: tuple[str, ...] = ()
    within: str = ""
    """Of a bind: a directory below which ``source`` is and no link is followed: cove's own, with
    what strangers sent."""
    socket: bool = False
    """Of a bind with ``within``: an agent's socket, for the step of a build, which a guest has one
    of its own for."""
    copy: bool = True
    """A volume that is empty gets what the image has there."""
    subpath: str = ""
    """Of a volume: only this part of it."""
    above: tuple[str, ...] = ()
    """Of an image: diff IDs of layers above its own; cove's own, for the steps of builds."""
    labels: dict[str, str] = {}
    driver_options: dict[str, str] = {}
    """Of a volume that is made for it."""
    anonymous: bool = False
    """The volume was made for this machine alone; its name nobody chose."""
    idmap: str = "none"
    """``caller``, until it is known who that is; then ``UID:GID`` of the host, which are root's
    inside, and every other id is nobody's.
    """
    words: str = ""
    """Of ``--tmpfs``: its options as they were typed, which who reads them back expects."""
    origin: str = ""
    """What was typed, for messages: ``--mount type=bind,source=/a,target=/b``."""


class Device(msgspec.Struct, frozen=True, omit_defaults=True):
    source: str
    target: str
    access: str = "rwm"
    origin: str = ""


class Ulimit(msgspec.Struct, frozen=True):
    """``-1`` is unlimited."""

    name: str
    soft: int
    hard: int


class DeviceRate(msgspec.Struct, frozen=True):
    """How fast a block device of the host may be used."""

    path: str
    kind: Literal["read-bps", "write-bps", "read-iops", "write-iops"]
    rate: int
    """Bytes or operations in a second."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """0 means: not limited (``pids``: cove's default)."""

    memory: int = 0
    memory_swap: int = 0
    """Memory plus swap as in Docker; -1: unlimited swap."""
    memory_reservation: int = 0
    cpus: float = 0.0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    """-1: unlimited."""
    storage: int = 0
    """Of the writable layer; 0: cove's default."""
    shm: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0
    blkio_weight: int = 0
    """10 to 1000, beside other machines."""
    rates: tuple[DeviceRate, ...] = ()


class Security(msgspec.Struct, frozen=True, omit_defaults=True):
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    """Without ``CAP_``, upper case, or ``ALL``."""
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = True
    seccomp: str = "default"
    """``default``, ``unconfined``, or the JSON text of a profile in Docker's form."""
    masked: bool = True
    """``systempaths=unconfined`` turns masked and read-only paths off."""
    userns: Literal["machine", "host"] = "machine"
    read_only: bool = False


class MachineSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    image: str
    """As typed."""
    command: tuple[str, ...] = ()
    """Empty: the image's."""
    entrypoint: tuple[str, ...] | None = None
    """None: the image's; empty: none."""
    name: str = ""
    isolation: Isolation = "container"
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    workdir: str = ""
    env: tuple[str, ...] = ()
    """``KEY=value``; already resolved against the caller's environment."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    tty: bool = False
    stdin_open: bool = False
    attached: tuple[str, ...] | None = None
    """Which of stdin, stdout and stderr its maker was to attach to, for clients to read back; None:
    the outputs, and stdin where it is open.
    """
    stdin_once: bool | None = None
    """Said beside it; None: of an open stdin that is attached."""
    remove: bool = False
    restart: Restart = Restart()
    health: Health = Health()
    init: bool = False
    detach_keys: str = "ctrl-p,ctrl-q"
    stop_signal: str = ""
    """Empty: the image's, else SIGTERM."""
    stop_timeout: int | None = None
    timeout: float = 0.0
    """Of one run, from its start; 0: none. cove's own."""
    network: str = "none"
    ip: str = ""
    mac: str = ""
    """On that network; empty: cove chooses."""
    aliases: tuple[str, ...] = ()
    """What else it is called there."""
    ip6: str = ""
    forwards: bool = False
    """On that network; see ``Connection``."""
    network_links: tuple[str, ...] = ()
    driver_options: dict[str, str] = {}
    """On that network; see ``Connection``."""
    links: tuple[str, ...] = ()
    """Of others, on every network: ``NAME:ALIAS``; what they serve is told in variables."""
    policy: Policy | None = None
    """Where it may begin conversations; None: wherever its networks lead."""
    connections: tuple[Connection, ...] = ()
    """More networks."""
    ports: tuple[Publish, ...] = ()
    publish_all: bool = False
    """What is exposed, too, each through a port that is free."""
    expose: tuple[str, ...] = ()
    """``80/tcp``."""
    extra_hosts: tuple[str, ...] = ()
    """``host:address``."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    """Domains; ``.`` alone: none."""
    dns_options: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[str, ...] = ()
    """Machines whose binds and volumes it has too: ``NAME``, ``NAME:ro``."""
    volume_driver: str = ""
    """Of the volumes that it makes; only ``local`` makes any."""
    devices: tuple[Device, ...] = ()
    device_rules: tuple[str, ...] = ()
    """What may be opened besides, where a bind shows its node: ``c 188:* rwm``."""
    uts: str = ""
    """``host``: it is called as the host is when it starts."""
    sysctls: tuple[tuple[str, str], ...] = ()
    limits: Limits = Limits()
    security: Security = Security()
    log_driver: str = "local"
    """local or json-file, which are the same log here, or none."""
    log_max: int = 20 << 20
    """Bytes of one of its files; 0: no end."""
    log_files: int = 5
    storage_opt: str = ""
    """``limits.storage`` as it was asked for: ``120G``."""
    runtime: str = ""
    """As it was asked for: a name of what is there anyway."""
    platform: str = ""
    emulate: tuple[str, ...] = ()
    """Architectures whose programs it runs besides its image's own; asked for by ``bootstrap``."""
    snapshot: str = ""
    """Its root begins as this snapshot was, not as the image is."""


def connections_of(spec: MachineSpec) -> tuple[Connection, ...]:
    """Every network that it asks for, in order."""
    if spec.network in ALONE or machine_of(spec.network):
        return ()
    first = Connection(
        spec.network, spec.ip, spec.mac, spec.aliases, spec.ip6, spec.forwards, spec.network_links,
        spec.driver_options,
    )  # fmt: skip
    return (first, *spec.connections)


def with_connections(spec: MachineSpec, wishes: Sequence[Connection]) -> MachineSpec:
    """The same machine on these networks."""
    first = wishes[0] if wishes else Connection("none")
    return msgspec.structs.replace(
        spec, network=first.network, ip=first.ip, mac=first.mac, aliases=first.aliases,
        ip6=first.ip6, forwards=first.forwards, network_links=first.links,
        driver_options=first.driver_options, connections=tuple(wishes[1:]),
    )  # fmt: skip


class ExecSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One more process in a running machine."""

    command: tuple[str, ...]
    user: str = ""
    workdir: str = ""
    env: tuple[str, ...] = ()
    tty: bool = False
    stdin_open: bool = False
    privileged: bool = False
    detach_keys: str = "ctrl-p,ctrl-q"
