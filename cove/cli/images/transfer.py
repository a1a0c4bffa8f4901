"""``image copy``: from one registry, directory or archive to another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cove.cli.command import Command, Typed
from cove.cli.images.pull import login_for
from cove.cli.images.save import into_directory
from cove.cli.progress import follow
from cove.cli.terminal import Terminal
from cove.cli.whole import written
from cove.client.api import Client
from cove.engine import calls
from cove.engine.calls.ship import ImageCopied, ImageCopy
from cove.errors import UsageError
from cove.oci.places import DIRECTORY, Place, parse_place
from cove.oci.reference import parse_reference
from cove.spec.flags import Flag, parse_platform

FORMS = ("oci", "docker")
COMPRESSIONS = ("gzip", "zstd", "none")


def parse_form(text: str) -> str:
    if text not in FORMS:
        raise UsageError(f'no such format: "{text}"', hint=f"one of {', '.join(FORMS)}")
    return text


def parse_compression(text: str) -> str:
    if text not in COMPRESSIONS:
        raise UsageError(f'no such compression: "{text}"', hint=f"one of {', '.join(COMPRESSIONS)}")
    return text


def convert(typed: Typed, terminal: Terminal, client: Client) -> int:
    if not (typed.text("form") or typed.text("compression")):
        raise UsageError(
            "cannot convert: into what?",
            hint="--format oci|docker, --compression gzip|zstd|none; as it is: cove image copy",
        )
    return copy(typed, terminal, client)


def copy(typed: Typed, terminal: Terminal, client: Client) -> int:
    source, target = parse_place(typed.words[0]), parse_place(typed.words[1])
    every = typed.on("every")
    if every and typed.text("platform"):
        raise UsageError("cannot copy all platforms and one of them", origin="--all --platform")
    params = ImageCopy(
        source.text,
        target.text,
        typed.text("platform"),
        every=every,
        form=typed.text("form"),
        compression=typed.text("compression"),
        source_login=None if source.local else login_for(terminal, source.name),
        target_login=None if target.local else login_for(terminal, target.name),
    )
    with _source(terminal, source) as body:
        if target.local:
            _out(params, target, body, terminal, client)
        else:
            _to_registry(typed, params, target, body, terminal, client)
    return 130 if terminal.cancelled.is_set() else 0


def _to_registry(
    typed: Typed, params: ImageCopy, target: Place, body: int, terminal: Terminal, client: Client
) -> None:
    call = calls.Call(body=body, cancelled=terminal.cancelled)
    quiet = typed.on("quiet")
    for done in follow(client.image_copy(params, call), terminal, quiet=quiet):
        name = parse_reference(target.name)
        terminal.write(
            f"{name}\n"
            if quiet
            else f"{name.familiar()}: digest: {done.digest} size: {done.total}\n"
        )


def _out(params: ImageCopy, target: Place, body: int, terminal: Terminal, client: Client) -> None:
    found: list[ImageCopied] = []

    def send(sink: int) -> None:
        call = calls.Call(body=body, sink=sink, cancelled=terminal.cancelled)
        found.append(client.image_copy_out(params, call))

    if target.kind == DIRECTORY:
        into_directory(terminal, target.path, send)
    else:
        with written(terminal, target.path) as fd:
            send(fd)
    terminal.write(
        "".join(f"{target.text}: digest: {one.digest} size: {one.size}\n" for one in found)
    )


@contextmanager
def _source(terminal: Terminal, place: Place) -> Iterator[int]:
    """Opened by the caller, in his directory."""
    if not place.local:
        yield -1
        return
    try:
        with terminal.open_input(place.path) as fd:
            yield fd
    except OSError as error:
        if error.filename is None:
            raise
        reason = (error.strerror or os.strerror(error.errno or 0)).lower()
        raise UsageError(
            f"cannot copy {place.text}: {reason}", origin=place.text, exit_code=1
        ) from error


CHOICE = (
    Flag("all", "every", "All platforms, not only this host's", "a"),
    Flag("platform", "platform", "Another than this host's: linux/arm64", "", "PLATFORM",
         parse_platform),
    Flag("quiet", "quiet", "Show no progress, print only the name", "q"),
)  # fmt: skip
COPY = Command(
    "copy",
    copy,
    help="Copy an image between registries, directories and archives, past the store",
    flags=CHOICE,
    words="SRC DST",
    group="Images",
    about="A place is docker://NAME or NAME (a registry), oci:DIR[:TAG], oci-archive:FILE[:TAG] or "
    "docker-archive:FILE[:NAME]. Bytes and digests stay what they are; what the registry has, in "
    "this repository or in the one that it is copied from, is not sent.",
)  # fmt: skip
CONVERT = Command(
    "convert",
    convert,
    help="Copy an image in another form: OCI's or Docker's, gzip or zstd",
    flags=(
        *CHOICE,
        Flag("compression", "compression", "Of layers: gzip, zstd or none", "", "KIND",
             parse_compression),
        Flag("format", "form", "oci or docker", "", "FORM", parse_form),
    ),
    words="SRC DST",
    group="Images",
    about="Places as for `cove image copy`. Configs, ids of images and what is in the layers stay "
    "what they are; what has that form already keeps its bytes and digests.",
)  # fmt: skip
