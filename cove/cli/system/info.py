"""``info`` and ``version``: what this cove and this host are."""

from __future__ import annotations

import os
import time
from typing import Any

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.client.verbs import PROTOCOL
from cove.engine import calls
from cove.errors import CoveError, printable
from cove.oci.manifest import host_platform_of
from cove.shown import functions, units
from cove.shown.info import info_document
from cove.shown.template import Record, compile_template
from cove.spec.flags import Flag


def own_version() -> str:
    from cove import __version__

    return str(__version__)


def info_text(seen: calls.Info, now: float) -> str:
    facts = seen.facts
    machines = ", ".join(f"{count} {state}" for state, count in sorted(seen.machines.items()))
    features = {
        "idmapped mounts": facts.idmapped_mounts,
        "seccomp": facts.seccomp,
        "names of refused system calls": facts.audit,
        "swap limits": facts.swap,
    }
    rows = [
        ("version", seen.version),
        ("daemon", f"pid {seen.pid}, up {units.human_duration(now - seen.started).lower()}"),
        ("state directory", seen.root),
        ("docker's api", f"unix://{seen.docker_socket}"),
        ("disk", f"{units.human_size(seen.disk_free)} of {units.human_size(seen.disk_total)} free"),
        ("machines", machines or "none"),
        ("images", str(seen.images)),
        ("host", f"{seen.host}, {seen.system}".strip(", ")),
        ("kernel", f"{facts.kernel[0]}.{facts.kernel[1]} {facts.arch}"),
        ("cpus, memory", f"{facts.cpus}, {units.binary_size(facts.memory)}"),
        ("cgroups", f"{facts.cgroup}: {' '.join(sorted(facts.controllers))}"),
        ("security modules", " ".join(facts.lsm) or "none"),
        ("can", ", ".join(name for name, there in features.items() if there) or "-"),
        ("cannot", ", ".join(name for name, there in features.items() if not there) or "-"),
        ("isolation", "container, vm"),
        ("virtual machines", printable(seen.virtual)),
        ("emulates", ", ".join(seen.emulated) or "no other CPU"),
        ("emulates in vms", printable("; ".join(seen.emulated_guests)) or "no other CPU"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    text = "".join(f"{name + ':':<{width}}{value}\n" for name, value in rows)
    return printable(text + "".join(f"warning: {w}\n" for w in seen.warnings))


def info(typed: Typed, terminal: Terminal, client: Client) -> int:
    seen, form = client.info(), typed.text("format")
    terminal.write(_formed(info_document(seen), form) if form else info_text(seen, time.time()))
    return 0


def docker_socket(typed: Typed, terminal: Terminal, client: Client) -> int:
    """For ``export DOCKER_HOST=$(cove system docker-socket)``."""
    terminal.write(f"unix://{client.info().docker_socket}\n")
    return 0


def _formed(document: Record, form: str) -> str:
    if form == "json":
        return functions.to_json(document) + "\n"
    return printable(compile_template(form).render(document) + "\n")


def _go_name(arch: str) -> str:
    """As Go and Docker call a machine's kind."""
    return host_platform_of(arch).architecture


def version(typed: Typed, terminal: Terminal, client: Client) -> int:
    """The client's own is told even when no daemon answers."""
    form = typed.text("format")
    document: dict[str, Any] = {
        "Client": Record(
            Version=own_version(),
            ApiVersion=str(PROTOCOL),
            Os="linux",
            Arch=_go_name(os.uname().machine),
            Context="default",
        )
    }
    failure: CoveError | None = None
    if form != "cove {{.Client.Version}}":
        try:
            seen = client.version()
            document["Server"] = Record(
                Version=seen.version,
                ApiVersion=str(seen.protocol),
                Os="linux",
                Arch=_go_name(seen.arch),
                KernelVersion=seen.kernel,
                PythonVersion=seen.python,
                Built=seen.built,
            )
        except CoveError as error:
            failure = error
    if form:
        terminal.write(_formed(Record(document), form))
    else:
        terminal.write(_version_text(document))
    if failure:
        terminal.error(failure.render())
    return 1 if failure else 0


VERSIONS = (
    ("Version", "Version", "{Version}"),
    ("ApiVersion", "API version", "{ApiVersion}"),
    ("PythonVersion", "Python version", "{PythonVersion}"),
    ("KernelVersion", "Kernel version", "{KernelVersion}"),
    ("Built", "Built", "{Built}"),
    ("Os", "OS/Arch", "{Os}/{Arch}"),
    ("Context", "Context", "{Context}"),
)
"""The lines of ``version``, in Docker's words: a field, what it is called, how it is shown."""


def _version_text(document: dict[str, Any]) -> str:
    parts = []
    for title, part in document.items():
        lines = [(words, form.format(**part)) for name, words, form in VERSIONS if part.get(name)]
        text = "".join(f" {words + ':':<16} {value}\n" for words, value in lines)
        parts.append(f"{title}:\n{text}")
    return printable("\n".join(parts))


FORMAT = Flag("format", "format", "json, or a template", "f", "FORMAT")

COMMANDS = {
    "info": Command("info", info, help="About this host, its state directory and what it can do",
                    flags=(FORMAT,), group="cove"),
    "version": Command("version", version, help="Versions of the command and the daemon",
                       flags=(FORMAT,), group="cove"),
}  # fmt: skip
SYSTEM = {
    "docker-socket": Command(
        "docker-socket",
        docker_socket,
        help="Where Docker's clients find cove: export DOCKER_HOST=$(cove system docker-socket)",
    )
}
