"""``tag``, and ``history``: the steps that made an image, in Docker's columns."""

from __future__ import annotations

import time
from datetime import datetime, tzinfo

from cove.cli.command import Command, Typed
from cove.cli.machines.ps import FORMAT, FULL, QUIET, shorten
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.shown import table, units
from cove.shown.template import Record
from cove.spec.flags import Flag, parse_platform

MISSING = "<missing>"
WIDTH = 45
"""Of CREATED BY, when it is cut."""

HEADINGS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
FORM = "{{{{.ID}}}}\t{{{{.{when}}}}}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}"
HUMAN = table.Listing(HEADINGS, FORM.format(when="CreatedSince"))
EXACT = table.Listing(HEADINGS, FORM.format(when="CreatedAt"))


def row(
    step: calls.HistoryEntry,
    *,
    now: float,
    full: bool,
    human: bool,
    zone: tzinfo | None,
    line: bool,
) -> Record:
    by = step.created_by.replace("\t", " ")
    comment = step.comment
    if line:  # of a table: what a heredoc did takes one, too
        by, comment = by.replace("\n", " "), comment.replace("\n", " ")
    since = f"{units.human_duration(now - step.created)} ago" if step.created else "N/A"
    name = step.id if full else step.id.removeprefix("sha256:")[:12]
    return Record(
        ID=name or MISSING,
        CreatedSince=since,
        CreatedAt=_stamp(step.created, zone),
        CreatedBy=by if full else shorten(by, WIDTH),
        Size=units.human_size(step.size) if human else str(step.size),
        Comment=comment,
    )


def _stamp(moment: float, zone: tzinfo | None) -> str:
    """RFC 3339 in the caller's zone, to the second."""
    local = datetime.fromtimestamp(units.moment_of(moment), zone).astimezone(zone)
    return local.isoformat(timespec="seconds").replace("+00:00", "Z")


def history(typed: Typed, terminal: Terminal, client: Client) -> int:
    entries = client.image_history(
        calls.ImageHistory(typed.words[0], typed.text("platform"))
    ).entries
    human, full = bool(typed.values.get("human", True)), typed.on("full")
    zone, now = units.time_zone(terminal.env), time.time()
    listing, form = HUMAN if human else EXACT, typed.text("format")
    line = not form or form.startswith("table")
    rows = [row(step, now=now, full=full, human=human, zone=zone, line=line) for step in entries]
    terminal.write(table.render(rows, listing, form, quiet=typed.on("quiet")))
    return 0


def tag(typed: Typed, terminal: Terminal, client: Client) -> int:
    client.image_tag(calls.ImageTag(typed.words[0], typed.words[1]))
    return 0


HISTORY = Command(
    "history",
    history,
    help="The steps that made an image",
    flags=(
        FORMAT,
        Flag("human", "human", "Sizes and times for people", "H", default=True),
        FULL,
        Flag("platform", "platform", "Of several that a name means: linux/arm64", "", "PLATFORM",
             parse_platform),
        QUIET,
    ),
    words="IMAGE",
    group="Images",
)  # fmt: skip
TAG = Command(
    "tag",
    tag,
    help="Give an image another name",
    words="IMAGE NAME[:TAG]",
    group="Images",
)
