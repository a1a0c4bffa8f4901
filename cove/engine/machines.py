"""What is known of machines, for list and inspect. It changes nothing."""

from __future__ import annotations

import msgspec

from cove.engine.calls import Inspected, Listed, Sizes
from cove.engine.foreign import emulation
from cove.engine.home import Home
from cove.engine.uppers import strata_sizes
from cove.image.catalog import image_config
from cove.plan.facts import Facts
from cove.roots import usage
from cove.spec.machine import MachineSpec
from cove.store.names import holds_name
from cove.store.records import MachineRecord

ACTIVE = ("running", "paused")


def as_seen(record: MachineRecord) -> MachineRecord:
    """A record says that its machine runs before anything of it exists. Nobody else hears that
    until its program was started.
    """
    if record.state == "running" and not record.started:
        return msgspec.structs.replace(record, state="created", pid=0)
    return record


def list_machines(home: Home, *, everything: bool, sizes: bool) -> Listed:
    """Newest first; ephemeral machines that ended are only being put away, and not shown."""
    found = tuple(
        record
        for record in map(as_seen, reversed(home.store.machines()))
        if (everything and holds_name(record)) or record.state in ACTIVE
    )
    return Listed(found, {r.id: sizes_of(home, r) for r in found} if sizes else {})


def sizes_of(home: Home, record: MachineRecord) -> Sizes:
    image = home.store.image(record.image)
    writable = usage(home.root, record.upper)
    below = sum(strata_sizes(home, record.strata).values())
    return Sizes(writable, writable + below + (image.size if image else 0))


def inspect_machine(home: Home, record: MachineRecord, *, sizes: bool) -> Inspected:
    layout, key, record = home.store.layout, record.key, as_seen(record)
    image = home.store.image(record.image)
    tags = sorted(name for name, held in home.store.tags().items() if held == record.image)
    live = home.lives.get(key)
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
        walls=walls(record.spec, home.facts, record.id_range),
        emulation=emulation(record.spec, image_config(image), home.facts) if image else "",
        sizes=sizes_of(home, record) if sizes else None,
    )


def group_text(path: str) -> str:
    return path.removeprefix("/sys/fs/cgroup")


def walls(spec: MachineSpec, facts: Facts, id_range: int) -> tuple[str, ...]:
    """What stands between the machine and the host, one line each; what was given away says so."""
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
    binds = sum(mount.type == "bind" for mount in spec.mounts)
    if binds:
        lines.append(f"host directories or files given in: {binds}")
    if spec.devices:
        lines.append(f"host devices given in: {len(spec.devices)}")
    return tuple(lines)
