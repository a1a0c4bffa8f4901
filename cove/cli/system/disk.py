"""``system df`` and the prunes of images and of everything, in Docker's words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any

from cove.cli.ask import ELSEWHERE, confirmed, must_go_elsewhere
from cove.cli.command import Command, Typed
from cove.cli.images.verbs import HEADINGS as OF_IMAGES
from cove.cli.images.verbs import rows as image_rows
from cove.cli.machines.ps import LISTING as OF_MACHINES
from cove.cli.machines.ps import row as machine_row
from cove.cli.system import info
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import UsageError
from cove.shown import filters, table, units
from cove.shown.functions import to_json
from cove.shown.template import Record, compile_template
from cove.spec.flags import Flag
from cove.spec.values import parse_bool, parse_time

# ---- df ----

KINDS = table.Listing(
    {
        "Type": "TYPE",
        "TotalCount": "TOTAL",
        "Active": "ACTIVE",
        "Size": "SIZE",
        "Reclaimable": "RECLAIMABLE",
    },
    "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
)
IMAGES = table.Listing(
    OF_IMAGES | {"Containers": "CONTAINERS"},
    "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t"
    "{{.UniqueSize}}\t{{.Containers}}",
)
MACHINES = table.Listing(
    OF_MACHINES.headings | {"ID": "CONTAINER ID"},
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t"
    "{{.Status}}\t{{.Names}}",
)
VOLUMES = table.Listing(
    {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}, "{{.Name}}\t{{.Links}}\t{{.Size}}"
)
CACHE = table.Listing(
    {
        "ID": "CACHE ID",
        "CacheType": "CACHE TYPE",
        "Size": "SIZE",
        "CreatedSince": "CREATED",
        "LastUsedSince": "LAST USED",
        "UsageCount": "USAGE",
        "Shared": "SHARED",
    },
    "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t"
    "{{.Shared}}",
)
RUNNING = ("running", "paused", "restarting")


def size_text(size: int) -> str:
    return units.human_size(size, digits=4)


def kind(name: str, total: int, active: int, size: int, free: int, *, share: bool) -> Record:
    part = f" ({free * 100 // size}%)" if share and size else ""
    return Record(
        Type=name,
        TotalCount=str(total),
        Active=str(active),
        Size=size_text(size),
        Reclaimable=size_text(free) + part,
    )


def summary(seen: calls.DiskUsage) -> list[Record]:
    """A row for each kind of thing."""
    images, machines = seen.images, seen.machines
    used = sum(1 for usage in images if usage.image.machines)
    runs = [m.record.state in RUNNING for m in machines]
    written = sum(m.writable for m in machines)
    idle = sum(m.writable for m, running in zip(machines, runs, strict=True) if not running)
    spare = max(0, seen.layers - seen.needed)
    kept = seen.snapshots
    more = [kind("Snapshots", kept.count, kept.active, kept.size, kept.idle, share=True)]
    return [
        kind("Images", len(images), used, seen.layers, spare, share=True),
        kind("Containers", len(machines), sum(runs), written, idle, share=True),
        *(more if kept.count or kept.size else ()),  # Docker knows none
        _volumes_kind(seen),
        _cache_kind(seen),
    ]


def _volumes_kind(seen: calls.DiskUsage) -> Record:
    volumes = _volumes(seen)
    active, size = sum(v.links > 0 for v in volumes), sum(v.size for v in volumes)
    idle = sum(v.size for v in volumes if not v.links)
    return kind("Local Volumes", len(volumes), active, size, idle, share=True)


def volume_rows_of(seen: calls.DiskUsage) -> list[Record]:
    found = _volumes(seen)
    return [Record(Name=v.name, Links=str(v.links), Size=size_text(v.size)) for v in found]


def _volumes(seen: calls.DiskUsage) -> list[calls.VolumeUsage]:
    return [one for one in seen.volumes if not one.cache]


def _cache_kind(seen: calls.DiskUsage) -> Record:
    own = [one for one in seen.cached if not one.shared]
    used = sum(one.in_use for one in seen.cached)
    idle = sum(one.size for one in own if not one.in_use)
    return kind("Build Cache", seen.steps, used, seen.cache, idle, share=False)


def cache_rows_of(seen: calls.DiskUsage, *, now: float, full: bool) -> list[Record]:
    return [
        Record(
            ID=one.record.key if full else one.record.key[:12],
            CacheType=one.kind,
            Size=size_text(one.size),
            CreatedSince=units.human_duration(now - one.record.created) + " ago",
            LastUsedSince=units.human_duration(now - one.record.used) + " ago",
            UsageCount="",
            Shared=str(one.shared).lower(),
        )
        for one in seen.cached
    ]


def image_rows_of(
    seen: calls.DiskUsage, *, now: float, full: bool, zone: tzinfo | None
) -> list[Record]:
    found = []
    for usage in seen.images:
        for row in image_rows(usage.image, now=now, full=full, zone=zone):
            row |= {
                "Size": units.human_size(usage.shared + usage.unique),
                "SharedSize": size_text(usage.shared),
                "UniqueSize": size_text(usage.unique),
            }
            found.append(row)
    return found


def machine_rows_of(
    seen: calls.DiskUsage, *, now: float, full: bool, zone: tzinfo | None
) -> list[Record]:
    found = []
    for usage in seen.machines:
        row = Record(machine_row(usage.record, None, now=now, full=full, zone=zone).whole())
        found.append(Record(row | {"Size": units.human_size(usage.writable)}))
    return found


def df(typed: Typed, terminal: Terminal, client: Client) -> int:
    seen, form = client.disk_usage(), typed.text("format")
    if not typed.on("verbose"):
        terminal.write(table.render(summary(seen), KINDS, form))
        return 0
    now, zone = time.time(), units.time_zone(terminal.env)
    if form and form != "table":
        parts = {
            "Images": image_rows_of(seen, now=now, full=True, zone=zone),
            "Containers": machine_rows_of(seen, now=now, full=True, zone=zone),
            "Volumes": volume_rows_of(seen),
            "BuildCache": cache_rows_of(seen, now=now, full=True),
        }
        terminal.write(_formed(parts, form))
        return 0
    images = image_rows_of(seen, now=now, full=False, zone=zone)
    machines = machine_rows_of(seen, now=now, full=False, zone=zone)
    text = "Images space usage:\n\n" + table.render(images, IMAGES, "")
    if seen.unfinished:
        text += f"\nUnfinished pulls space usage: {size_text(seen.unfinished)}\n"
    text += "\nContainers space usage:\n\n" + table.render(machines, MACHINES, "")
    text += "\nLocal Volumes space usage:\n\n" + table.render(volume_rows_of(seen), VOLUMES, "")
    text += f"\nBuild cache usage: {size_text(seen.cache)}\n\n"
    text += table.render(cache_rows_of(seen, now=now, full=False), CACHE, "")
    terminal.write(text)
    return 0


def _formed(parts: Mapping[str, Sequence[Record]], form: str) -> str:
    if form == "json":
        return to_json({name: [dict(row) for row in rows] for name, rows in parts.items()}) + "\n"
    return table.safe(compile_template(form).render(Record(dict(parts)))) + "\n"


# ---- prune ----

PRUNE_KEYS = ("until", "label", "label!")
ALL_IMAGES = "all images without at least one container associated to them"


def chosen(typed: Typed, keys: Sequence[str], now: float) -> dict[str, Any]:
    """The filters, as the engine takes them."""
    wanted = filters.gather(typed.values.get("filter", ()), keys)
    until = wanted.get("until", ())
    if len(until) > 1:
        raise UsageError("cannot filter by several until: one is enough")
    return {
        "until": parse_time(until[0], now) if until else 0.0,
        "labels": wanted.get("label", ()),
        "without": wanted.get("label!", ()),
    }


def image_prune(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not typed.on("force") and must_go_elsewhere(terminal):
        return ELSEWHERE
    given = chosen(typed, (*PRUNE_KEYS, "dangling"), time.time())
    dangling = [v for k, v in typed.values.get("filter", ()) if k == "dangling"]
    everything = typed.on("all") or (bool(dangling) and not parse_bool(dangling[-1]))
    what = ALL_IMAGES if everything else "all dangling images"
    if not typed.on("force") and not confirmed(terminal, f"WARNING! This will remove {what}."):
        return 0
    pruned = client.image_prune(calls.ImagePrune(everything, **given))
    terminal.write(_images_text(pruned.removed) + _reclaimed(pruned.reclaimed))
    return 0


def system_prune(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not typed.on("force") and must_go_elsewhere(terminal):
        return ELSEWHERE
    given = chosen(typed, PRUNE_KEYS, time.time())
    if typed.on("volumes") and given["until"]:
        raise UsageError("cannot use --volumes with --filter until: volumes have no such filter")
    if not typed.on("force") and not confirmed(terminal, _warning(typed)):
        return 0
    pruned = client.system_prune(
        calls.SystemPrune(typed.on("all"), **given, volumes=typed.on("volumes"))
    )
    text = ""
    if pruned.machines:
        text += "Deleted Containers:\n" + "".join(f"{name}\n" for name in pruned.machines) + "\n"
    if pruned.networks:
        text += "Deleted Networks:\n" + "".join(f"{name}\n" for name in pruned.networks) + "\n"
    if pruned.volumes:
        text += "Deleted Volumes:\n" + "".join(f"{name}\n" for name in pruned.volumes) + "\n"
    terminal.write(text + _images_text(pruned.images) + _reclaimed(pruned.reclaimed))
    return 0


def _warning(typed: Typed) -> str:
    everything = typed.on("all")
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if typed.on("volumes"):
        lines.append("all anonymous volumes not used by at least one container")
    lines.append(ALL_IMAGES if everything else "all dangling images")
    lines.append("all build cache" if everything else "unused build cache")
    text = "WARNING! This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    given = sorted(f"{key}={value}" for key, value in typed.values.get("filter", ()))
    if given:
        text += "\n  Items to be pruned will be filtered with:\n"
        text += "".join(f"  - {line}\n" for line in given)
    return text


def _images_text(removed: Sequence[calls.ImageRemoved]) -> str:
    lines = []
    for one in removed:
        lines += [f"untagged: {name}" for name in one.untagged]
        lines += [f"deleted: {name}" for name in one.deleted]
    return "Deleted Images:\n" + "".join(f"{line}\n" for line in lines) + "\n" if lines else ""


def _reclaimed(size: int) -> str:
    return f"Total reclaimed space: {size_text(size)}\n"


FORCE = Flag("force", "force", "Do not ask", "f")
FILTER = Flag("filter", "filter", "Only what matches: until=24h, label=NAME", "", "FILTER",
              filters.parse_filter, repeat=True)  # fmt: skip
FILTERS = "Filters: until, label, label!."

DF = Command(
    "df",
    df,
    help="How much of the disk images and machines take",
    flags=(
        Flag("format", "format", "table, json, or a template: {{.Type}} {{.Size}}", "", "FORMAT"),
        Flag("verbose", "verbose", "Each image and each machine", "v"),
    ),
)
IMAGE_PRUNE = Command(
    "prune",
    image_prune,
    help="Remove images without a name",
    flags=(
        Flag("all", "all", "Also those with names, if no machine is made of them", "a"),
        FILTER,
        FORCE,
    ),
    about=FILTERS + " Without a filter, what unfinished pulls have kept goes too.",
)
SYSTEM_PRUNE = Command(
    "prune",
    system_prune,
    help="Remove machines that do not run, and images without a name",
    flags=(
        Flag("all", "all", "Also images with names, if no machine is made of them", "a"),
        FILTER,
        FORCE,
        Flag("volumes", "volumes", "Also volumes that nobody named and nothing uses"),
    ),
    about=FILTERS,
)
GROUPED = {"prune": IMAGE_PRUNE}
SYSTEM = {"df": DF, "prune": SYSTEM_PRUNE, **info.SYSTEM}
