"""``build --output``: the result as files of the caller's, besides or in place of an image in the
store.
"""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from dataclasses import dataclass

from cove.cli.command import Typed
from cove.cli.images.push import COMPRESSIONS
from cove.cli.images.save import into_directory
from cove.cli.machines.copy import to_stdout
from cove.cli.terminal import Terminal
from cove.cli.whole import written
from cove.client.api import Client
from cove.engine.calls.build import BuildStep
from cove.engine.calls.ship import ImageSave
from cove.errors import Unsupported, UsageError, printable
from cove.spec import values

LAYOUT = "oci directory"
"""``type=oci,tar=false``."""
FORMATS = {
    "tar": "rootfs", "local": "rootfs", "oci": "oci-archive", LAYOUT: "oci-dir",
    "docker": "docker-archive",
}  # fmt: skip
STORE = ("image", "docker")


WORDS = ("type", "dest", "name", "push", "tar", "compression", "oci-mediatypes")


@dataclass(frozen=True, slots=True)
class Output:
    kind: str
    target: str = ""
    """File or directory; ``-``: standard output; empty: the store."""
    names: tuple[str, ...] = ()
    """Of the image, besides those of ``--tag``."""
    push: bool = False
    """To the registries of its names, too."""
    compression: str = ""
    """Of layers that they have not: gzip or zstd; empty: gzip."""

    @property
    def to_store(self) -> bool:
        return not self.target


def parse_output(text: str) -> Output:
    """``type=tar,dest=FILE``, a directory, or ``-``."""
    if text == "-":
        return Output("tar", "-")
    if "=" not in text:
        return Output("local", text)
    words = _words(text)
    kind, target = words.get("type", ""), words.get("dest", "")
    if kind == "registry":
        kind, words = "image", {"push": "true", **words}
    if kind not in (*FORMATS, *STORE):
        raise UsageError(f'no such output: "{printable(kind)}"',
                         hint="tar, local, oci, docker, image or registry")  # fmt: skip
    if kind == "local" and not target:
        raise UsageError("cannot write files: no directory is named", hint="type=local,dest=DIR")
    if kind == "image" and target:
        raise UsageError(f'cannot read output "{printable(text)}": an image goes into the store',
                         hint="as a file: type=oci or docker")  # fmt: skip
    if values.parse_bool(words.get("tar", "true")):
        target = target or ("" if kind in STORE else "-")
    else:
        kind = _layout(text, words)
    names = tuple(name for name in words.get("name", "").split(",") if name)
    push = values.parse_bool(words.get("push", "false"))
    return Output(kind, target, names, push, parse_compression(words.get("compression", "")))


def check_one(typed: Typed) -> None:
    """Two would be written by BuildKit; here the first would be forgotten."""
    if sum(flag.field == "output" for flag, _ in typed.flags) > 1:
        raise Unsupported(
            "cannot write a result twice: not in this version of cove",
            origin="--output",
            hint="build once for each; the second finds everything in the cache",
        )


def _words(text: str) -> dict[str, str]:
    """``NAME=VALUE`` with commas between them; in quotes where a value has some."""
    words = {}
    for part in next(csv.reader((text,)), []):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise UsageError(f'cannot read output "{printable(text)}": it is type=KIND,dest=FILE')
        if name not in WORDS or (name == "oci-mediatypes" and not values.parse_bool(value)):
            raise Unsupported(f'cannot use "{printable(part)}" of an output: not in this version '
                              "of cove", hint=f"an output has {', '.join(WORDS)}")  # fmt: skip
        words[name] = value
    return words


def parse_compression(text: str) -> str:
    if text not in ("", *COMPRESSIONS):
        raise Unsupported(
            f'cannot compress layers as "{printable(text)}": not in this version of cove',
            hint=f"one of {', '.join(COMPRESSIONS)}",
        )
    return text


def parse_attestation(text: str) -> str:
    """``--provenance`` and ``--sbom``: that there is none may be said."""
    if text.lower() not in ("false", "0", "disabled=true"):
        raise Unsupported("cannot make attestations: not in this version of cove",
                          hint="leave it out, or say that there is none: =false")  # fmt: skip
    return ""


def parse_attestations(text: str) -> str:
    """``--attest type=sbom,disabled=true``."""
    return parse_attestation("false" if "disabled=true" in text.split(",") else text)


def parse_call(text: str) -> tuple[tuple[str, bool], ...]:
    """``--call``: what is to be done with the Dockerfile."""
    if text not in ("build", "check"):
        raise Unsupported(f'cannot do "{printable(text)}": not in this version of cove',
                          hint="build, or check")  # fmt: skip
    return (("check", text == "check"),)


def _layout(text: str, words: dict[str, str]) -> str:
    if words.get("type") != "oci":
        raise UsageError(
            f'cannot read output "{printable(text)}": tar=false is for type=oci alone',
            hint="a directory of files: type=local,dest=DIR",
        )
    if not words.get("dest"):
        raise UsageError(
            "cannot write an OCI layout: no directory is named", hint="type=oci,tar=false,dest=DIR"
        )
    return LAYOUT


def write(output: Output, done: BuildStep, terminal: Terminal, client: Client) -> None:
    """Names stay in the store; what has none goes with the command: it was only asked for so."""
    tags = done.tags
    names = tags if tags and output.kind in ("oci", LAYOUT, "docker") else done.images
    params = ImageSave(names, FORMATS[output.kind], joined=not tags)
    if output.kind == "local":
        _unpack(params, output.target, terminal, client)
    elif output.kind == LAYOUT:
        into_directory(
            terminal, output.target,
            lambda fd: client.image_save(params, fd, terminal.cancelled),
        )  # fmt: skip
    elif output.target == "-":
        if terminal.is_terminal(1):
            raise UsageError(
                "cannot write the result to your terminal", hint="name a file: dest=FILE",
                exit_code=1,
            )  # fmt: skip
        fd = terminal.fds[1]
        to_stdout(terminal, lambda: client.image_save(params, fd, terminal.cancelled))
    else:
        with written(terminal, output.target) as fd:
            client.image_save(params, fd, terminal.cancelled)


def _unpack(params: ImageSave, target: str, terminal: Terminal, client: Client) -> None:
    """As the caller, below the directory, whatever the image holds."""
    from cove.client.files import unpacker

    path = terminal.path(target)
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise UsageError(f"cannot write {target}: {reason}", origin=target, exit_code=1) from error
    inside = unpacker(os.fsencode(path), owners=False, shown=target)
    with inside as (_, sink), suppress(BrokenPipeError):  # it says why
        client.image_save(params, sink, terminal.cancelled)
