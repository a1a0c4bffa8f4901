"""Copies between this host's files and a machine's, by Docker's rules for names.

The host's side is read and written by cove's archiver in a process of its own, as the caller: what
comes out of a machine is unpacked below the one directory it is meant for, and no link that it
brings, or finds there, is followed out of it.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cove.client.api import Client
from cove.engine import calls
from cove.errors import BadArchive, CoveError, HostError, NotFound, UsageError, printable
from cove.linux.program import init_program

PIECE = 1 << 20
LINKS = 10
Count = Callable[[int], None]
"""Called with the bytes of the archive so far."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a copy goes: a path, and what is there."""

    path: bytes
    exists: bool = False
    is_dir: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    directory: bytes
    name: bytes
    """Of the archive's first entry; empty: as its source is called."""


def choose_target(place: Place, *, source_is_dir: bool, shown: str) -> Target:
    """Docker's table: what is copied into a directory, and what takes a name."""
    if place.exists and place.is_dir:
        return Target(place.path, b"")
    if place.exists and source_is_dir:
        raise UsageError(f"cannot copy to {shown}: a directory onto a file", exit_code=1)
    path = place.path
    if not place.exists and not source_is_dir and path.endswith((b"/", b"/.")):
        raise NotFound(f"cannot copy to {shown}: no such directory")
    clean = posixpath.normpath(path)
    return Target(posixpath.dirname(clean) or b".", posixpath.basename(clean))


# ---- out of a machine ----


def copy_from(
    client: Client,
    machine: str,
    source: bytes,
    destination: bytes,
    *,
    follow: bool = False,
    owners: bool = False,
    cancelled: threading.Event | None = None,
    count: Count | None = None,
) -> None:
    """``destination`` is absolute; a slash at its end says that it is a directory."""
    shown = printable(os.fsdecode(destination))
    _check_parent(destination, shown)
    info = client.path_info(calls.PathAsk(machine, source))
    mode = info.target_mode if follow and stat.S_ISLNK(info.mode) else info.mode
    is_dir = stat.S_ISDIR(mode)
    target = choose_target(_local_place(destination, shown), source_is_dir=is_dir, shown=shown)
    name = target.name or info.name
    params = calls.CopyOut(machine, source, name, follow)
    inside = unpacker(target.directory, owners=owners, shown=shown)
    with inside as (_, sink), _counted(sink, count) as counted:
        try:
            client.copy_out(params, counted, cancelled)
        except BrokenPipeError:
            return  # the unpacker has ended, and says why


def _check_parent(path: bytes, shown: str) -> None:
    parent = os.path.dirname(os.path.normpath(path))
    if not os.path.isdir(parent):
        raise NotFound(
            f"cannot copy to {shown}: directory {printable(os.fsdecode(parent))} does not exist"
        )


def _local_place(path: bytes, shown: str) -> Place:
    """What the destination is, its links followed: what is written replaces what they lead to."""
    for _ in range(LINKS):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return Place(path)
        except OSError as error:
            raise _system(f"copy to {shown}", error) from error
        if not stat.S_ISLNK(status.st_mode):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    else:
        raise UsageError(f"cannot copy to {shown}: a loop of links", exit_code=1)
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise UsageError(f"cannot copy to {shown}: it is no file and no directory", exit_code=1)
    return Place(path, True, stat.S_ISDIR(status.st_mode))


# ---- into a machine ----


def copy_to(
    client: Client,
    source: bytes,
    machine: str,
    destination: bytes,
    *,
    follow: bool = False,
    owners: bool = False,
    cancelled: threading.Event | None = None,
    count: Count | None = None,
) -> calls.Copied:
    """``source`` is absolute; ``/.`` at its end: what is in the directory."""
    shown = f"{machine}:{printable(os.fsdecode(destination))}"
    from_shown = printable(os.fsdecode(source))
    try:
        status = os.stat(source) if follow or source.endswith(b"/") else os.lstat(source)
    except OSError as error:
        raise _system(f"copy {from_shown}", error) from error
    place = machine_place(client, machine, destination)
    is_dir = stat.S_ISDIR(status.st_mode)
    target = choose_target(place, source_is_dir=is_dir, shown=shown)
    name = target.name or _own_name(source)
    params = calls.CopyIn(machine, target.directory, owners)
    packer = _packer(source, name, follow=follow, shown=from_shown)
    with packer as (child, body), _counted_body(body, count) as counted:
        try:
            return client.copy_in(params, calls.Call(body=counted, cancelled=cancelled))
        except BadArchive:
            child.finish()  # why the archive is not whole
            raise


