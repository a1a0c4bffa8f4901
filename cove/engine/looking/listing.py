"""What is known of machines, for list and inspect. It changes nothing."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec

from cove.engine.calls import Inspected, Listed, Sizes
from cove.engine.home import Home
from cove.engine.images.foreign import emulation
from cove.engine.live import Live
from cove.engine.machines.stopping import settled
from cove.engine.uppers import strata_sizes
from cove.engine.vms import virtual
from cove.engine.vms.ground import BOOT
from cove.engine.volumes.users import mountpoint
from cove.engine.written import written
from cove.image.catalog import image_config
from cove.linux.processes import read_process
from cove.plan.facts import Facts
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.network import machine_of
from cove.store.names import holds_name
from cove.store.records import MachineRecord
from cove.vm.accel import remembered

ACTIVE = ("running", "paused")
SHOWN = (*ACTIVE, "restarting")


def as_seen(record: MachineRecord) -> MachineRecord:
    """A record says that its machine runs before anything of it exists. Nobody else hears that
    until its program was started.
    """
    if record.state == "running" and not record.started:
        state = "restarting" if record.delay else "created"
        return msgspec.structs.replace(record, state=state, pid=0)
    return record


def list_machines(home: Home, *, everything: bool, sizes: bool) -> Listed:
    """Newest first; ephemeral machines that ended are only being put away, and not shown."""
    found = tuple(
        record
        for record in map(as_seen, reversed(home.store.machines()))
        if (everything and holds_name(record)) or record.state in SHOWN
    )
    return Listed(found, {r.id: sizes_of(home, r) for r in found} if sizes else {})


def sizes_of(home: Home, record: MachineRecord) -> Sizes:
    image = home.store.image(record.image)
    writable = written(home, record)
    below = sum(strata_sizes(home, record.strata).values())
    return Sizes(writable, writable + below + (image.size if image else 0))


def inspect_machine(home: Home, record: MachineRecord, *, sizes: bool) -> Inspected:
    layout, key, record = home.store.layout, record.key, as_seen(record)
    image = home.store.image(record.image)
    tags = home.store.names_of(record.image)
    live = home.lives.get(key)
    if live is not None and live.checks is not None:  # with answers that changed nothing
        record = msgspec.structs.replace(record, health=live.checks.state)
    emulated = emulation(record.spec, image_config(image), home.facts) if image else ""
    layers = home.base_of(image).layers if image is not None else ()
    return Inspected(
        record=record,
        image=image,
        image_name=record.spec.image if record.spec.image in tags or not tags else tags[0],
        log_path=layout.log(key),
        directory=layout.machine(key),
        upper=f"{layout.upper(record.upper)}/fs",
        layers=(
            *(layout.layer(layer) for layer in layers),
            *(f"{layout.upper(stratum)}/fs" for stratum in record.strata),
        ),
        cgroup=group_text(live.group.directory or live.group.name) if live and live.group else "",
        walls=walls(record.spec, _facts(home, emulated), record.id_range),
        emulation=emulated,
        emulator=_emulator(home, live),
        sizes=sizes_of(home, record) if sizes else None,
        volumes={
            held.name: mountpoint(home, held)
            for mount in record.spec.mounts
            if mount.type == "volume" and (held := home.store.volume(mount.source)) is not None
        },
    )


def glance(home: Home, text: str) -> Inspected | None:
    """None: somebody writes, or what the machine did just now is not yet heard."""
    with home.store.unless_busy() as free:
        record = home.store.find_machine(text) if free else None
        if record is None or not settled(home, record.key):
            return None
        return inspect_machine(home, record, sizes=False)


def group_text(path: str) -> str:
    return path.removeprefix("/sys/fs/cgroup")


def _virtual_walls(spec: MachineSpec, facts: Facts, id_range: int) -> tuple[str, ...]:
    jail = virtual.jail_of(spec)
    _, *around = walls(jail, facts, id_range)
    kernel = "virtual machine: a kernel of its own, "
    if facts.kvm:
        kernel += "under KVM; around the emulator a jail"
    else:
        kernel += "emulated by QEMU (TCG), no wall by itself: the jail around it is the boundary"
    memory = f"at most {jail.limits.memory >> 20} MiB and {jail.limits.pids} threads"
    _, *inside = walls(msgspec.structs.replace(spec, isolation="container"), facts, -1)
    return (
        kernel,
        "jail: user 65534 without capabilities; of the host it sees programs, read-only",
        *(f"jail: {line}" for line in around if not line.startswith("capabilities")),
        f"jail: {memory}; QEMU's own filter refuses it new processes and privileges",
        f"jail: the emulator has {len(BOOT)} descriptors: {', '.join(BOOT)}",
        *(f"guest: {line}" for line in inside if not line.startswith("user namespace")),
        "guest: root in it is root of the guest's kernel",
    )


def _facts(home: Home, emulated: str) -> Facts:
    """With what the trial boot said of KVM, which is no matter where another CPU is emulated."""
    found = remembered(home.store.layout)
    return msgspec.structs.replace(
        home.facts, kvm=not emulated and found is not None and found.usable
    )


def _emulator(home: Home, live: Live | None) -> tuple[str, ...]:
    """The command line of the one that runs, by the host's kernel."""
    if live is None or not live.virtual or live.group is None:
        return ()
    for pid in home.groups.pids(live.group):
        with suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("qemu-system-"):
                found = read_process(pid)
                return found.command if found is not None else ()
    return ()


def walls(spec: MachineSpec, facts: Facts, id_range: int) -> tuple[str, ...]:
    """What stands between the machine and the host, one line each; what was given away says so."""
    if spec.isolation == "vm":
        return _virtual_walls(spec, facts, id_range)
    security = spec.security
    lines = [f"container: the host's kernel {facts.kernel[0]}.{facts.kernel[1]}, namespaces"]
    if security.privileged:
        return (*lines, "privileged: root in it is root on the host; nothing else stands between")
    if security.userns == "host":
        lines.append("user namespace: the host's; root in it is root on the host")
    else:
        held = f" (range {id_range})" if id_range >= 0 else ""
        lines.append(f"user namespace: 65536 ids of its own{held}")
    added, dropped = ", ".join(security.cap_add), ", ".join(security.cap_drop)
    lines.append(
        "capabilities: cove's default set"
        + (f", with {added}" if added else "")
        + (f", without {dropped}" if dropped else "")
    )
    lines.append(
        "no_new_privs: set" if security.no_new_privileges else "no_new_privs: off (setuid works)"
    )
    profile = {"default": "cove's allow-list", "unconfined": "off"}
    lines.append(f"seccomp: {profile.get(security.seccomp, 'a profile of your own')}")
    lines.append("masked and read-only /proc and /sys" if security.masked else "/proc, /sys: open")
    if spec.network == "host":
        lines.append("network: the host's")
    if machine_of(spec.network):
        lines.append("network and user namespace: shared with another machine")
    for wish in connections_of(spec):
        lines.append(
            f"network: {wish.network}; it sends from its own addresses alone, and reaches "
            "no other network and no service of the host"
        )
    binds = sum(mount.type == "bind" for mount in spec.mounts)
    if binds:
        lines.append(f"host directories or files given in: {binds}")
    kept = sum(mount.type == "volume" for mount in spec.mounts)
    if kept:
        lines.append(f"volumes given in: {kept}")
    if spec.devices:
        lines.append(f"host devices given in: {len(spec.devices)}")
    return tuple(lines)
