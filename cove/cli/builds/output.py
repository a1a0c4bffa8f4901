"""``build --output``: the result as files of the caller's, besides or in place of an image in the
store.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from cove.cli.images.save import into_directory
from cove.cli.machines.copy import to_stdout
from cove.cli.terminal import Terminal
from cove.cli.whole import written
from cove.client.api import Client
from cove.engine.calls.build import BuildStep
from cove.engine.calls.ship import ImageSave
from cove.errors import Unsupported, UsageError, printable

LAYOUT = "oci directory"
"""``type=oci,tar=false``."""
FORMATS = {
    "tar": "rootfs", "local": "rootfs", "oci": "oci-archive", LAYOUT: "oci-dir",
    "docker": "docker-archive",
}  # fmt: skip
STORE = ("image", "docker")


@dataclass(frozen=True, slots=True)
class Output:
    kind: str
    target: str = ""
    """File or directory; ``-``: standard output; empty: the store."""

    @property
    def to_store(self) -> bool:
        return not self.target


def parse_output(text: str) -> Output:
    """``type=tar,dest=FILE``, a directory, or ``-``."""
    if text == "-":
        return Output("tar", "-")
    if "=" not in text:
        return Output("local", text)
    words = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals or name not in ("type", "dest", "name", "push", "tar"):
            raise UsageError(f'cannot read output "{printable(text)}": it is type=KIND,dest=FILE')
        words[name] = value
    kind, target = words.get("type", ""), words.get("dest", "")
    if "name" in words and words.get("push", "false") == "false" and kind != "registry":
        raise Unsupported("cannot name the result there: not in this version of cove",
                          hint=f"build it with -t {words['name'] or 'NAME'}")  # fmt: skip
    if words.get("push", "false") != "false" or kind == "registry":
        raise Unsupported(
            "cannot push the result at once: not in this version of cove",
            hint="build it with -t NAME, then: cove push NAME",
        )
    if kind not in (*FORMATS, *STORE):
        raise UsageError(f'no such output: "{printable(kind)}"', hint="tar, local, oci or docker")
    if kind == "local" and not target:
        raise UsageError("cannot write files: no directory is named", hint="type=local,dest=DIR")
    if words.get("tar", "true") != "true":
        return _layout(text, words)
    return Output(kind, target or ("" if kind in STORE else "-"))


def parse_attestation(text: str) -> str:
    """``--provenance`` and ``--sbom``: that there is none may be said."""
    if text.lower() not in ("false", "0", "disabled=true"):
        raise Unsupported("cannot make attestations: not in this version of cove",
                          hint="leave it out, or say that there is none: =false")  # fmt: skip
    return ""


def parse_call(text: str) -> tuple[tuple[str, bool], ...]:
    """``--call``: what is to be done with the Dockerfile."""
    if text not in ("build", "check"):
        raise Unsupported(f'cannot do "{printable(text)}": not in this version of cove',
                          hint="build, or check")  # fmt: skip
    return (("check", text == "check"),)


def _layout(text: str, words: dict[str, str]) -> Output:
    if words["tar"] != "false" or words.get("type") != "oci":
        raise UsageError(
            f'cannot read output "{printable(text)}": tar=false is for type=oci alone',
            hint="a directory of files: type=local,dest=DIR",
        )
    if not words.get("dest"):
        raise UsageError(
            "cannot write an OCI layout: no directory is named", hint="type=oci,tar=false,dest=DIR"
        )
    return Output(LAYOUT, words["dest"])


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
