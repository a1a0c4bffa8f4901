"""``save``: images as archives, layout directories and root file systems."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import threading
from collections.abc import Callable
from contextlib import suppress

from cove.cli.command import Command, Typed
from cove.cli.machines.copy import to_stdout
from cove.cli.terminal import Terminal
from cove.cli.whole import directory, told, written
from cove.client.api import Client
from cove.engine.calls.ship import ImageSave
from cove.errors import UsageError
from cove.spec.flags import Flag, parse_platform

FORMATS = ("docker-archive", "oci-archive", "oci-dir", "rootfs")
_NAME = re.compile(r"oci-layout|index\.json|blobs(/sha\d+(/[a-f0-9]+)?)?")
CHUNK = 1 << 20


def parse_format(text: str) -> str:
    if text not in FORMATS:
        raise UsageError(f'no such format: "{text}"', hint=f"one of {', '.join(FORMATS)}")
    return text


def save(typed: Typed, terminal: Terminal, client: Client) -> int:
    name, kind = typed.text("output"), typed.text("format") or FORMATS[0]
    params = ImageSave(tuple(typed.words), kind, typed.text("platform"))
    if kind == "oci-dir":
        if not name:
            raise UsageError("cannot save as a directory: which one?",
                             origin="--format oci-dir", hint="name it: -o DIR")  # fmt: skip
        into_directory(terminal, name, lambda fd: client.image_save(params, fd, terminal.cancelled))
    elif name:
        with written(terminal, name) as fd:
            client.image_save(params, fd, terminal.cancelled)
    elif terminal.is_terminal(1):
        raise UsageError(
            "cannot save to your terminal",
            hint="name a file: -o FILE, or redirect it: > FILE",
            exit_code=1,
        )
    else:
        to_stdout(terminal, lambda: client.image_save(params, terminal.fds[1], terminal.cancelled))
    return 130 if terminal.cancelled.is_set() else 0


def into_directory(
    terminal: Terminal,
    name: str,
    send: Callable[[int], object],
    *,
    check: Callable[[str], None] | None = None,
) -> None:
    """An OCI layout, which appears when it is whole; ``send`` writes it as a tar. With ``check`` it
    takes the place of what is there, in one step, if that raises nothing.
    """
    path = terminal.path(name).rstrip("/")
    with told(name), directory(path, check=check) as part:
        _fill(part, send)


def _fill(part: str, send: Callable[[int], object]) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            send(writer)
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(writer)

    sender = threading.Thread(target=work, name="save", daemon=True)
    sender.start()
    try:
        with open(reader, "rb") as file, suppress(tarfile.ReadError):
            _unpack(file, part)
    finally:
        sender.join()
    if failures:
        raise failures[0]


def _unpack(file: object, part: str) -> None:
    """What the daemon made: nothing but a layout's files."""
    with tarfile.open(fileobj=file, mode="r|") as archive:  # type: ignore[call-overload]
        for entry in archive:
            if not _NAME.fullmatch(entry.name):
                continue
            target = f"{part}/{entry.name}"
            if entry.isdir():
                os.mkdir(target, 0o755)
            elif (source := archive.extractfile(entry)) is not None:
                with open(target, "xb") as out:
                    shutil.copyfileobj(source, out, CHUNK)


SAVE = Command(
    "save",
    save,
    help="Write images as an archive, a layout directory or a root file system",
    flags=(
        Flag("format", "format", "docker-archive (which is an OCI archive, too), oci-archive, "
             "oci-dir or rootfs", "", "FORMAT", parse_format),
        Flag("output", "output", "File or directory, otherwise standard output", "o", "FILE"),
        Flag("platform", "platform", "Of several images of a name this one: linux/amd64", "",
             "PLATFORM", parse_platform),
    ),
    words="IMAGE [IMAGE...]",
    group="Images",
    about="Layers are written as they were unpacked, byte by byte and without compression; as OCI "
    "alone (oci-archive, oci-dir) those that came compressed are as they came, under the manifest "
    "that the image came with. A name without a tag means every tag of that repository. A file "
    "appears when it is whole.",
)  # fmt: skip
