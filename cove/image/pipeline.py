"""The two processes that make a layer of a blob: ``stream`` decodes and hashes it, ``cove-init
unpack`` writes the files. And rm(1) for what is not wanted.

Returns only when both have ended; an exception on the way, as from ``progress``, ends them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from cove.errors import BadArchive, Bug, CoveError, HostError, printable
from cove.image import stream
from cove.linux.program import init_program
from cove.linux.pump import write_all
from cove.oci.archive import Span

PIPE_SIZE = 1 << 20
RATIO = 200
"""Decoded bytes that may come out of one coded byte ..."""
RATIO_FREE = 1 << 30
"""... beyond this many: 10 GB of zeros fit into 10 MB of gzip."""

BYTES_MAX = 256 << 30
ENTRIES_MAX = 1_000_000
ENTRY_COST = 2048
"""Bytes of headers an entry may have, on average."""

Tell = Callable[[int], None]
"""Called with the number of blob bytes read so far; raising in it cancels."""


class Poured(msgspec.Struct, frozen=True):
    """What ``stream`` saw."""

    blob: str = ""
    diff: str = ""
    read: int = 0
    wrote: int = 0
    compression: str = ""
    error: str = ""
    text: str = ""
    errno: int = 0


class Unpacked(msgspec.Struct, frozen=True):
    """What ``cove-init unpack`` did."""

    bytes: int
    entries: int
    ended: bool = True
    """The archive had its mark of the end."""
    lost: bool = False
    """It names something twice: of the files that are left it cannot be made again."""


@dataclass(frozen=True, slots=True)
class Limits:
    bytes: int = BYTES_MAX
    entries: int = ENTRIES_MAX
    by_room: bool = False
    """``bytes`` is what the file system has room for."""


NO_LIMITS = Limits()


def unpack(
    source: Span,
    directory: str,
    *,
    what: str,
    limits: Limits,
    digest: str = "",
    diff_id: str = "",
    there: bool = False,
    tell: Tell | None = None,
) -> tuple[Poured, Unpacked]:
    """Unpack a blob into ``directory/fs``; both digests are checked where given. ``there``: its
    files are somewhere already, and only the recipe is made.

    ``source`` with a negative offset is read from where it stands to its end.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        ends = stack.enter_context(contextlib.ExitStack())
        ends.callback(os.close, reader)
        ends.callback(os.close, writer)
        widen(writer)
        argv = [init_program(), "unpack", directory, str(limits.bytes), str(limits.entries)]
        argv += ["there"] * there
        unpacker = stack.enter_context(child(argv, stdin=reader))
        room = limits.bytes + limits.entries * ENTRY_COST
        streamer = stack.enter_context(
            _stream(source, writer, room=room, digest=digest, diff_id=diff_id)
        )
        ends.close()
        poured = _listen(streamer, tell)
        text, complaint = unpacker.communicate()
    poured = _checked(poured, what, unpacker.returncode == 0, streamer)
    if unpacker.returncode != 0:
        raise _unpack_error(unpacker.returncode, complaint, what, limits)
    _check_digests(poured, what, digest, diff_id)
    return poured, _unpacked(text)


def unpack_plain(data: bytes, directory: str, *, what: str, limits: Limits) -> Unpacked:
    """Unpack an archive that is here already, without compression, and hashed by who has it: one
    process fewer, which is most of a small layer's time.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as stack:
        ends = stack.enter_context(contextlib.ExitStack())
        ends.callback(os.close, writer)
        widen(writer)
        argv = [init_program(), "unpack", directory, str(limits.bytes), str(limits.entries)]
        try:
            unpacker = stack.enter_context(child(argv, stdin=reader))
        finally:
            os.close(reader)
        with contextlib.suppress(BrokenPipeError):  # it says why
            write_all(writer, data)
        ends.close()
        text, complaint = unpacker.communicate()
    if unpacker.returncode != 0:
        raise _unpack_error(unpacker.returncode, complaint, what, limits)
    return _unpacked(text)


def widen(pipe: int) -> None:
    """Fewer turns between writer and reader."""
    with contextlib.suppress(PermissionError):  # beyond the user's share of pipe memory
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)


def spool(
    source: Span, out: int, *, what: str, limit: int, tell: Tell | None = None, digest: str = ""
) -> Poured:
    """Decode a whole archive into the file ``out``, to be seeked in; or into a pipe, whose reader
    says itself why it wanted no more.
    """
    with _stream(source, out, room=limit, digest=digest, diff_id="") as streamer:
        poured = _listen(streamer, tell)
    return _checked(poured, what, False, streamer)


def link_tree(source: str, target: str) -> None:
    """A copy of a layer whose files are links: only its directories are its own."""
    _run(["cp", "-al", "--", source, target], f"cannot copy {source}")


def remove_tree(path: str) -> None:
    """rm(1), because a layer may have a million entries and the daemon has better things to do."""
    _run(["rm", "-rf", "--one-file-system", "--", path], f"cannot remove {path}")


def _run(argv: list[str], failed: str) -> None:
    with child(argv, stdin=None) as tool:
        _, complaint = tool.communicate()
    if tool.returncode:
        reason = complaint.decode("utf-8", "backslashreplace").strip()
        raise HostError(f"{failed}: {reason}")


def open_child(
    script: str, options: dict[str, object], *, stdin: int, keep: tuple[int, ...]
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """This interpreter with a script of this room, which finds cove's modules and its options in
    ``argv``.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    argv = [sys.executable, "-I", "-S", script, path, msgspec.json.encode(options).decode()]
    return child(argv, stdin=stdin, keep=keep)


