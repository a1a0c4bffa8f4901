"""Virtual machines as the engine starts them: what a container has as directories, pipes and
namespaces, they have as disks, sockets and a guest; the monitor, the plan and the record are the
same.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
import time
import uuid
from functools import lru_cache
from typing import Protocol

from cove.engine import files
from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.ranges import range_base
from cove.engine.vms.ground import (
    BOOT,
    card_registers,
    command,
    facts_inside,
    ground_for,
    passed_to,
    program,
)
from cove.errors import HostError
from cove.executor.messages import sealed_memory
from cove.linux.cgroups.tree import Group
from cove.plan import wire
from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.defaults import STORAGE
from cove.planner.virtual.cards import Link
from cove.planner.virtual.guest import Identity, plan_guest, plan_guest_exec
from cove.planner.virtual.jail import RUN_SYNC, jail_spec, plan_jail, plan_vm, plan_vm_exec
from cove.planner.virtual.volumes import NO_VOLUMES, SHARE, Volumes
from cove.roots.scratch import copy_sparse, make_scratch
from cove.spec.machine import ExecSpec, Limits, MachineSpec
from cove.store.records import Endpoint, MachineRecord
from cove.vm.kernels import Kernels

RUN = struct.Struct("<IIHH")
"""``struct guest_run`` of ``init/guest.h``: lengths of both parts, rows, columns."""

SEED = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW

MEBIBYTE = 1 << 20
MEMORY = 512 * MEBIBYTE
"""Of a guest whose machine has no limit."""
KERNEL_SHARE = 128 * MEBIBYTE
"""Of a guest's memory that its kernel takes before a machine's limit counts."""

PATIENCE, FOREVER = struct.pack("ll", 10, 0), struct.pack("ll", 0, 0)
"""Seconds in which the hub, which is the guest's neighbour in the jail, must take a caller."""

DISK_PATIENCE = 20.0
"""Seconds that an emulator which was ended may still have its machine's disk."""


def memory_of(limits: Limits) -> int:
    """Bytes of RAM of a machine's guest: a power of two, so that few templates serve all."""
    if limits.memory <= 0:
        return MEMORY
    size = MEMORY
    while size < limits.memory + KERNEL_SHARE:
        size *= 2
    return size


