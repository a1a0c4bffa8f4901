"""``kernel ls/add/fetch/build/rm``: the kernels that virtual machines are started with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import tzinfo

from cove.cli.command import Command, Typed
from cove.cli.each import each
from cove.cli.machines.ps import FORMAT, FULL
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine.calls import kernels as calls
from cove.engine.calls.images import Progress
from cove.errors import UsageError
from cove.oci.manifest import host_platform_of
from cove.shown import table, units
from cove.shown.template import Record
from cove.spec.flags import Flag, parse_platform
from cove.vm.record import Kernel

PROXIES = ("http_proxy", "https_proxy", "no_proxy")

HEADINGS = {
    "Name": "NAME",
    "Version": "VERSION",
    "Arch": "ARCH",
    "Source": "SOURCE",
    "Status": "STATUS",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Origin": "ORIGIN",
    "Digest": "DIGEST",
    "Modules": "MODULES",
}
LISTING = table.Listing(
    HEADINGS,
    "{{.Name}}\t{{.Version}}\t{{.Arch}}\t{{.Source}}\t{{.Status}}\t{{.CreatedSince}}\t{{.Size}}",
    identity="Name",
)


def rows(
    listed: calls.KernelsListed, *, now: float, full: bool, zone: tzinfo | None
) -> Iterator[Record]:
    for kernel in listed.kernels:
        yield _row(kernel, "ready", now=now, full=full, zone=zone)
    for found in listed.host:
        kernel = Kernel(found.version, found.version, "", "host", found.file, found.created,
                        found.size, "")  # fmt: skip
        yield _row(kernel, "found", now=now, full=full, zone=zone)


def _row(kernel: Kernel, status: str, *, now: float, full: bool, zone: tzinfo | None) -> Record:
    digest = kernel.digest if full else kernel.digest.removeprefix("sha256:")[:12]
    return Record(
        Name=kernel.name,
        Version=kernel.version,
        Arch=host_platform_of(kernel.arch).architecture if kernel.arch else "-",
        Source=kernel.source,
        Status=status,
        CreatedSince=units.human_duration(now - kernel.created) + " ago",
        CreatedAt=units.clock_text(kernel.created, zone),
        Size=units.human_size(kernel.size),
        Origin=kernel.origin,
        Digest=digest,
        Modules=str(len(kernel.modules) + len(kernel.later)),
    )


def ls(typed: Typed, terminal: Terminal, client: Client) -> int:
    listed = client.kernel_list(calls.KernelList())
    zone, now = units.time_zone(terminal.env), time.time()
    found = list(rows(listed, now=now, full=typed.on("full"), zone=zone))
    if typed.on("quiet"):
        found = [row for row in found if row["Status"] == "ready"]
    text = typed.text("format")
    terminal.write(table.render(found, LISTING, text, quiet=typed.on("quiet")))
    return 0


def add(typed: Typed, terminal: Terminal, client: Client) -> int:
    name = typed.words[0]
    params = calls.KernelAdd(
        terminal.path(name),
        modules=terminal.path(typed.text("modules")) if typed.text("modules") else "",
        config=terminal.path(typed.text("config")) if typed.text("config") else "",
        name=typed.text("name"),
        typed=name,
    )
    return _show(client.kernel_add(params, terminal.cancelled), typed, terminal)


def fetch(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.KernelFetch(
        platform=typed.text("platform"),
        package=typed.words[0] if typed.words else "",
        env=_proxies(terminal),
    )
    return _show(client.kernel_fetch(params, terminal.cancelled), typed, terminal)


def build(typed: Typed, terminal: Terminal, client: Client) -> int:
    params = calls.KernelBuild(jobs=int(typed.values.get("jobs", 0)), env=_proxies(terminal))
    return _show(client.kernel_build(params, terminal.cancelled), typed, terminal)


def remove(typed: Typed, terminal: Terminal, client: Client) -> int:
    def one(name: str) -> str:
        return client.kernel_remove(calls.KernelRemove(name)).name

    return each(typed.words, terminal, one, lenient=typed.on("force"))


def _show(steps: Iterator[Progress], typed: Typed, terminal: Terminal) -> int:
    """The name on stdout; on stderr how far it is, and whether there was anything to do."""
    for done in follow(steps, terminal, quiet=typed.on("quiet")):
        (name,) = done.tags
        if not done.fresh and not typed.on("quiet"):
            terminal.error(f"Kernel is up to date: {name}\n")
        terminal.write(f"{name}\n")
    return 130 if terminal.cancelled.is_set() else 0


def _proxies(terminal: Terminal) -> tuple[str, ...]:
    return tuple(f"{name}={terminal.env[name]}" for name in PROXIES if terminal.env.get(name))


def parse_jobs(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise UsageError(f'cannot read --jobs "{text}": not a number from 1 to 1024')
    return int(text)


QUIET = Flag("quiet", "quiet", "Show no progress, print only the name", "q")

LS = Command(
    "ls",
    ls,
    help="List kernels for virtual machines",
    flags=(FORMAT, FULL, Flag("quiet", "quiet", "Only names of those that are ready", "q")),
    group="Virtual machines",
    about="A kernel that is installed on this host shows as found; cove kernel add VERSION makes "
    "it ready.",
)
ADD = Command(
    "add",
    add,
    help="Take a kernel of your own: a vmlinuz, vmlinux or Image",
    flags=(
        Flag("config", "config", "Its configuration, where the kernel does not carry it", "",
             "FILE"),
        Flag("modules", "modules", "Its modules, if not those of its version in /lib/modules", "",
             "DIR"),
        Flag("name", "name", "Its name, if not its version", "", "NAME"),
        QUIET,
    ),
    words="FILE|VERSION",
    group="Virtual machines",
    about="It needs CONFIG_PVH on x86-64, and the drivers of virtio, erofs, overlay and ext4, "
    "built in or as modules.",
)  # fmt: skip
FETCH = Command(
    "fetch",
    fetch,
    help="Get Debian's cloud kernel from the host's package sources",
    flags=(
        Flag("platform", "platform", "Another than this host's: linux/arm64", "", "PLATFORM",
             parse_platform),
        QUIET,
    ),
    words="[PACKAGE]",
    group="Virtual machines",
    about="apt downloads and verifies it; nothing is installed.",
)  # fmt: skip
BUILD = Command(
    "build",
    build,
    help="Build the fast kernel: everything a machine needs, and nothing more",
    flags=(Flag("jobs", "jobs", "How many compilers at once, if not one a CPU", "j", "N",
                parse_jobs), QUIET),
    group="Virtual machines",
    about="From Debian's linux-source-6.1, which apt downloads and verifies. It takes minutes, "
    "once, and is called fast.",
)  # fmt: skip
RM = Command(
    "rm",
    remove,
    help="Remove kernels; machines that run keep theirs",
    flags=(Flag("force", "force", "Missing ones are no error", "f"),),
    words="KERNEL [KERNEL...]",
    group="Virtual machines",
)

COMMANDS = {"ls": LS, "list": LS, "add": ADD, "fetch": FETCH, "build": BUILD, "rm": RM,
            "remove": RM}  # fmt: skip
