"""``snapshot create/ls/inspect/rm/diff``, ``restore`` and ``fork``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import Any

import msgspec

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines import inspect
from cove.cli.machines.copy import write_changes
from cove.cli.machines.ps import FORMAT, FULL, shorten
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls import snapshots as calls
from cove.errors import printable
from cove.shown import table, units
from cove.shown.template import Record
from cove.spec import values
from cove.spec.flags import Flag

HEADINGS = {
    "Name": "NAME",
    "ID": "SNAPSHOT ID",
    "Machine": "MACHINE",
    "Image": "IMAGE",
    "Kind": "KIND",
    "Parent": "PARENT",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "UsedBy": "USED BY",
}
LISTING = table.Listing(
    HEADINGS,
    "{{.Name}}\t{{.Machine}}\t{{.Kind}}\t{{.CreatedSince}}\t{{.Size}}\t{{.UsedBy}}",
    identity="Name",
)

Shown = Sequence[calls.Snapshot]


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.SnapshotCreate(
        typed.words[0],
        typed.words[1] if len(typed.words) > 1 else "",
        pause=bool(typed.values.get("pause", True)),
    )
    made = client.snapshot_create(params, terminal.cancelled)
    terminal.write(made.name + "\n")
    _tell_pause(terminal, typed.words[0], made.pause)
    return 0


def _tell_pause(terminal: Terminal, machine: str, seconds: float) -> None:
    if seconds:
        terminal.error(f"cove: note: {machine} stood still for {seconds * 1000:.0f} ms\n")


# ---- the list ----


def tree(snapshots: Shown) -> Iterator[tuple[str, calls.Snapshot]]:
    """Each behind its branches; one whose parent is not listed is a root."""
    below: dict[str, list[calls.Snapshot]] = {}
    there = {seen.record.id for seen in snapshots}
    for seen in snapshots:
        parent = seen.record.parent if seen.record.parent in there else ""
        below.setdefault(parent, []).append(seen)
    pending = [(seen, "", "") for seen in reversed(below.get("", []))]
    while pending:
        seen, branch, indent = pending.pop()
        yield branch, seen
        children = below.get(seen.record.id, [])
        for child in reversed(children):
            last = child is children[-1]
            pending.append(
                (child, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  "))
            )


def row(
    seen: calls.Snapshot, *, branch: str, parent: str, now: float, full: bool, zone: tzinfo | None
) -> Record:
    record, users = seen.record, ",".join(seen.machines)
    return Record(
        Name=branch + record.name,
        ID=record.id if full else record.id[:12],
        Machine=record.machine_name,
        Image=record.spec.image,
        Kind=record.kind,
        Parent=parent,
        CreatedSince=units.human_duration(now - record.created) + " ago",
        CreatedAt=units.clock_text(record.created, zone),
        Size=units.human_size(seen.size),
        UniqueSize=units.human_size(seen.unique),
        UsedBy=users if full else shorten(users, 40),
    )


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    form, quiet = typed.text("format"), typed.on("quiet")
    machine = typed.words[0] if typed.words else ""
    params = calls.SnapshotList(machine, sizes=not (quiet and not form))
    found = client.snapshot_list(params).snapshots
    names = {seen.record.id: seen.record.name for seen in found}
    zone, now = units.time_zone(terminal.env), time.time()
    drawn = not quiet and form in ("", "table")
    rows = [
        row(
            seen, branch=branch if drawn else "", parent=names.get(seen.record.parent, ""),
            now=now, full=typed.on("full"), zone=zone,
        )
        for branch, seen in tree(found)
    ]  # fmt: skip
    terminal.write(table.render(rows, LISTING, form, quiet=quiet))
    return 0


def document(seen: calls.Snapshot) -> Record:
    record = seen.record
    return Record(
        Id=record.id,
        Name=record.name,
        Kind=record.kind,
        Created=units.stamp(record.created),
        Parent=record.parent,
        Machine=Record(Id=record.machine, Name=record.machine_name),
        Image=record.image,
        ImageName=record.spec.image,
        Args=list(record.argv),
        Size=seen.size,
        UniqueSize=seen.unique,
        Pause=round(record.pause * 1000, 1),
        UsedBy=list(seen.machines),
        Layers=list(seen.layers),
        Spec=_builtins(record.spec),
    )


def _builtins(value: msgspec.Struct) -> Any:
    return msgspec.to_builtins(value)


def inspect_(typed: Typed, terminal: Terminal, client: Client) -> int:
    return inspect.each(
        typed, terminal, lambda name: document(client.snapshot_inspect(calls.SnapshotInspect(name)))
    )


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    def one(name: str) -> str:
        client.snapshot_remove(calls.SnapshotRemove(name))
        return name

    return each(typed.words, terminal, one, lenient=typed.on("force"))


def diff(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.SnapshotDiff(*typed.words)
    write_changes(terminal, client.snapshot_diff(params, terminal.cancelled).changes)
    return 0


# ---- going back, and on ----


def restore(typed: Typed, terminal: Terminal, client: Client) -> int:
    words = typed.words
    timeout = int(typed.values.get("timeout", 0))
    done = client.restore(calls.Restore(words[0], words[1] if len(words) > 1 else "", timeout))
    terminal.write(f"{words[0]}\n")
    if done.started and done.goes_on:
        terminal.error(
            f"cove: note: {printable(done.name)} was ended, and goes on as it was when "
            f"{printable(done.snapshot)} was taken\n"
        )
    elif done.started:
        terminal.error(
            f"cove: note: {printable(done.name)} was ended, and its command has begun anew, in "
            f"the files of {printable(done.snapshot)}\n"
        )
    return 0


def fork(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.Fork(
        typed.words[0],
        int(typed.values.get("count", 1)),
        typed.text("name"),
        pause=bool(typed.values.get("pause", True)),
    )
    forked = client.fork(params, terminal.cancelled)
    for made in forked.machines:
        terminal.write(f"{made.id}\n")
    _tell_pause(terminal, typed.words[0], forked.pause)
    return 0


GROUP = "Snapshots"
PAUSE = Flag("pause", "pause", "Freeze a running machine meanwhile", "p", default=True)

CREATE = Command(
    "create",
    create,
    help="Keep what a machine is now, to go back to it",
    flags=(PAUSE,),
    words="MACHINE [NAME]",
    about="Of a container it is the file system, without what is mounted in it. Of one that does "
    "not run nothing is copied; one that runs stands still while what it wrote is. Of a virtual "
    "machine it is the disk, and of one that runs its memory too: it stands still meanwhile, for "
    "how long is told, and its processes can be gone back to.",
)
LS = Command(
    "ls",
    ls,
    help="List snapshots, each below the one that its machine stood on",
    flags=(FORMAT, FULL, Flag("quiet", "quiet", "Only names", "q")),
    words="[MACHINE]",
)
INSPECT = Command(
    "inspect",
    inspect_,
    help="All about snapshots",
    flags=(inspect.FORMAT,),
    words="SNAPSHOT [SNAPSHOT...]",
)
RM = Command(
    "rm",
    remove,
    help="Remove snapshots; machines that stand on them stay as they are",
    flags=(Flag("force", "force", "No error where there is none", "f"),),
    words="SNAPSHOT [SNAPSHOT...]",
)
DIFF = Command(
    "diff",
    diff,
    help="What was added (A), changed (C) and deleted (D) since a snapshot, or between two",
    words="SNAPSHOT [SNAPSHOT|MACHINE]",
)
GROUPED = {
    "create": CREATE, "ls": LS, "list": LS, "inspect": INSPECT, "rm": RM, "remove": RM,
    "diff": DIFF,
}  # fmt: skip
COMMANDS = {
    "restore": Command(
        "restore",
        restore,
        help="Put a machine back to a snapshot, its latest unless named",
        flags=(
            Flag("timeout", "timeout", "Seconds that a running machine has to end by itself; "
                 "-1: any", "t", "SECONDS", values.parse_int, aliases=("time",), default=0),
        ),
        words="MACHINE [SNAPSHOT]",
        group=GROUP,
        about="What it has written since is gone. A container that runs is ended and started "
        "again: its command begins anew. What is mounted in it stays as it is. A virtual machine "
        "goes on with the processes that it had, at its next start if it does not run.",
    ),
    "fork": Command(
        "fork",
        fork,
        help="Begin running machines from one as it is now",
        flags=(
            Flag("name", "name", "Name of the fork, or what the names of several begin with", "",
                 "NAME"),
            Flag("number", "count", "How many", "n", "NUMBER", values.parse_int, default=1),
            PAUSE,
        ),
        words="MACHINE",
        group=GROUP,
        about="They are made as the machine was, from the files it has now; the command of a "
        "container begins anew in each. All of them run, or none is left. Those of a virtual "
        "machine that runs go on where it stands, with its memory, copied on write, and with "
        "names, clock and random numbers of their own.",
    ),
}  # fmt: skip
