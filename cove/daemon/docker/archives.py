"""``archive`` and ``export``: files of a container, as tars."""

from __future__ import annotations

import base64
import json
import stat

from cove.daemon.docker.ask import Answer, Ask, Piped
from cove.engine import calls
from cove.errors import NotFound, UsageError
from cove.shown.units import stamp_ns
from cove.store.records import MachineRecord

HEADER = "X-Docker-Container-Path-Stat"
GO_MODES = (
    (stat.S_IFDIR, 1 << 31),
    (stat.S_IFLNK, 1 << 27),
    (stat.S_IFBLK, 1 << 26),
    (stat.S_IFIFO, 1 << 25),
    (stat.S_IFSOCK, 1 << 24),
    (stat.S_IFCHR, 1 << 26 | 1 << 21),
)
GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


def go_mode(mode: int) -> int:
    """st_mode as Go's os.FileMode has it."""
    found = mode & 0o777
    found |= sum(bit for kind, bit in GO_MODES if stat.S_IFMT(mode) == kind)
    return found | sum(bit for held, bit in GO_BITS if mode & held)


def stat_to_docker(seen: calls.PathInfo) -> str:
    shown = {
        "name": seen.name.decode("utf-8", "replace"),
        "size": seen.size,
        "mode": go_mode(seen.mode),
        "mtime": stamp_ns(seen.mtime_ns),
        "linkTarget": seen.target.decode("utf-8", "replace") if stat.S_ISLNK(seen.mode) else "",
    }
    return base64.b64encode(json.dumps(shown).encode()).decode()


def _asked(ask: Ask) -> tuple[MachineRecord, bytes]:
    machine, path = ask.machine(), ask.path("path")
    if not path:
        raise UsageError("missing parameter: path")
    return machine, path


def _looked(ask: Ask, machine: MachineRecord, path: bytes) -> calls.PathInfo:
    try:
        return ask.engine.path_info(calls.PathAsk(machine.id, path), ask.call())
    except NotFound as error:
        shown = path.decode("utf-8", "replace")
        raise NotFound(f"Could not find the file {shown} in container {ask.name}") from error


def look(ask: Ask) -> Answer:
    machine, path = _asked(ask)
    return Answer(headers={HEADER: stat_to_docker(_looked(ask, machine, path))})


def get(ask: Ask) -> Piped:
    machine, path = _asked(ask)
    seen = _looked(ask, machine, path)
    params = calls.CopyOut(machine.id, path)
    return Piped(
        lambda fd: ask.engine.copy_out(params, ask.call(sink=fd)),
        headers={HEADER: stat_to_docker(seen)},
    )


def put(ask: Ask) -> Answer:
    """Ids are those of the archive, as Docker's daemon has it."""
    machine, path = _asked(ask)
    seen = _looked(ask, machine, path)
    if not stat.S_ISDIR(seen.target_mode or seen.mode):
        raise UsageError("extraction point is not a directory")
    params = calls.CopyIn(machine.id, path, owners=True, coded=True)
    ask.engine.copy_in(params, ask.call())
    return Answer()


def export(ask: Ask) -> Piped:
    params = calls.Export(ask.machine().id)
    return Piped(lambda fd: ask.engine.export(params, ask.call(sink=fd)))
