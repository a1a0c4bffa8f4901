"""Files of machines, for programs: whole trees by path, small files as bytes. It blocks."""

from __future__ import annotations

import fcntl
import io
import os
import posixpath
import stat
import tarfile
import time

from cove.client import files
from cove.client.api import Client
from cove.client.front import Front
from cove.client.talk import Daemon
from cove.engine import calls
from cove.errors import UsageError, printable
from cove.spec.values import format_size

Path = str | bytes | os.PathLike[str]
F_ADD_SEALS, SEAL_GROW = 1033, 0x0004
FRAME = 64 << 10
"""What a tar of one file has besides it, at most."""


def put(daemon: Daemon, machine: str, source: Path | bytearray, target: Path) -> None:
    client = Client(Front(daemon))
    to = os.fsencode(target)
    if isinstance(source, bytes | bytearray):
        _put_bytes(client, machine, bytes(source), to)
    else:
        files.copy_to(client, _absolute(source), machine, to)


def get(daemon: Daemon, machine: str, source: Path, target: Path | None, most: int) -> bytes:
    client = Client(Front(daemon))
    of = os.fsencode(source)
    if target is None:
        return _get_bytes(client, machine, of, most)
    files.copy_from(client, machine, of, _absolute(target))
    return b""


def _absolute(path: Path) -> bytes:
    """A slash or a ``/.`` at the end says something, and stays."""
    return os.path.join(os.getcwdb(), os.fsencode(path))


def _put_bytes(client: Client, machine: str, data: bytes, path: bytes) -> None:
    place = files.machine_place(client, machine, path)
    shown = printable(os.fsdecode(path))
    if place.is_dir:
        raise UsageError(f"cannot write {machine}:{shown}: it is a directory")
    clean = posixpath.normpath(b"/" + place.path.lstrip(b"/"))
    fd = os.memfd_create("put", os.MFD_CLOEXEC)
    with open(fd, "w+b") as body:
        with tarfile.open(fileobj=body, mode="w", format=tarfile.PAX_FORMAT) as archive:
            entry = tarfile.TarInfo(os.fsdecode(posixpath.basename(clean)))
            entry.size, entry.mode, entry.mtime = len(data), 0o644, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
        body.flush()
        body.seek(0)
        client.copy_in(calls.CopyIn(machine, posixpath.dirname(clean)), calls.Call(body=fd))


def _get_bytes(client: Client, machine: str, path: bytes, most: int) -> bytes:
    info = client.path_info(calls.PathAsk(machine, path))
    shown = f"{machine}:{printable(os.fsdecode(path))}"
    mode = info.target_mode if stat.S_ISLNK(info.mode) else info.mode
    if not stat.S_ISREG(mode):
        raise UsageError(f"cannot read {shown}: it is not a file", hint="name where to copy it to")
    if info.size > most:
        raise UsageError(
            f"cannot read {shown}: it has more than {format_size(most)}",
            hint="max_size=, or name where to copy it to",
        )
    fd = os.memfd_create("get", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "r+b") as sink:
        # It may have grown, or another be in its place: no more than this gets in.
        os.ftruncate(fd, most + FRAME)
        fcntl.fcntl(fd, F_ADD_SEALS, SEAL_GROW)
        client.copy_out(calls.CopyOut(machine, path, b"file", follow=True), fd)
        sink.seek(0)
        with tarfile.open(fileobj=sink, mode="r:") as archive:
            for entry in archive:
                file = archive.extractfile(entry)
                if file is not None:
                    return file.read()
    raise UsageError(f"cannot read {shown}: it is not a file any more")
