"""The records of the state directory, as frozen data. Times are Unix seconds."""

from __future__ import annotations

import msgspec

from cove.spec.health import Check, State
from cove.spec.machine import Limits, MachineSpec, Mount


class Cause(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a machine ended, from a real event."""

    kind: str
    """exit, signal, oom, pids, timeout, storage, files, seccomp, start, monitor."""
    text: str = ""
    """One line for people: ``out of memory: python3 (pid 17) used 64.2 MiB of 64 MiB``."""
    signal: int = 0
    process: str = ""
    pid: int = 0
    amount: int = 0
    limit: int = 0
    syscalls: tuple[str, ...] = ()
    """System calls seccomp refused, by name, in order of first refusal."""


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine's place on a network, while it runs."""

    network: str
    """The network's id."""
    name: str
    """Its name."""
    link: str
    """The host's end of the pair."""
    index: int
    """The machine's end is eth<index>."""
    address: str
    """With the prefix of the subnet: 10.1.2.3/24."""
    gateway: str
    mac: str
    resolver: str = ""
    """The address of the network's name server."""
    default: bool = False
    """Its gateway is where packets go that are for no network of the machine's."""
    address6: str = ""
    """Its IPv6 address, where the network has them: fd00::2/64."""
    gateway6: str = ""
    ruled: bool = False
    """The machine has a network policy: its packets are led through the host."""
    aliases: tuple[str, ...] = ()
    """What the machine is called on this network, besides its own name."""
    forwards: bool = False
    """It may send there what others sent."""


class Published(msgspec.Struct, frozen=True, omit_defaults=True):
    """A port of the host that leads to one of a machine, while it runs."""

    id: int
    """Of this machine's."""
    ip: str
    host: int
    port: int
    """The machine's."""
    protocol: str = "tcp"


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a machine's network policy did not let it go."""

    address: str
    protocol: str
    port: int
    """0: of what has none."""
    packets: int
    last: float


class MachineRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A machine. ``key`` is a small integer, unique among all machines that were ever in this
    store.
    """

    key: int
    id: str
    """64 hexadecimal digits."""
    name: str
    spec: MachineSpec
    image: str
    """The image's id: sha256:<config digest>, or ``host``."""
    state: str
    """created, running, paused, exited, dead; restarting: it ended, and its restart policy starts
    it again.
    """
    created: float
    argv: tuple[str, ...] = ()
    """Entrypoint and command as started."""
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    cause: Cause = Cause("")
    id_range: int = -1
    """Index of the machine's 64 Ki id range while it runs; -1: none."""
    group: str = ""
    """Name of its control group while it runs."""
    pid: int = 0
    boot: str = ""
    """The kernel's boot_id at start: a record of another boot cannot be running."""
    deadline: float = 0.0
    """When --timeout ends it; 0: never."""
    stopping: bool = False
    """The user asked for it to stop (restart policies, messages)."""
    restarts: int = 0
    """How often its restart policy started it since it was last started by hand."""
    retry: float = 0.0
    """While it is ``restarting``: when its restart policy starts it again."""
    delay: float = 0.0
    """What the policy waited the last time; 0: it was last started by hand."""
    restarting: bool = False
    """A restart was begun: it ends in order to start again, also when it is ephemeral."""
    mounts_before: tuple[Mount, ...] | None = None
    """While its mounts are changed in a container that runs: what they were."""
    limits_before: Limits | None = None
    """While an update is under way: what its limits were."""
    strata: tuple[int, ...] = ()
    """Keys of the writable layers of others that it begins with, above the image, lowest first."""
    own: int = 0
    """Key of its own writable layer; 0: the machine's."""
    snapshot: str = ""
    """Id of the snapshot that it stands on: the last one taken or restored."""
    disk: int = 0
    """Of a virtual machine: which of the disks in its directory is its own; another one after each
    restore.
    """
    resume: str = ""
    """Of a virtual machine: id of the snapshot that its next start goes on from."""
    restoring: str = ""
    """While a restore of a machine that ran is under way: id of the snapshot."""
    endpoints: tuple[Endpoint, ...] = ()
    """Written before the links are made, taken away after they are gone."""
    refused: tuple[Refused, ...] = ()
    """After an end: what its network policy refused, the last first, and how many packets."""
    refusals: int = 0
    exposed: tuple[str, ...] = ()
    """Ports that its image or its spec names: ``80/tcp``."""
    published: tuple[Published, ...] = ()
    """Written before anybody else has the sockets, taken away after nobody has."""
    check: Check | None = None
    """How its health is asked for: the image's HEALTHCHECK, and what the spec says."""
    health: State | None = None
    """What came of it, of this run or the last; answers that changed nothing are not written."""
    build: str = ""
    """Of a step of a build, whose id this is: it ends with the daemon, and its image is not known
    to anybody yet.
    """
    layers: tuple[str, ...] = ()
    """Of such a step: diff IDs of what it stands on above its image."""

    @property
    def upper(self) -> int:
        """Key of its writable layer: another one after a snapshot or a restore."""
        return self.own or self.key


class LayerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An unpacked layer: directory roots/l<key>."""

    key: int
    diff_id: str
    size: int
    """Bytes unpacked."""
    created: float
    implied: tuple[str, ...] = ()
    """Directories that have no entry of their own in the layer, as latin-1: in an image they are
    what the layers below say.
    """
    tree: str = ""
    """What it looked like soon after it was unpacked: entries, bytes, digest; empty: unknown."""
    broken: bool = False
    """It is not that any more: whoever brings the layer again replaces it."""
    tar: int = 0
    """Bytes of the archive it was unpacked from, which its recipe makes of it again; 0: it has no
    recipe.
    """
    packed: dict[str, tuple[str, int]] = {}
    """gzip, zstd: digest and size of the archive once it was compressed, for who asks a registry
    whether it has it.
    """
    blob: tuple[str, int] = ("", 0)
    """Digest and size of the compressed archive it was unpacked from, whose bytes are kept."""


class CacheRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a step of a build made, by what it was made of."""

    key: str
    """64 hexadecimal digits."""
    diff_id: str
    """Of the layer."""
    created: float
    used: float
    title: str = ""
    """The instruction, for people."""


class StratumRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A writable layer, roots/u<key>, that nobody writes any more: machines and snapshots stand on
    it. It goes with the last of them.
    """

    key: int
    created: float


class SnapshotRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine was at a moment."""

    id: str
    """64 hexadecimal digits."""
    name: str
    machine: str
    """Id of the machine it was taken of, which may be gone."""
    machine_name: str
    spec: MachineSpec
    image: str
    """The image's id."""
    created: float
    argv: tuple[str, ...] = ()
    strata: tuple[int, ...] = ()
    """Above the image, lowest first."""
    parent: str = ""
    """Id of the snapshot that the machine stood on."""
    kind: str = "file system"
    """``disk``, ``disk and memory``: of virtual machines."""
    pause: float = 0.0
    """Seconds for which a virtual machine stood still."""


class NetworkRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A network. What of it is in the kernel is made when a machine first joins it."""

    key: int
    id: str
    """64 hexadecimal digits."""
    name: str
    subnet: str
    gateway: str
    created: float
    range: str = ""
    """Where addresses of machines are taken from; empty: the whole subnet."""
    driver: str = "bridge"
    internal: bool = False
    labels: dict[str, str] = {}
    made: bool = False
    """Something of it may be in the kernel."""
    resolver: str = ""
    """The address of its name server."""
    forwarding: bool = False
    """The host did not forward packets before this network: switched off again when it goes."""
    closed: tuple[str, ...] = ()
    """Bridges and pairs of others that were there then, for which the host did not forward."""
    subnet6: str = ""
    """Empty: it has no IPv6."""
    gateway6: str = ""
    range6: str = ""
    forwarding6: bool = False
    reserved: dict[str, str] = {}
    """Addresses that no machine is given, by what has them."""
    ipam_options: dict[str, str] | None = {}
    """As they were asked for."""
    listening: tuple[str, ...] = ()
    """Interfaces that were told to hear routers although the host forwards IPv6."""


class VolumeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A volume: directory volumes/<name>, with ``_data``."""

    name: str
    created: float
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    """Made for one machine; its name nobody chose."""
    loose: bool = False
    """It goes unless a machine that has it is recorded."""
    making: bool = False
    """Its directory may not be there yet."""
    removing: bool = False
    """Its directory may be gone already."""
    used: float = 0.0
    """When a build last had it."""


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image: its config blob and its layers, lowest first."""

    id: str
    """sha256:<config digest>."""
    config: dict[str, object]
    """The OCI image config, as JSON data."""
    layers: tuple[str, ...]
    """diff IDs, lowest first."""
    size: int
    created: float
    manifest: str = ""
    """Digest of the manifest it came with, if any."""
    digests: tuple[str, ...] = ()
    parent: str = ""
    """Id of the image that a machine was made from which was committed as this one."""
    holders: tuple[str, ...] = ()
    """Commands that have it for themselves alone: it goes with the last of them."""


class IndexRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name that means several images, one for each platform. What it means where no platform is
    named is with the other names.
    """

    name: str
    """The full reference."""
    images: tuple[str, ...]
    """Ids, in the order of the index."""
    document: bytes = b""
    """The index as it came, if it did."""


class LeftoverRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a pull fetches, written before its first byte: where the pull is cut off, these layers
    and parts of blobs are kept for the next one.
    """

    name: str
    """The full reference, and the platform."""
    layers: tuple[str, ...]
    """diff IDs."""
    blobs: tuple[str, ...]
    """Digests of the coded layers."""
    time: float
