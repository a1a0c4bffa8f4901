"""``ps``: which machines there are, in Docker's columns, templates and filters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.shown import filters, table, units
from cove.shown.machines import status
from cove.shown.ports import exposed_now, published_now
from cove.shown.template import LazyRecord, Record
from cove.spec.flags import Flag
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.ports import listed
from cove.spec.values import parse_int
from cove.store.records import MachineRecord

LISTING = table.Listing(
    headings={
        "ID": "MACHINE ID",
        "Names": "NAMES",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED",
        "Ports": "PORTS",
        "State": "STATE",
        "Status": "STATUS",
        "Size": "SIZE",
        "Labels": "LABELS",
        "Mounts": "MOUNTS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Networks": "NETWORKS",
        "Isolation": "ISOLATION",
        "Cause": "CAUSE",
    },
    default="{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
)
SIZED = table.Listing(LISTING.headings, LISTING.default + "\t{{.Size}}")


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def quoted(text: str) -> str:
    """As Go quotes a string."""
    special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(special.get(c, c) for c in text) + '"'


def image_text(typed: str, *, full: bool) -> str:
    bare = typed.removeprefix("sha256:")
    is_id = len(bare) == 64 and set(bare) <= set("0123456789abcdef")
    return bare[:12] if is_id and not full else typed


@dataclass(frozen=True, slots=True)
class Seen:
    """A machine as one listing shows it."""

    record: MachineRecord
    sizes: calls.Sizes | None
    now: float
    full: bool
    zone: tzinfo | None


def _command(seen: Seen) -> str:
    spec = seen.record.spec
    words = seen.record.argv or ((spec.entrypoint or ()) + spec.command)
    command = " ".join(f"'{word}'" if " " in word else word for word in words)
    return quoted(command if seen.full else shorten(command, 20))


def _size(seen: Seen) -> str:
    if not seen.sizes:
        return "0B"
    writable, whole = units.human_size(seen.sizes.writable), units.human_size(seen.sizes.root)
    return f"{writable} (virtual {whole})"


def _mounts(seen: Seen) -> str:
    names = [m.source or m.target for m in seen.record.spec.mounts if m.type != "tmpfs"]
    return ",".join(name if seen.full else shorten(name, 15) for name in names)


def _labels(seen: Seen) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(seen.record.spec.labels.items()))


def networks_of(spec: MachineSpec) -> list[str]:
    return [wish.network for wish in connections_of(spec)] or [spec.network]


def ports_of(record: MachineRecord) -> str:
    """Those that are open now, and what else it serves."""
    published = [(p.ip, p.host, p.port, p.protocol) for p in published_now(record)]
    return listed(published, exposed_now(record))


FIELDS: dict[str, Callable[[Seen], Any]] = {
    "ID": lambda s: s.record.id if s.full else s.record.id[:12],
    "Names": lambda s: s.record.name,
    "Image": lambda s: image_text(s.record.spec.image, full=s.full),
    "Command": _command,
    "CreatedAt": lambda s: units.clock_text(s.record.created, s.zone),
    "RunningFor": lambda s: units.human_duration(s.now - s.record.created) + " ago",
    "Ports": lambda s: ports_of(s.record),
    "State": lambda s: s.record.state,
    "Status": lambda s: status(s.record, s.now),
    "Size": _size,
    "Labels": _labels,
    "Label": lambda s: lambda name: s.record.spec.labels.get(name, ""),
    "Mounts": _mounts,
    "LocalVolumes": lambda s: str(sum(m.type == "volume" for m in s.record.spec.mounts)),
    "Networks": lambda s: ",".join(networks_of(s.record.spec)),
    "Isolation": lambda s: s.record.spec.isolation,
    "Cause": lambda s: s.record.cause.text,
}


def row(
    record: MachineRecord, sizes: calls.Sizes | None, *, now: float, full: bool, zone: tzinfo | None
) -> Record:
    return LazyRecord(FIELDS, Seen(record, sizes, now, full, zone))


def _resolve_ancestors(wanted: dict[str, tuple[str, ...]], client: Client) -> None:
    """An image's name also means the machines made from it under another name, or by its id."""
    if "ancestor" in wanted:
        names = {filters.plain_reference(name) for name in wanted["ancestor"]}
        images = client.images(calls.ImageList()).images
        wanted["ancestor"] += tuple(i.record.id for i in images if names & set(i.tags))


def ps(typed: Typed, terminal: Terminal, client: Client) -> int:
    wanted = filters.gather(typed.values.get("filter", ()), filters.MACHINE_KEYS)
    _resolve_ancestors(wanted, client)
    form = typed.text("format")
    last = 1 if typed.on("latest") else int(typed.values.get("last", -1))
    everything = typed.on("all") or last > 0 or "status" in wanted
    sized = typed.on("size") or ".Size" in form
    # a listing of all is asked for when an older one may be named by before= and since=
    relative = "before" in wanted or "since" in wanted
    listed = client.list(calls.List(all=everything or relative, sizes=sized))
    machines = filters.keep_machines(listed.machines, wanted)
    if relative and not everything:
        machines = [r for r in machines if r.state in ("running", "paused", "restarting")]
    if last > 0:
        machines = machines[:last]
    now, zone, full = time.time(), units.time_zone(terminal.env), typed.on("full")
    if typed.on("quiet") and not form:
        text = "".join((r.id if full else r.id[:12]) + "\n" for r in machines)
    else:
        rows = [row(r, listed.sizes.get(r.id), now=now, full=full, zone=zone) for r in machines]
        text = table.render(rows, SIZED if typed.on("size") else LISTING, form)
    terminal.write(text)
    return 0


FILTER = Flag("filter", "filter", "Only what matches: NAME=VALUE", "f", "FILTER",
              filters.parse_filter, repeat=True)  # fmt: skip
FORMAT = Flag("format", "format", "table, json, or a template: {{.ID}} {{.Names}}", "", "FORMAT")
QUIET = Flag("quiet", "quiet", "Only ids", "q")
FULL = Flag("no-trunc", "full", "Cut nothing off")

COMMANDS = {
    "ps": Command(
        "ps",
        ps,
        help="List machines that run, or all of them",
        flags=(
            Flag("all", "all", "Also those that do not run", "a"),
            FILTER,
            FORMAT,
            Flag("last", "last", "The last so many made, running or not", "n", "NUMBER", parse_int),
            Flag("latest", "latest", "The last one made", "l"),
            FULL,
            QUIET,
            Flag("size", "size", "Show how much it has written", "s"),
        ),
        group="Look",
        about="Filters: id, name, label, status, exited, ancestor, before, since, volume, "
        "network, isolation, health.",
    )
}