def machine_place(client: Client, machine: str, path: bytes) -> Place:
    """What the destination is; links in the machine lead to places in the machine."""
    path = b"/" + path.lstrip(b"/")
    try:
        info = client.path_info(calls.PathAsk(machine, path))
    except NotFound as error:
        if "no such file" not in error.message:
            raise  # no such machine
        return Place(path)
    mode = info.mode
    if stat.S_ISLNK(mode):
        path, mode = info.target, info.target_mode
        if not mode:
            return Place(path)
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UsageError(
            f"cannot copy to {machine}:{printable(os.fsdecode(path))}: "
            "it is no file and no directory",
            exit_code=1,
        )
    return Place(path, True, stat.S_ISDIR(mode))


def _own_name(source: bytes) -> bytes:
    if source.endswith((b"/.", b"/./")):
        return b"."
    return posixpath.basename(posixpath.normpath(source)) or b"."


# ---- the archiver on this side ----


class Archiver:
    def __init__(self, child: subprocess.Popen[bytes], what: str) -> None:
        self._child, self._what = child, what

    def finish(self) -> None:
        """Wait for its end; raise why it could not do all."""
        assert self._child.stderr is not None
        complaint = self._child.stderr.read()
        code = self._child.wait()
        if not code or code < 0:
            return
        text = complaint.decode("utf-8", "surrogateescape").strip().removeprefix("unpack: ")
        raise HostError(f"cannot {self._what}: {printable(text)}", exit_code=1)


@contextlib.contextmanager
def _child(words: list[bytes | str], what: str, *, stdin: int, stdout: int) -> Iterator[Archiver]:
    try:
        child = subprocess.Popen(
            [init_program(), "archive", *words],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd="/",
            env={},
        )
    except OSError as error:
        raise _system(what, error) from error
    with child:
        try:
            yield Archiver(child, what)
        finally:
            if child.poll() is None:
                child.kill()


@contextlib.contextmanager
def unpacker(directory: bytes, *, owners: bool, shown: str) -> Iterator[tuple[Archiver, int]]:
    """It, and the pipe it reads. When the block ends well all is in it, and is waited for."""
    words: list[bytes | str] = ["beneath", directory, "archive" if owners else "caller"]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as input:
        input.callback(os.close, writer)
        with open(os.devnull, "wb") as null, contextlib.closing(os.fdopen(reader, "rb")):
            child = _child(words, f"copy to {shown}", stdin=reader, stdout=null.fileno())
            archiver = stack.enter_context(child)
        yield archiver, writer
        input.close()
        archiver.finish()


@contextlib.contextmanager
def _packer(
    source: bytes, name: bytes, *, follow: bool, shown: str
) -> Iterator[tuple[Archiver, int]]:
    """It, and the pipe it writes."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    words: list[bytes | str] = ["out", source, name, "1" if follow else "0"]
    try:
        child = _child(words, f"copy {shown}", stdin=subprocess.DEVNULL, stdout=writer)
        with child as archiver:
            os.close(writer)
            writer = -1
            yield archiver, reader
    finally:
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)


@contextlib.contextmanager
def _counted(sink: int, count: Count | None) -> Iterator[int]:
    """A descriptor to write to whose bytes arrive in ``sink``, and are counted."""
    if count is None:
        yield sink
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    thread = threading.Thread(target=_relay, args=(reader, os.dup(sink), count), daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join()


@contextlib.contextmanager
def _counted_body(body: int, count: Count | None) -> Iterator[int]:
    if count is None:
        yield body
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    thread = threading.Thread(target=_relay, args=(os.dup(body), writer, count), daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()


def _relay(source: int, target: int, count: Count) -> None:
    done = 0
    try:
        while moved := os.splice(source, target, PIECE):
            done += moved
            count(done)
    except BrokenPipeError:
        pass  # the reader says why
    finally:
        os.close(source)
        os.close(target)


def _system(what: str, error: OSError) -> CoveError:
    kind = NotFound if isinstance(error, FileNotFoundError) else HostError
    return kind(f"cannot {what}: {(error.strerror or '').lower()}", exit_code=1)
