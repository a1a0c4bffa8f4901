"""(guest, facts) -> QEMU's command line, each option with its reason.

Files and channels come by descriptor, named by number: QEMU opens no path of the host but its own
firmware. Nothing of a machine's image or spec is text in it but numbers and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cove.errors import Bug, Unsupported
from cove.plan.facts import Facts
from cove.planner.why import default, option, size

MEBIBYTE = 1 << 20
SERIAL = re.compile(r"[a-z][a-z0-9-]{0,19}")
"""What a guest finds a disk by: virtio has 20 bytes for it."""
MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")

AGENT_PORT = "cove.agent"
"""By this name the agent finds its channel."""
LATER = "cove.later"
"""To the agent: drivers that few machines need."""
EXIT_PORT = 0x501
"""x86-64: a byte written here ends QEMU with the exit code ``byte * 2 + 1``."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A guest kernel, as far as the command line depends on it."""

    kernel: int
    """Descriptor of the vmlinux (x86-64) or Image (arm64)."""
    initrd: int
    hz: int = 250
    options: frozenset[str] = frozenset()
    """Of its configuration, those of ``WATCHED`` that are set."""

    @property
    def needs_acpi(self) -> bool:
        return not self.options >= BARE


BARE = frozenset({"VIRTIO_MMIO_CMDLINE_DEVICES", "X86_MPPARSE"})
"""With these an x86 kernel finds devices and CPUs without ACPI, which it then need not read."""
WATCHED = BARE | {"CRYPTO_MANAGER", "KFENCE", "PSI", "SOFTLOCKUP_DETECTOR", "TRANSPARENT_HUGEPAGE"}
"""Options of a kernel's configuration that a command line depends on."""


@dataclass(frozen=True, slots=True)
class Disk:
    serial: str
    fd: int
    read_only: bool
    durable: bool = False
    """What the guest says must be on the disk is put there."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Nic:
    mac: str
    tap: int = -1
    """Descriptor; -1: it leads nowhere, for good."""


@dataclass(frozen=True, slots=True)
class Share:
    """Directories of the host, by a file server's socket; it sees the guest's memory."""

    tag: str
    fd: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A virtual machine without its content: what QEMU must be told."""

    arch: str
    """As ``uname -m``."""
    memory: int
    """Bytes of the guest's RAM."""
    cpus: int
    agent: int
    """Descriptor of a stream socket, as is ``qmp``."""
    console: int
    """Descriptor of a pipe to write to. A socket would hold 270 letters, which is no panic."""
    qmp: int
    kernel: Kernel | None = None
    """None: a clone, which has the template's in its memory."""
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    share: Share | None = None
    memory_fd: int = -1
    """Descriptor of the file that is the RAM; -1: QEMU's own memory."""
    shared: bool = False
    """What the guest writes is in that file: of a template to be, or for its file server."""
    listens: bool = False
    """The control socket is one that QEMU accepts connections on."""
    resumed: bool = False
    """A clone of a machine that ran: what it gets of the devices does not say of which machine."""
    acpi: bool = True
    """As the kernel needs it, or for a clone its template's: a machine keeps its shape."""


@dataclass(frozen=True, slots=True)
class Option:
    words: tuple[str, ...]
    why: str
    parts: tuple[tuple[str, str], ...] = field(default=())
    """What the last word is made of, each with its reason: the guest's own command line."""


def plan_qemu(guest: Guest, facts: Facts) -> tuple[Option, ...]:
    """All of the command line but the program's name."""
    if guest.arch not in MACHINES:
        raise Unsupported(f"cannot make a virtual machine for {guest.arch}: no such guest")
    _check(guest)
    return (
        *_machine(guest, facts),
        *_kernel(guest, facts),
        *_channels(guest),
        *(found for index, disk in enumerate(guest.disks) for found in _disk(index, disk)),
        *(found for index, nic in enumerate(guest.nics) for found in _nic(index, nic)),
        *_share(guest),
        *_ends(guest),
    )


def program(guest: Guest) -> str:
    return f"qemu-system-{guest.arch}"


