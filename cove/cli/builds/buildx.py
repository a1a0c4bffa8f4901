"""``buildx``: what scripts say for ``build``, and for the one builder that cove has."""

from __future__ import annotations

import copy
import time

from cove.cli.builds.build import BUILD
from cove.cli.builds.builder import PRUNE
from cove.cli.builds.imagetools import IMAGETOOLS
from cove.cli.builds.pushed import BUILDER, parse_builder
from cove.cli.command import Command, Group, Typed
from cove.cli.system.disk import size_text
from cove.cli.system.info import own_version
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.oci.manifest import host_platform_of
from cove.shown import table
from cove.shown.template import Record
from cove.shown.units import human_duration
from cove.spec.flags import Flag

ONE = f"cove has one builder, called {BUILDER}, which is always there"
LATER = {
    "bake": "cove reads no bake files",
    "create": ONE,
    "history": "cove keeps no records of builds",
    "dial-stdio": "cove's builder speaks no protocol of BuildKit's",
    "install": "build is cove's own anyway",
    "rm": ONE,
    "stop": ONE,
    "uninstall": "build is cove's own anyway",
}
INSTEAD = {
    "bake": "cove build for each target, or docker-compose build",
    "create": "leave it out: platforms, caches and --push need no other builder",
    "history": "what the cache keeps: cove buildx du",
    "rm": "what it keeps goes by: cove builder prune",
    "stop": "it takes nothing while no build runs",
}

# ---- the builder ----

LISTING = table.Listing(
    {"Name": "NAME/NODE", "DriverEndpoint": "DRIVER/ENDPOINT", "Status": "STATUS",
     "Buildkit": "BUILDKIT", "Platforms": "PLATFORMS"},
    "{{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}",
)  # fmt: skip
CACHE = table.Listing(
    {"ID": "ID", "Reclaimable": "RECLAIMABLE", "Size": "SIZE", "LastAccessed": "LAST ACCESSED"},
    "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastAccessed}}",
)


def version(typed: Typed, terminal: Terminal, client: Client) -> int:
    terminal.write(f"cove {own_version()}\n")
    return 0


def platforms(client: Client) -> str:
    """This host's, and those that it emulates."""
    seen = client.info()
    return ", ".join((str(host_platform_of(seen.facts.arch)), *seen.emulated))


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    form = typed.text("format")
    star = "*" if table.template_of(form, LISTING)[0] else ""
    row = Record(
        Name=BUILDER + star, DriverEndpoint="cove", Status="running", Buildkit="-",
        Platforms=platforms(client),
    )  # fmt: skip
    terminal.write(table.render([row], LISTING, form))
    return 0


def inspect(typed: Typed, terminal: Terminal, client: Client) -> int:
    parse_builder(typed.words[0] if typed.words else "")
    terminal.write(
        f"Name:          {BUILDER}\nDriver:        cove\n\nNodes:\n"
        f"Name:          {BUILDER}\nEndpoint:      {BUILDER}\nStatus:        running\n"
        f"Platforms:     {platforms(client)}\n"
    )
    return 0


def use(typed: Typed, terminal: Terminal, client: Client) -> int:
    parse_builder(typed.words[0])
    return 0


def du(typed: Typed, terminal: Terminal, client: Client) -> int:
    seen, now, form = client.disk_usage(), time.time(), typed.text("format")
    rows = [
        Record(
            ID=one.record.key,
            Reclaimable=str(not one.in_use).lower(),
            Size=size_text(one.size) + ("*" if one.shared else ""),
            LastAccessed=human_duration(now - one.record.used) + " ago",
        )
        for one in seen.cached
    ]
    terminal.write(table.render(rows, CACHE, form))
    if not form:
        idle = sum(one.size for one in seen.cached if not (one.in_use or one.shared))
        terminal.write(f"Reclaimable:\t{size_text(idle)}\nTotal:\t\t{size_text(seen.cache)}\n")
    return 0


VERSION = Command("version", version, help="Print the version of cove", group="Images")
LS = Command(
    "ls",
    ls,
    help="List builders: the one that there is",
    flags=(Flag("format", "format", "table, json, or a template: {{.Name}} {{.Platforms}}", "",
                "FORMAT"),),
    group="Images",
)  # fmt: skip
INSPECT = Command(
    "inspect",
    inspect,
    help="Show the builder, and the platforms that it builds for",
    flags=(Flag("bootstrap", "bootstrap", "Accepted: it is always there"),),
    words="[BUILDER]",
    group="Images",
)
USE = Command(
    "use",
    use,
    help="Accepted for default: there is no other builder",
    flags=(
        Flag("default", "default", "Accepted: there is no other"),
        Flag("global", "global", "Accepted: there is no other"),
    ),
    words="BUILDER",
    group="Images",
)
DU = Command(
    "du",
    du,
    help="Show what the build cache keeps",
    flags=(Flag("format", "format", "table, json, or a template: {{.ID}} {{.Size}}", "",
                "FORMAT"),),
    group="Images",
    about="A size with * is shared: an image has it, too.",
)  # fmt: skip
B = copy.copy(BUILD)
B.hidden = True
BUILDX = Group(
    "buildx",
    {"build": BUILD, "b": B, "du": DU, "imagetools": IMAGETOOLS, "inspect": INSPECT, "ls": LS,
     "prune": PRUNE, "use": USE, "version": VERSION},
    help="As scripts say it: build, and images in registries",
    group="Images",
    flags=(
        Flag("builder", "builder", "Accepted as default: cove has one builder", "", "default",
             parse_builder),
        Flag("debug", "debug", "Show where an error comes from", "D"),
    ),
    later=LATER,
    instead=INSTEAD,
    about="build is `cove build`, prune is `cove builder prune`.",
)  # fmt: skip
