"""``volume create/ls/inspect/rm/prune``, as Docker spells them, and ``backup/restore/clone``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cove.cli.ask import ELSEWHERE, confirmed, must_go_elsewhere
from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines import inspect
from cove.cli.machines.copy import to_stdout
from cove.cli.system.disk import size_text
from cove.cli.terminal import Terminal
from cove.cli.whole import written
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls import volumes as of_volumes
from cove.errors import UsageError
from cove.shown import filters, table
from cove.shown.template import Record
from cove.shown.volumes import KEYS, SCOPE, document, keep
from cove.spec import values, volume
from cove.spec.flags import Flag

HEADINGS = {
    "Driver": "DRIVER",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}
LISTING = table.Listing(HEADINGS, "{{.Driver}}\t{{.Name}}")


def create(typed: Typed, terminal: Terminal, client: Client) -> int:
    named, word = typed.text("name"), typed.words[0] if typed.words else ""
    if named and word:
        raise UsageError("cannot name a volume twice: leave --name out")
    spec = volume.VolumeSpec(
        name=word or named,
        labels=dict(typed.values.get("labels", ())),
        options=dict(typed.values.get("options", ())),
    )
    volume.check_volume(spec)
    terminal.write(client.volume_create(of_volumes.VolumeCreate(spec)).name + "\n")
    return 0


# ---- the list ----


def row(found: of_volumes.Volume, usage: calls.VolumeUsage | None) -> Record:
    record = found.record
    return Record(
        Name=record.name,
        Driver="local",
        Scope=SCOPE,
        Mountpoint=found.mountpoint,
        Labels=",".join(f"{name}={value}" for name, value in sorted(record.labels.items())),
        Label=lambda name: record.labels.get(name, ""),
        Links=str(usage.links) if usage else "N/A",
        Size=size_text(usage.size) if usage else "N/A",
        Availability="N/A",
        Group="N/A",
        Status="N/A",
    )


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    wanted = filters.gather(typed.values.get("filter", ()), KEYS)
    found = keep(client.volume_list(of_volumes.VolumeList()).volumes, wanted)
    form = typed.text("format")
    sized = ".Size" in form or ".Links" in form
    sizes = {usage.name: usage for usage in client.disk_usage().volumes} if sized else {}
    rows = [row(one, sizes.get(one.record.name)) for one in found]
    if typed.on("quiet") and not form:
        terminal.write("".join(f"{one.record.name}\n" for one in found))
    else:
        terminal.write(table.render(rows, LISTING, form))
    return 0


# ---- one ----


def inspect_(typed: Typed, terminal: Terminal, client: Client) -> int:
    return inspect.each(
        typed,
        terminal,
        lambda name: document(client.volume_inspect(of_volumes.VolumeInspect(name))),
    )


# ---- what is in one ----


def backup(typed: Typed, terminal: Terminal, client: Client) -> int:
    params, name = of_volumes.VolumeBackup(typed.words[0]), typed.text("output")
    if name in ("", "-"):
        if terminal.is_terminal(1):
            raise UsageError(
                "cannot write a backup to your terminal",
                hint="name a file: -o FILE, or redirect it: > FILE",
                exit_code=1,
            )
        to_stdout(
            terminal, lambda: client.volume_backup(params, terminal.fds[1], terminal.cancelled)
        )
        return 0
    with written(terminal, name) as fd:
        client.volume_backup(params, fd, terminal.cancelled)
    return 0


def restore(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, source = typed.words
    params = of_volumes.VolumeRestore(volume.parse_volume_name(name), typed.on("force"))
    with opened(terminal, source) as fd:
        client.volume_restore(params, calls.Call(body=fd, cancelled=terminal.cancelled))
    terminal.write(name + "\n")
    return 0


@contextmanager
def opened(terminal: Terminal, name: str) -> Iterator[int]:
    if name == "-":
        yield terminal.fds[0]
        return
    try:
        fd = os.open(terminal.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UsageError(
            f"cannot read {name}: {(error.strerror or '').lower()}", origin=name, exit_code=1
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


def clone(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = of_volumes.VolumeClone(typed.words[0], volume.parse_volume_name(typed.words[1]))
    terminal.write(client.volume_clone(params, terminal.cancelled).name + "\n")
    return 0


# ---- removal ----


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    def one(name: str) -> str:
        client.volume_remove(of_volumes.VolumeRemove(name))
        return name

    return each(typed.words, terminal, one, lenient=typed.on("force"))


def prune(typed: Typed, terminal: Terminal, client: Client) -> int:
    wanted = filters.gather(typed.values.get("filter", ()), ("label", "label!", "all"))
    everything = typed.on("all") or any(map(values.parse_bool, wanted.get("all", ())))
    what = "all" if everything else "anonymous"
    question = f"WARNING! This will remove {what} local volumes not used by at least one container."
    if not typed.on("force"):
        if must_go_elsewhere(terminal):
            return ELSEWHERE
        if not confirmed(terminal, question):
            return 0
    given: dict[str, Any] = {
        "labels": wanted.get("label", ()),
        "without": wanted.get("label!", ()),
    }
    pruned = client.volume_prune(of_volumes.VolumePrune(everything, **given))
    text = ""
    if pruned.names:
        text = "Deleted Volumes:\n" + "".join(f"{name}\n" for name in pruned.names) + "\n"
    terminal.write(text + f"Total reclaimed space: {size_text(pruned.reclaimed)}\n")
    return 0


# ---- the commands ----

GROUP = "Volumes"
FORMAT = Flag("format", "format", "table, json, or a template: {{.Name}} {{.Mountpoint}}", "",
              "FORMAT")  # fmt: skip

CREATE = Command(
    "create",
    create,
    help="Make a volume; one that is there stays as it is",
    flags=(
        Flag("driver", "driver", "Only local", "d", "DRIVER", volume.parse_driver,
             default="local"),
        Flag("label", "labels", "Attach a label", "", "NAME[=VALUE]", values.parse_label,
             repeat=True),
        Flag("opt", "options", "size=1g: no more than that; block: a disk; type=none, o=bind, "
             "device=/path: that directory", "o", "NAME=VALUE", volume.parse_option, repeat=True),
        Flag("name", "name", "Its name", "", "NAME", volume.parse_volume_name),
    ),
    words="[VOLUME]",
    refused={
        "availability": ("cove has no swarm", True),
        "group": ("cove has no swarm", True),
        "limit-bytes": ("cove has no swarm", True),
        "required-bytes": ("cove has no swarm", True),
        "scope": ("cove has no swarm", True),
        "secret": ("cove has no swarm", True),
        "sharing": ("cove has no swarm", True),
        "topology-preferred": ("cove has no swarm", True),
        "topology-required": ("cove has no swarm", True),
        "type": ("cove has no swarm", True),
    },
    about="Ids in a volume are those that machines see, whoever they are outside: every machine "
    "finds its files as they were written.",
)  # fmt: skip
LS = Command(
    "ls",
    ls,
    help="List volumes",
    flags=(
        Flag("filter", "filter", "Only what matches", "f", "FILTER", filters.parse_filter,
             repeat=True),
        FORMAT,
        Flag("quiet", "quiet", "Only names", "q"),
    ),
    refused={"cluster": ("cove has no swarm", False)},
    about=f"Filters: {', '.join(KEYS)}.",
)  # fmt: skip
INSPECT = Command(
    "inspect",
    inspect_,
    help="All about volumes, and which machines have them",
    flags=(inspect.FORMAT,),
    words="VOLUME [VOLUME...]",
)
RM = Command(
    "rm",
    remove,
    help="Remove volumes that no machine has",
    flags=(Flag("force", "force", "No error where there is none", "f"),),
    words="VOLUME [VOLUME...]",
)
PRUNE = Command(
    "prune",
    prune,
    help="Remove the volumes that no machine has and nobody named",
    flags=(
        Flag("all", "all", "Also those that somebody named", "a"),
        Flag("filter", "filter", "Only what matches: label=NAME", "", "FILTER",
             filters.parse_filter, repeat=True),
        Flag("force", "force", "Do not ask", "f"),
    ),
    about="Filters: label, label!, all.",
)  # fmt: skip
BACKUP = Command(
    "backup",
    backup,
    help="Write what is in a volume as a tar",
    flags=(Flag("output", "output", "To this file; else to standard output", "o", "FILE"),),
    words="VOLUME",
    about="With owners, modes, links, attributes and holes. A machine that writes meanwhile goes "
    "on: pause it for files of one moment.",
)
RESTORE = Command(
    "restore",
    restore,
    help="Make a volume of a tar",
    flags=(Flag("force", "force", "What is in the volume now is replaced", "f"),),
    words="VOLUME FILE|-",
    about="The tar may be compressed. The volume is what it was until all of it is there.",
)
CLONE = Command(
    "clone",
    clone,
    help="Copy a volume to a new one",
    words="VOLUME NAME",
    about="Its labels come along. Blocks are shared where the file system can.",
)
GROUPED = {
    "create": CREATE, "ls": LS, "list": LS, "inspect": INSPECT, "rm": RM, "remove": RM,
    "prune": PRUNE, "backup": BACKUP, "restore": RESTORE, "clone": CLONE,
}  # fmt: skip
