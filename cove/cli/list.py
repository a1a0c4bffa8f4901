"""``ps``: which machines there are, in Docker's columns, templates and filters."""

from __future__ import annotations

import time
from datetime import tzinfo

from cove.cli import filters, table, units
from cove.cli.command import Command, Typed
from cove.cli.template import Record
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.spec.flags import Flag
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


def status(record: MachineRecord, now: float) -> str:
    """``Up 2 minutes``, ``Exited (0) 3 hours ago``."""
    if record.state in ("running", "paused"):
        up = f"Up {units.human_duration(now - record.started)}"
        return f"{up} (Paused)" if record.state == "paused" else up
    if record.state == "exited":
        ago = units.human_duration(now - (record.finished or now))
        return f"Exited ({record.exit_code}) {ago} ago"
    return record.state.capitalize()


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


class Row(Record):
    """A machine's fields, worked out only when a template asks: most ask for few of them."""


def row(
    record: MachineRecord, sizes: calls.Sizes | None, *, now: float, full: bool, zone: tzinfo | None
) -> Record:
    spec = record.spec
    command = " ".join(record.argv or ((spec.entrypoint or ()) + spec.command))
    mounts = [m.source or m.target for m in spec.mounts if m.type != "tmpfs"]
    size = ""
    if sizes:
        whole = units.human_size(sizes.root)
        size = f"{units.human_size(sizes.writable)} (virtual {whole})"
    return Row(
        ID=record.id if full else record.id[:12],
        Names=record.name,
        Image=image_text(spec.image, full=full),
        Command=quoted(command if full else shorten(command, 20)),
        CreatedAt=units.clock_text(record.created, zone),
        RunningFor=units.human_duration(now - record.created) + " ago",
        Ports="",
        State=record.state,
        Status=status(record, now),
        Size=size or "0B",
        Labels=",".join(f"{k}={v}" for k, v in sorted(spec.labels.items())),
        Label=lambda name: spec.labels.get(name, ""),
        Mounts=",".join(m if full else shorten(m, 15) for m in mounts),
        LocalVolumes="0",
        Networks=spec.network,
        Isolation=spec.isolation,
        Cause=record.cause.text,
    )


def ps(typed: Typed, terminal: Terminal, client: Client) -> int:
    wanted = filters.gather(typed.values.get("filter", ()), filters.MACHINE_KEYS)
    form = typed.text("format")
    last = 1 if typed.on("latest") else int(typed.values.get("last", -1))
    everything = typed.on("all") or last > 0 or "status" in wanted
    sized = typed.on("size") or ".Size" in form
    # a listing of all is asked for when an older one may be named by before= and since=
    relative = "before" in wanted or "since" in wanted
    listed = client.list(calls.List(all=everything or relative, sizes=sized))
    machines = filters.keep_machines(listed.machines, wanted)
    if relative and not everything:
        machines = [r for r in machines if r.state in ("running", "paused")]
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
