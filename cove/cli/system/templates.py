"""``template ls/rm``: guests that have booted, of which virtual machines are clones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import tzinfo

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines.ps import FORMAT, FULL
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls import templates as calls
from cove.oci.manifest import host_platform_of
from cove.shown import table, units
from cove.shown.template import Record
from cove.spec.flags import Flag

SHORT = 12

HEADINGS = {
    "ID": "TEMPLATE ID",
    "Kernel": "KERNEL",
    "Memory": "MEMORY",
    "CPUs": "CPUS",
    "Status": "STATUS",
    "Warm": "WARM",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Version": "VERSION",
    "Emulator": "QEMU",
    "Accelerator": "ACCELERATOR",
    "Arch": "ARCH",
}
LISTING = table.Listing(
    HEADINGS,
    "{{.ID}}\t{{.Kernel}}\t{{.Memory}}\t{{.CPUs}}\t{{.Status}}\t{{.Warm}}\t{{.CreatedSince}}\t{{.Size}}",
    identity="ID",
)


def rows(
    listed: calls.TemplatesListed, *, now: float, full: bool, zone: tzinfo | None
) -> Iterator[Record]:
    for found, ready, warm in zip(listed.templates, listed.ready, listed.warm, strict=True):
        yield Record(
            ID=found.key if full else found.key[:SHORT],
            Kernel=found.kernel,
            Memory=units.binary_size(found.memory),
            CPUs=str(found.cpus),
            Status="ready" if ready else "expired",
            Warm=str(warm),
            CreatedSince=units.human_duration(now - found.created) + " ago",
            CreatedAt=units.clock_text(found.created, zone),
            Size=units.human_size(found.size),
            Version=found.version,
            Emulator=found.emulator,
            Accelerator=found.accel,
            Arch=host_platform_of(found.arch).architecture,
        )


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    listed = client.template_list(calls.TemplateList())
    zone, now = units.time_zone(terminal.env), time.time()
    found = list(rows(listed, now=now, full=typed.on("full"), zone=zone))
    text = typed.text("format")
    terminal.write(table.render(found, LISTING, text, quiet=typed.on("quiet")))
    return 0


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    def one(name: str) -> str:
        return client.template_remove(calls.TemplateRemove(name)).key

    return each(typed.words, terminal, one, lenient=typed.on("force"))


LS = Command(
    "ls",
    ls,
    help="List templates: guests that have booted and wait to be cloned",
    flags=(FORMAT, FULL, Flag("quiet", "quiet", "Only their ids", "q")),
    group="Virtual machines",
    about="One is made after the first start of its kernel and size, and serves every image. It "
    "expires with kernel, agent or QEMU.",
)
RM = Command(
    "rm",
    remove,
    help="Remove templates; machines that run keep what they have of them",
    flags=(Flag("force", "force", "Missing ones are no error", "f"),),
    words="TEMPLATE [TEMPLATE...]",
    group="Virtual machines",
    about="The next start boots, and makes one anew.",
)

COMMANDS = {"ls": LS, "list": LS, "rm": RM, "remove": RM}