def path_of(arch: str) -> str:
    """Where a jail, which sees the host's /usr, has the program for guests of this CPU."""
    return f"/usr/bin/qemu-system-{arch}"


def argv(options: tuple[Option, ...]) -> tuple[str, ...]:
    return tuple(word for found in options for word in found.words)


def render(guest: Guest, options: tuple[Option, ...]) -> str:
    """As people read it: an option a line, its reason behind it."""
    lines = [f"{program(guest)}\n"]
    for found in options:
        shown = found.words[:-1] if found.parts else found.words
        lines.append(f"{'  ' + ' '.join(shown):<84}  # {found.why}\n")
        lines += [f"{'      ' + word:<84}  # {why}\n" for word, why in found.parts]
    return "".join(lines)


def emulated(guest: Guest, facts: Facts) -> bool:
    """QEMU translates the guest's instructions: KVM was not proven, or the CPU is another one."""
    return not (facts.kvm and facts.arch == guest.arch)


def _check(guest: Guest) -> None:
    """Values from elsewhere stand between commas here: none may say more than itself."""
    for disk in guest.disks:
        if not SERIAL.fullmatch(disk.serial):
            raise Bug(f"cannot name a disk {disk.serial!r}")
    for nic in guest.nics:
        if not MAC.fullmatch(nic.mac):
            raise Bug(f"cannot use {nic.mac!r} as an address")
    kind = MACHINES[guest.arch]
    used = 1 + len(guest.disks) + len(guest.nics) + (guest.share is not None)
    if not guest.acpi and used > kind.devices:
        raise Unsupported(
            f"cannot give a virtual machine {used} devices: this guest kernel finds {kind.devices}",
            hint="directories share one device, disks have one each; a kernel with ACPI "
            "(cove kernel fetch) finds more",
        )
    if guest.shared and guest.memory_fd < 0:
        raise Bug("cannot share memory that is no file")
    if guest.share is not None and not (guest.shared and SERIAL.fullmatch(guest.share.tag)):
        raise Bug("cannot share directories without sharing memory")


# ---- the machine ----


@dataclass(frozen=True, slots=True)
class _Machine:
    name: str
    why: str
    cpu: str
    cpu_why: str
    host_name: str
    """Under KVM, as the next one."""
    host_cpu: str
    console: str
    max_cpus: int
    devices: int
    """Places for those of virtio, where the guest's kernel has no ACPI."""
    package: str
    """Debian's, with the program."""


MACHINES = {
    "x86_64": _Machine(
        "microvm",
        default("no PCI, no BIOS devices: little to emulate, and little to attack"),
        "qemu64,+arat,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq",
        default("x86-64-v2, as current distributions want; +arat: idle without a tick; +rdrand: "
                "entropy of the host"),
        "microvm",
        # A guest that trusts the host's ARCH_CAPABILITIES hangs where the host is a guest itself.
        "host,-arch-capabilities",
        "ttyS0",
        64,
        8,
        "qemu-system-x86",
    ),
    "aarch64": _Machine(
        "virt,gic-version=2",
        default("the only machine without firmware; this interrupt controller starts fastest"),
        "cortex-a53",
        default("plain armv8: a richer CPU takes four times as long to start"),
        "virt,gic-version=host",
        "host",
        "ttyAMA0",
        8,
        32,
        "qemu-system-arm",
    ),
}  # fmt: skip


def _machine(guest: Guest, facts: Facts) -> Iterator[Option]:
    kind = MACHINES[guest.arch]
    if guest.cpus > kind.max_cpus:
        raise Unsupported(
            f"cannot give a virtual machine {guest.cpus} CPUs: at most {kind.max_cpus}",
            origin=option("cpus", guest.cpus),
        )
    words = kind.name if emulated(guest, facts) else kind.host_name
    if guest.arch == "x86_64" and not guest.acpi:
        words += ",acpi=off"
    if guest.memory_fd >= 0:
        words += ",memory-backend=ram"
    yield Option(("-M", words + ",dump-guest-core=off"), kind.why)
    if emulated(guest, facts):
        yield Option(("-accel", "tcg,tb-size=64"), _why_tcg(guest, facts))
        yield Option(("-cpu", kind.cpu), kind.cpu_why)
    else:
        yield Option(("-accel", "kvm"), default("a trial boot under KVM passed on this host"))
        yield Option(("-cpu", kind.host_cpu), default("the host's own CPU"))
    yield Option(("-smp", str(guest.cpus)), option("cpus", guest.cpus))
    yield from _memory(guest)
    yield Option(("-nodefaults", "-no-user-config"), default("no device that is not named here"))
    yield Option(("-display", "none"), default("no screen"))


