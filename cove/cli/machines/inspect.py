"""``inspect``: all about machines and images, as JSON or by a template."""

from __future__ import annotations

import json
from collections.abc import Callable

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import CoveError, NotFound, UsageError, printable
from cove.shown import functions, table
from cove.shown.images import image_document
from cove.shown.machines import machine_document
from cove.shown.template import Record, compile_template
from cove.spec.flags import Flag, parse_platform


def inspect(typed: Typed, terminal: Terminal, client: Client) -> int:
    return show(typed, terminal, client, typed.text("type"))


def machine_inspect(typed: Typed, terminal: Terminal, client: Client) -> int:
    return show(typed, terminal, client, "machine")


def image_inspect(typed: Typed, terminal: Terminal, client: Client) -> int:
    return show(typed, terminal, client, "image")


def show(typed: Typed, terminal: Terminal, client: Client, kind: str) -> int:
    sizes, platform = typed.on("size"), typed.text("platform")
    return each(typed, terminal, lambda name: find(name, client, kind, platform, sizes=sizes))


def find(name: str, client: Client, kind: str, platform: str, *, sizes: bool) -> Record:
    if kind in ("machine", "container", ""):
        try:
            return machine_document(client.inspect(calls.Inspect(name, sizes)))
        except NotFound:
            if kind:
                raise
    try:
        return image_document(client.image(calls.ImageInspect(name, platform)))
    except (NotFound, UsageError) as absent:  # a machine's name may be no image's
        if kind:
            raise
        raise NotFound(
            f"cannot inspect {name}: no machine or image has this name",
            hint="cove ps -a and cove images list them",
        ) from absent


def each(typed: Typed, terminal: Terminal, document: Callable[[str], Record]) -> int:
    """One JSON list of all, or a line a thing; what is not found is told last, with exit code 1."""
    documents: list[Record] = []
    errors: list[CoveError] = []
    for name in typed.words:
        try:
            documents.append(document(name))
        except NotFound as error:
            errors.append(error)
    terminal.write(documents_text(documents, typed.text("format"), escape=terminal.is_terminal(1)))
    for missing in errors:
        terminal.error(missing.render())
    return 1 if errors else 0


def documents_text(documents: list[Record], form: str, *, escape: bool) -> str:
    if form == "json":
        return functions.to_json(documents) + "\n"
    if not form:
        text = json.dumps(functions.plain(documents), indent=4, ensure_ascii=False) + "\n"
        return printable(text) if escape else text
    template = compile_template(form.removeprefix("table ") if form.startswith("table ") else form)
    text = "".join(template.render(document) + "\n" for document in documents)
    return table.safe(text) if escape else text


def parse_type(text: str) -> str:
    if text not in ("machine", "container", "image"):
        raise UsageError(f'cannot inspect a "{text}": the types are machine and image')
    return text


FORMAT = Flag("format", "format", "json, or a template: {{.State.Status}}", "f", "FORMAT")
SIZE = Flag("size", "size", "Also how much it has written", "s")

ANY = Command(
    "inspect",
    inspect,
    help="All about machines and images",
    flags=(FORMAT, SIZE, Flag("type", "type", "machine or image", "", "TYPE", parse_type)),
    words="NAME [NAME...]",
    group="Look",
)
MACHINE = Command(
    "inspect",
    machine_inspect,
    help="All about machines",
    flags=(FORMAT, SIZE),
    words="MACHINE [MACHINE...]",
)
IMAGE = Command(
    "inspect",
    image_inspect,
    help="All about images",
    flags=(
        FORMAT,
        Flag("platform", "platform", "Of several that a name means: linux/arm64", "", "PLATFORM",
             parse_platform),
    ),
    words="IMAGE [IMAGE...]",
)  # fmt: skip