def cpus_of(limits: Limits, facts: Facts) -> int:
    """Whole CPUs; a fraction is the guest's group's to keep."""
    if limits.cpus:
        return max(1, min(facts.cpus, -int(-limits.cpus // 1)))
    return 1


def check_image(spec: MachineSpec, base: Base) -> None:
    """
    Raises:
        HostError: no disk can be made of the image.
    """
    if spec.isolation == "vm" and base.views:
        raise HostError(
            f"cannot run {spec.image} in a virtual machine: it shows the host's own directories, "
            "of which no disk is made",
            origin="--isolation vm",
            hint="use an image of your own: cove image bootstrap debian:bookworm",
        )


def jail_of(spec: MachineSpec) -> MachineSpec:
    return jail_spec(spec, memory=memory_of(spec.limits))


class Size(Protocol):
    """Of the caller's terminal."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...


def plan_start(
    home: Home,
    record: MachineRecord,
    base: Base,
    group: Group,
    directory: int,
    fds: Descriptors,
    size: Size | None,
    cards: tuple[int, ...],
    volumes: Volumes,
) -> Plan:
    """Everything the machine's emulator needs is opened and put into ``fds``; what is to be done
    with it is the plan.
    """
    spec = record.spec
    ground = ground_for(home, base)
    layout, facts = home.store.layout, ground.facts
    kernels = Kernels(layout)
    guest = guest_of(home, record, base, ground.inside, volumes)
    fds.mine("guestplan", memory_of_plan(guest, size))
    fds.mine("kernel", kernels.open_kernel(ground.kernel))
    fds.mine("initrd", kernels.open_initrd(ground.kernel, program(layout, ground.arch)))
    fds.mine("rootdisk", home.disks.open(home, base))
    fds.mine("scratch", open_scratch(home, record, directory))
    open_channels(home, record.key, directory, fds)
    largest = max((os.fstat(fds[disk.serial]).st_size for disk in volumes.disks), default=0)
    jail = jail_spec(spec, memory=memory_of(spec.limits), largest=largest)
    around = home.base(jail.image)
    place = _place(home, record, around, group, size)
    fds.update(card_registers(cards))
    memory, cpus = memory_of(spec.limits), cpus_of(spec.limits, facts)
    passed = passed_to(ground, (*BOOT, *(disk.serial for disk in volumes.disks)))
    if volumes.shared:
        fds.mine("memory", shared_memory(memory))
        passed += ("memory", SHARE)
    line = command(ground, memory, cpus, passed, volumes.disks)
    inside = plan_jail(jail, around.config, facts, place, emulator=line, passed=passed)
    return plan_vm(spec, place, inside, guest, how=how_it_ends(record))


def how_it_ends(record: MachineRecord) -> int:
    """What a step of a build wrote is read from its disk, whatever else becomes of the machine."""
    return RUN_SYNC if record.build else 0


def plan_more(
    home: Home,
    record: MachineRecord,
    spec: ExecSpec,
    base: Base,
    group: Group,
    fds: Descriptors,
    size: Size | None,
) -> Plan:
    """One more process in the guest."""
    hostname = files.hostname_of(record.spec, record.id)
    inside = facts_inside(home, base)
    guest = plan_guest_exec(spec, record.spec, base.config, inside, hostname=hostname)
    return plan_beside(home, record, spec, guest, group, fds, size)


def plan_beside(
    home: Home,
    record: MachineRecord,
    spec: ExecSpec,
    guest: Plan,
    group: Group,
    fds: Descriptors,
    size: Size | None,
    *,
    sync: bool = False,
) -> Plan:
    """A stand-in in the machine's jail for what ``guest`` starts in its guest; of ``spec`` only
    which streams there are. ``sync``: the disk is written before its end is told.
    """
    fds.mine("guestplan", memory_of_plan(guest, size))
    fds.mine("hub", connect_hub(home, record.key))
    jail = jail_of(record.spec)
    around = home.base(jail.image)
    place = _place(home, record, around, group, size)
    return plan_vm_exec(spec, jail, around.config, home.facts, place, guest, sync=sync)


def shared_memory(size: int) -> int:
    """Of a guest and its file server, neither of which changes its length under the other."""
    fd = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


def guest_of(
    home: Home,
    record: MachineRecord,
    base: Base,
    inside: Facts,
    volumes: Volumes = NO_VOLUMES,
) -> Plan:
    """What is to happen in the guest."""
    spec = home.whispered(record)
    hostname = files.hostname_of(spec, record.id)
    return plan_guest(
        spec,
        base.config,
        inside,
        identity_of(home, record, base),
        dict(files.texts(spec, hostname, files.address_of(record))),
        hostname=hostname,
        links=links_of(record),
        volumes=volumes,
        step=bool(record.build),
    )


def links_of(record: MachineRecord) -> tuple[Link, ...]:
    return tuple(map(link_of, record.endpoints))


def link_of(place: Endpoint) -> Link:
    gateway, gateway6 = (place.gateway, place.gateway6) if place.default else ("", "")
    return Link(
        place.index, place.name, place.mac, place.address, gateway, place.address6, gateway6
    )


def identity_of(home: Home, record: MachineRecord, base: Base) -> Identity:
    own = _has_machine_id(home.store.layout.roots, base.layers)
    machine_id = "" if own else record.id[:32]
    return Identity(os.urandom(64), time.time_ns(), str(uuid.uuid4()), machine_id)


@lru_cache(maxsize=256)
def _has_machine_id(roots: str, layers: tuple[int, ...]) -> bool:
    """Whether an image brings a name of its own, as a disk that is to be kept would. Looked for in
    its layers, where nothing of it is read or followed.
    """
    for key in reversed(layers):
        for path in ("etc", "etc/machine-id"):
            try:
                seen = os.stat(f"{roots}/l{key}/{path}", follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                break
            if not stat.S_ISDIR(seen.st_mode):
                return stat.S_ISREG(seen.st_mode) and seen.st_size > 0
    return False


def connect_hub(home: Home, key: int) -> int:
    """A channel of its own to the guest."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Not settimeout(): who gets a copy of the descriptor would have it without blocking, too.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PATIENCE)
        connection.connect(f"/proc/self/fd/{home.run_fd}/{key}.guest")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, FOREVER)
    except OSError as error:
        connection.close()
        late = isinstance(error, BlockingIOError)
        reason = "its hub takes nobody any more" if late else "it has ended"
        raise HostError(f"cannot reach the guest: {reason}") from error
    return connection.detach()


def _place(
    home: Home, record: MachineRecord, around: Base, group: Group, size: Size | None
) -> Place:
    return Place(
        key=record.key,
        root=home.root,
        base=range_base(record.id_range),
        layers=around.layers,
        views=around.views,
        cgroup_files=group.tasks,
        cgroup_into=bool(group.directory),
        volatile=True,
        files=files.TARGETS,
        hostname="guest",
        rows=size.rows if size else 0,
        columns=size.columns if size else 0,
    )


def memory_of_plan(guest: Plan | None, size: Size | None) -> int:
    """None: there is nothing to run, the program does already."""
    host, machine = b"", b""
    if guest is not None:
        host, machine = wire.encode(guest.host), wire.encode(guest.machine)
    rows, columns = (size.rows, size.columns) if size else (0, 0)
    head = RUN.pack(len(host), len(machine), rows, columns)
    return sealed_memory("guest", (head, host, machine))


def scratch_name(record: MachineRecord) -> str:
    """In the machine's directory: another one after each restore."""
    return f"scratch-{record.disk}" if record.disk else "scratch"


def seed_scratch(record: MachineRecord, directory: int, disk: int) -> None:
    """The machine's disk is to be a copy of this one: whole, or what it was."""
    target = os.open("seed", SEED, 0o600, dir_fd=directory)
    try:
        copy_sparse(disk, target)
    except BaseException:
        os.unlink("seed", dir_fd=directory)
        raise
    finally:
        os.close(target)
    name = scratch_name(record)
    os.rename("seed", name, src_dir_fd=directory, dst_dir_fd=directory)
    for other in os.listdir(directory):
        if other.startswith("scratch") and other != name:
            os.unlink(other, dir_fd=directory)


def open_scratch(home: Home, record: MachineRecord, directory: int) -> int:
    """What the machine wrote at its last run, or an empty disk; nobody else has it."""
    fd = _scratch(home, record, directory)
    try:
        lock_alone(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def lock_alone(fd: int) -> None:
    """The lock goes with the descriptor, into the emulator, and ends with the last that has it: no
    disk is ever in two guests, whoever was killed meanwhile.
    """
    late = time.monotonic() + DISK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > late:
                raise HostError(
                    "cannot open the machine's disk: an emulator has it that does not end"
                ) from None
            time.sleep(0.005)


def _scratch(home: Home, record: MachineRecord, directory: int) -> int:
    try:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(scratch_name(record), flags, dir_fd=directory)
    except FileNotFoundError:
        pass
    spec = record.spec
    size = spec.limits.storage or STORAGE
    template = home.store.layout.scratch(size, journal=not spec.remove)
    return make_scratch(
        template,
        f"/proc/self/fd/{directory}/{scratch_name(record)}",
        size,
        journal=not spec.remove,
    )


def open_channels(home: Home, key: int, directory: int, fds: Descriptors) -> None:
    """Of an emulator, and the files in ``directory`` where what it says is kept."""
    for name, register in (("emulator", "messages"), ("console", "consolelog"), ("end", "end")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        fds.mine(register, os.open(name, flags, 0o600, dir_fd=directory))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    fds.mine("serial", ours.detach())
    fds.mine("agentq", theirs.detach())
    # What a guest prints is read and cut by the hub: a file it wrote into itself would have no end.
    read, write = os.pipe2(os.O_CLOEXEC)
    fds.mine("console", read)
    fds.mine("consoleq", write)
    fds.mine("hub", listen_at(home, f"{key}.guest", socket.SOCK_SEQPACKET))
    fds.mine("qmp", listen_at(home, f"{key}.qmp", socket.SOCK_STREAM))


def listen_at(home: Home, name: str, kind: int) -> int:
    path = f"/proc/self/fd/{home.run_fd}/{name}"
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        listener.bind(path)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener.detach()