def _why_tcg(guest: Guest, facts: Facts) -> str:
    if facts.arch != guest.arch:
        return default(f"{guest.arch} is emulated on {facts.arch}")
    return default("no trial boot under KVM passed on this host: emulated")


def _memory(guest: Guest) -> Iterator[Option]:
    mebibytes = guest.memory // MEBIBYTE
    if mebibytes < 1 or guest.memory % MEBIBYTE:
        raise Bug(f"cannot give a guest {guest.memory} bytes of memory: no whole MiB")
    yield Option(("-m", f"{mebibytes}M"), option("memory", size(guest.memory)))
    if guest.memory_fd < 0:
        return
    share = "on" if guest.shared else "off"
    why = "what the guest writes becomes the template" if guest.shared else "copied on write"
    if guest.share is not None:
        why = "its file server reads and writes there"
    backend = (
        f"memory-backend-file,id=ram,size={mebibytes}M,mem-path=/proc/self/fd/{guest.memory_fd},"
        f"share={share},dump=off"
    )
    yield Option(("-object", backend), default(why))


# ---- the kernel ----


def _kernel(guest: Guest, facts: Facts) -> Iterator[Option]:
    kernel = guest.kernel
    if kernel is None:
        if guest.resumed:
            yield Option(
                ("-global", "migration.send-configuration=off"),
                default("what was saved of the devices has no such section"),
            )
        stood = "its machine" if guest.resumed else "the template"
        yield Option(("-incoming", "defer"), default(f"it goes on where {stood} stood"))
        return
    yield Option(
        ("-kernel", f"/proc/self/fd/{kernel.kernel}"),
        default("entered directly: no firmware looks for a disk"),
    )
    yield Option(("-initrd", f"/proc/self/fd/{kernel.initrd}"), default("agent and drivers"))
    parts = tuple(_words(guest, kernel, facts))
    text = " ".join(word for word, _ in parts)
    yield Option(("-append", text), default("the kernel's own command line"), parts)


def _words(guest: Guest, kernel: Kernel, facts: Facts) -> Iterator[tuple[str, str]]:
    tcg = emulated(guest, facts)
    if guest.arch == "x86_64" and tcg:
        if facts.tsc_khz:
            loops = facts.tsc_khz * 1000 // kernel.hz
            yield f"tsc_early_khz={facts.tsc_khz}", "calibrating it hangs on a loaded host"
            yield f"lpj={loops}", f"so does counting loops; {kernel.hz} ticks a second"
        yield "no_timer_check", "so does waiting for the timer's first tick"
        yield "tsc=reliable", "no other clock is there to compare it with"
        yield "noreplace-smp", "patching locks out for one CPU costs a fifth of an emulated boot"
    if tcg:
        yield "mitigations=off", "an emulated CPU does not speculate"
    yield from _quiet(kernel)
    yield "panic=-1", "a kernel that panics ends the machine at once"
    if guest.arch == "x86_64":
        yield "reboot=t", "by a triple fault: there is no keyboard controller to ask"
    yield f"console={MACHINES[guest.arch].console}", "where a panic is told"
    if guest.share is not None:
        yield LATER, "the agent loads what mounts them"
    yield "quiet", "each line costs time; a panic is told all the same"