def _stream(
    source: Span, out: int, *, room: int, digest: str, diff_id: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    options = {
        "offset": source.offset,
        "size": source.size,
        "out": out,
        "limit": room,
        "ratio": RATIO,
        "free": RATIO_FREE,
        "blob_hash": digest.partition(":")[0] or "sha256",
        "diff_hash": diff_id.partition(":")[0] or "sha256",
    }
    return open_child(stream.__file__, options, stdin=source.fd, keep=(out,))


@contextlib.contextmanager
def child(
    argv: list[str], *, stdin: int | None, keep: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A child without the daemon's environment; killed if it outlives the block."""
    try:
        made = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=keep,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HostError(f"cannot run {argv[0]}: {reason}") from error
    with made:
        try:
            yield made
        finally:
            if made.poll() is None:
                made.kill()


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
decode_poured = msgspec.json.Decoder(Poured).decode
_unpacked = msgspec.json.Decoder(Unpacked).decode


def _listen(streamer: subprocess.Popen[bytes], tell: Tell | None) -> Poured:
    """The last line is the result."""
    poured = Poured()
    assert streamer.stdout is not None
    for line in streamer.stdout:
        poured = decode_poured(line)
        if tell is not None:
            tell(poured.read)
    streamer.wait()
    return poured


def _checked(
    poured: Poured, what: str, unpacked: bool, streamer: subprocess.Popen[bytes]
) -> Poured:
    """Raise what went wrong in the stream. ``closed`` means: see what the unpacker says."""
    if poured.error == "closed" and not unpacked:
        return poured
    if not poured.error and poured.diff:
        return poured
    if poured.error == "limit":
        raise TooLarge(f"cannot unpack {what}: {poured.text}", host=_limits_text())
    if poured.error == "system":
        raise system_error(what, poured.errno, poured.text)
    if poured.error == "damaged":
        raise BadArchive(f"cannot unpack {what}: {poured.text}")
    if streamer.returncode < 0:
        raise HostError(f"cannot unpack {what}: its process got signal {-streamer.returncode}")
    complaint = streamer.stderr.read() if streamer.stderr and not streamer.stderr.closed else b""
    raise Bug(f"bug: stream of {what} ended without a result: {complaint[-500:]!r}")


class TooLarge(BadArchive):
    """More came out of it than may."""


class NoSpace(HostError):
    """The file system of the state directory is full."""


def system_error(what: str, number: int, text: str) -> CoveError:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"cannot unpack {what}: no space left on the state directory's file system",
            hint="make room, or choose another place: --root DIR",
        )
    return HostError(f"cannot unpack {what}: {text}")


def _unpack_error(code: int, complaint: bytes, what: str, limits: Limits) -> CoveError:
    """By the exit codes of ``enum verdict`` in ``init/unpack.h``."""
    text = complaint.decode("utf-8", "backslashreplace").strip().removeprefix("unpack: ")
    reason = printable(text) or f"exit code {code}"
    if code == 3 or code == 4 or code == 5:
        kind = "truncated: " if code == 4 else ""
        return BadArchive(f"cannot unpack {what}: {kind}{reason}")
    if code == 7 or (code == 9 and limits.by_room):
        return system_error(what, errno.ENOSPC, reason)
    if code == 6 or code == 9:
        return BadArchive(
            f"cannot unpack {what}: {reason}",
            host=f"limits: {limits.bytes >> 20} MiB, {limits.entries} entries",
        )
    if code < 0:
        return HostError(f"cannot unpack {what}: its process got signal {-code}")
    return HostError(f"cannot unpack {what}: {reason}")


def _check_digests(poured: Poured, what: str, digest: str, diff_id: str) -> None:
    if digest and poured.blob != digest:
        raise BadArchive(f"cannot unpack {what}: wrong digest: {poured.blob}, not {digest}")
    if diff_id and poured.diff != diff_id:
        raise BadArchive(f"cannot unpack {what}: wrong diff ID: {poured.diff}, not {diff_id}")


def _limits_text() -> str:
    return f"limits: {RATIO} times its size beyond {RATIO_FREE >> 30} GiB"
