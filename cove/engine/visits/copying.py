"""Files in and out of machines: ``cp``, ``export``, ``diff``. Each is one visit."""

from __future__ import annotations

import os
import posixpath
import re

import msgspec

from cove.engine.calls import (
    Call,
    Change,
    Changes,
    Copied,
    CopyIn,
    CopyOut,
    PathInfo,
)
from cove.engine.home import Home
from cove.engine.visits.visits import send_out, take_in, visit, visit_layer
from cove.errors import NOT_JSON, BadArchive, HostError, NotFound, UsageError, printable
from cove.store.records import MachineRecord

_copied = msgspec.json.Decoder(Copied).decode
PATH_MAX = 4095
KINDS = {b"A": "A", b"C": "C", b"D": "D"}
_STAT = re.compile(
    rb"([0-7]{1,7}) ([0-9]{1,18}) (-?[0-9]{1,11}) ([0-9]{1,9}) ([0-7]{1,7})\0"
    rb"([^\0]*)\0([^\0]*)\0",
    re.DOTALL,
)
"""Mode, size, time in two parts, the target's mode; where a link leads, and where that ends."""


def path_info(home: Home, record: MachineRecord, path: bytes, call: Call) -> PathInfo:
    inside = _inside(path)
    what = f"look at {record.name}:{_shown(path)}"
    with visit(home, record, call, ("stat", inside), what=what) as archiver:
        said = archiver.read_result()
        try:
            archiver.finish()
        except NotFound as error:
            raise _missing(record, path) from error
    found = _STAT.fullmatch(said)
    if found is None:
        raise _nonsense(what)
    mode, size, seconds, nano, target_mode, link, target = found.groups()
    return PathInfo(
        name=base_name(path),
        mode=int(mode, 8),
        size=int(size),
        mtime_ns=int(seconds) * 1_000_000_000 + int(nano),
        link=link,
        target=target,
        target_mode=int(target_mode, 8),
    )


def copy_out(home: Home, record: MachineRecord, params: CopyOut, call: Call) -> PathInfo:
    info = path_info(home, record, params.path, call)
    name = os.fsdecode(params.name or info.name)
    follow = "1" if params.follow else "0"
    words = ("out", _inside(params.path), name, follow)
    what = f"copy {record.name}:{_shown(params.path)}"
    with visit(home, record, call, words, what=what) as archiver:
        try:
            send_out(archiver, call)
        except NotFound as error:
            raise _missing(record, params.path) from error
    home.publish("archive-path", record)
    return info


def copy_in(home: Home, record: MachineRecord, params: CopyIn, call: Call) -> Copied:
    if call.body < 0:
        raise UsageError("cannot copy: nothing was sent")
    _check_writable(record, params.path)
    words = ("in", _inside(params.path), "archive" if params.owners else "root")
    what = f"copy to {record.name}:{_shown(params.path)}"
    with visit(home, record, call, words, what=what, reads=True) as archiver:
        try:
            said = take_in(archiver, call, coded=params.coded)
        except BadArchive as error:
            raise type(error)(
                error.message, hint="what came before it has been copied", exit_code=1
            ) from error
    home.publish("extract-to-dir", record)
    try:
        return _copied(said)
    except NOT_JSON:
        raise _nonsense(what) from None


def export(home: Home, record: MachineRecord, call: Call) -> None:
    what = f"export {record.name}"
    with visit(home, record, call, ("out", "/", "", "0"), what=what, bare=True) as archiver:
        send_out(archiver, call)
    home.publish("export", record)


def diff(home: Home, record: MachineRecord, call: Call) -> Changes:
    with visit_layer(home, record, call, "diff", what=f"diff {record.name}") as archiver:
        said = archiver.read_result()
        archiver.finish()
    lines = said.split(b"\0")[:-1]
    if not all(line[:1] in KINDS for line in lines):
        raise _nonsense(f"diff {record.name}")
    found = [Change(KINDS[line[:1]], line[1:]) for line in lines]
    return Changes(tuple(sorted(found, key=lambda change: change.path)))


def _nonsense(what: str) -> HostError:
    """The archiver of a virtual machine runs in its guest, whose kernel may be anybody's."""
    return HostError(f"cannot {what}: what the guest says of it makes no sense", exit_code=1)


def _check_writable(record: MachineRecord, path: bytes) -> None:
    """As Docker: a read-only root is so for copies too, but not what is mounted in it."""
    place = os.path.normpath(_inside(path)) + "/"
    mounted = any(place.startswith(f"{mount.target}/") for mount in record.spec.mounts)
    if record.spec.security.read_only and not mounted:
        raise UsageError(
            f"cannot copy to {record.name}: its root is read-only",
            origin="--read-only",
            exit_code=1,
        )


def base_name(path: bytes) -> bytes:
    """What a copy of ``path`` is called; ``.`` for what is in it, and for the root."""
    if path.endswith((b"/.", b"/./")) or path == b".":
        return b"."
    return posixpath.basename(posixpath.normpath(b"/" + path.lstrip(b"/"))) or b"."


def _inside(path: bytes) -> str:
    """From the machine's root, whatever is typed; trailing slashes keep their meaning."""
    if b"\0" in path or len(path) > PATH_MAX:
        raise UsageError(f'cannot use path "{_shown(path)[:100]}": not a path', exit_code=1)
    return "/" + os.fsdecode(path.lstrip(b"/"))


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))


def _missing(record: MachineRecord, path: bytes) -> NotFound:
    return NotFound(f"cannot find {_shown(path)} in {record.name}: no such file or directory")