def _quiet(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """What an ordinary kernel does while nothing happens, or before anything does."""
    for name, word, why in (
        ("CRYPTO_MANAGER", "cryptomgr.notests", "self-tests of ciphers nobody uses"),
        ("PSI", "psi=0", "wakes an idle guest every two seconds"),
        ("SOFTLOCKUP_DETECTOR", "nowatchdog", "a busy host is no fault of the guest's"),
        ("TRANSPARENT_HUGEPAGE", "transparent_hugepage=never", "makes a clone's memory large"),
        ("KFENCE", "kfence.sample_interval=0", "wakes an idle guest ten times a second"),
    ):
        if name in kernel.options:
            yield word, why


# ---- channels and devices ----


def _channels(guest: Guest) -> Iterator[Option]:
    yield Option(
        ("-add-fd", f"fd={guest.console},set=0",
         "-chardev", "file,id=console,path=/dev/fdset/0,append=on", "-serial", "chardev:console"),
        default("the kernel's last words; nothing is said to it"),
    )  # fmt: skip
    yield Option(
        (
            "-chardev",
            f"socket,id=qmp,fd={guest.qmp}{',server=on,wait=off' * guest.listens}",
            "-mon",
            "chardev=qmp,mode=control",
        ),
        default(
            "control, by a socket that a later daemon finds again"
            if guest.listens
            else "control, by a socket that has no name"
        ),
    )
    yield Option(
        ("-device", "virtio-serial-device,max_ports=2"), default("one port beside the console's")
    )
    yield Option(
        ("-chardev", f"socket,id=agent,fd={guest.agent}",
         "-device", f"virtserialport,chardev=agent,name={AGENT_PORT},nr=1"),
        default("the agent's channel"),
    )  # fmt: skip


def _disk(index: int, disk: Disk) -> Iterator[Option]:
    """A node ``raw``: under it the file is exchanged while the guest runs (``vm/qmp.py``)."""
    node, why = f"disk{index}", disk.why or default(f"disk {disk.serial}")
    mode = "on" if disk.read_only else "off"
    yield Option(("-add-fd", f"fd={disk.fd},set={2 * index + 1}"), why)
    words = [f"driver=raw,node-name={node},read-only={mode}"]
    words.append(f"file.driver=file,file.filename=/dev/fdset/{2 * index + 1}")
    words.append(f"file.read-only={mode}")
    if not disk.read_only:
        late = ("discard=unmap", *(() if disk.durable else ("cache.no-flush=on",)))
        words += [*late, *(f"file.{word}" for word in late)]
    yield Option(("-blockdev", ",".join(words)), _why_node(disk))
    yield Option(
        ("-device", f"virtio-blk-device,drive={node},serial={disk.serial}"),
        default("found by its serial: the guest's order of disks is not QEMU's"),
    )


def _why_node(disk: Disk) -> str:
    if disk.read_only:
        return default("the guest cannot write to it")
    if disk.durable:
        return default("it outlives machines: what they flush reaches the host's disk")
    return default("when it reaches the disk the host decides, as for a container's layer")


def _nic(index: int, nic: Nic) -> Iterator[Option]:
    if nic.tap >= 0:
        yield Option(
            ("-netdev", f"tap,id=net{index},fd={nic.tap},vhost=off"),
            default("its end on the host is put on networks and taken off them there"),
        )
    else:
        hub = f"hubport,id=net{index},hubid={index}"
        yield Option(("-netdev", hub), default("this host has no taps: it leads nowhere"))
    yield Option(
        ("-device", f"virtio-net-device,netdev=net{index},mac={nic.mac}"), default("its card")
    )


def _share(guest: Guest) -> Iterator[Option]:
    if guest.share is None:
        return
    tag, why = guest.share.tag, "-v: directories of the host, by a process in a jail of its own"
    yield Option(("-chardev", f"socket,id={tag},fd={guest.share.fd}"), why)
    yield Option(
        ("-global", "virtio-mmio.force-legacy=false"), default("file systems are modern devices")
    )
    yield Option(("-device", f"vhost-user-fs-device,chardev={tag},tag={tag}"), why)


def _ends(guest: Guest) -> Iterator[Option]:
    if guest.arch == "x86_64":
        yield Option(
            ("-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x02"),
            default("the agent ends the machine by it: in ten milliseconds, and told from a crash"),
        )
    yield Option(("-no-reboot",), default("a reset ends the machine: its restart policy decides"))
    yield Option(
        ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        default("what QEMU needs no more once it runs"),
    )
