"""What a running guest says of itself: files of its kernel, asked of its agent.

All of it is a hostile machine's word: it is read with limits on time and size, and believed to be
no more than text and numbers between bounds.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from cove.engine.home import Home, effective
from cove.engine.vms.virtual import RUN, connect_hub, memory_of
from cove.errors import Conflict, HostError
from cove.linux.cgroups.tree import Stats
from cove.linux.processes import Process, parse_process
from cove.plan import wire
from cove.plan.ops import Op
from cove.plan.vm_ops import Write
from cove.planner.virtual.guest import GROUP
from cove.planner.virtual.jail import RUN_SYNC
from cove.store.records import MachineRecord

HEAD = struct.Struct("<IiII")
"""``struct msg`` of ``init/cove.h``."""
PLAN, RUN_IT, READ, TAKEN, OUTPUT, EXITED = 96, 97, 98, 120, 65, 18
HOLD, GO, HELD = 99, 100, 113
FRAME_MAX = 7680
BATCH = 15
"""Files that one question asks for: their answers fit where nobody waits for us."""
PATIENCE = 10.0
"""Seconds until a guest that does not answer counts as hung: emulated beside others that are busy,
one takes its time."""
STILL_PATIENCE = 20.0
"""Until its processes stand still; the guest itself gives one a second, of its own time."""
SYNC_PATIENCE = 60.0
"""Until it has written what a machine left in its memory."""
ALL_PATIENCE = 60.0
"""Until all its processes are read."""
PROCESSES_MAX = 4096
NUMBER_MAX = 1 << 62


def read_files(
    home: Home, key: int, paths: Sequence[str], *, patience: float = PATIENCE
) -> list[bytes]:
    """What the guest's kernel says in each, cut at a frame; nothing: there is no such file.

    Raises:
        HostError: the guest does not answer.
    """
    late = time.monotonic() + patience
    found: list[bytes] = []
    for at in range(0, len(paths), BATCH):
        found += _read_batch(home, key, paths[at : at + BATCH], late)
    return found


def _read_batch(home: Home, key: int, paths: Sequence[str], late: float) -> list[bytes]:
    data = b"".join(os.fsencode(path) + b"\0" for path in paths)
    found: list[bytes] = []
    with _asked(home, key) as hub:
        hub.send(HEAD.pack(READ, 0, len(data), 0) + data)
        while len(found) < len(paths):
            message = _message(hub, late)
            kind, value, _, _ = HEAD.unpack_from(message)
            if kind != OUTPUT:
                raise HostError("cannot ask the guest: its answer makes no sense", exit_code=1)
            found.append(message[HEAD.size :] if value == 1 else b"")
    return found


@contextmanager
def _asked(home: Home, key: int) -> Iterator[socket.socket]:
    """A channel of our own, for one question."""
    with socket.socket(fileno=connect_hub(home, key)) as hub:
        try:
            hub.settimeout(PATIENCE)
            yield hub
        except OSError as error:
            reason = "it does not answer" if isinstance(error, TimeoutError) else "it has ended"
            raise HostError(f"cannot ask the guest: {reason}", exit_code=1) from error


def _message(hub: socket.socket, late: float) -> bytes:
    hub.settimeout(max(0.001, late - time.monotonic()))
    message = hub.recv(HEAD.size + FRAME_MAX)
    if len(message) < HEAD.size:
        raise HostError("cannot ask the guest: it has ended", exit_code=1)
    return message


def write_file(home: Home, key: int, path: str, value: str) -> None:
    """To a file of the guest's kernel."""
    run_ops(home, key, (Write(path, value, why="the guest's own group"),))


def run_ops(
    home: Home, key: int, ops: Sequence[Op], *, flags: int = 0, patience: float = PATIENCE
) -> None:
    """By the guest's agent, in the guest itself: what fits into one message."""
    plan = wire.encode(tuple(ops))
    late = time.monotonic() + patience
    with _asked(home, key) as hub:
        hub.send(HEAD.pack(PLAN, 0, len(plan), 0) + plan)
        order = RUN.pack(len(plan), 0, 0, 0)
        hub.send(HEAD.pack(RUN_IT, flags, len(order), 0) + order)
        kind = TAKEN
        while kind == TAKEN and time.monotonic() < late:
            kind = HEAD.unpack_from(_message(hub, late))[0]
    if kind != EXITED:
        raise HostError("cannot ask the guest: it refuses", exit_code=1)


def sync(home: Home, key: int) -> None:
    """What the machine has written by now is on its disk."""
    run_ops(home, key, (), flags=RUN_SYNC, patience=SYNC_PATIENCE)


@contextmanager
def held(home: Home, key: int, *, synced: bool) -> Iterator[None]:
    """The machine's processes in the guest stand still, nothing is under way between it and its
    hub, and neither says anything. If this daemon is killed meanwhile, they go on. ``synced``: all
    that they have written is on the disk.
    """
    with socket.socket(fileno=connect_hub(home, key)) as hub:
        late = time.monotonic() + STILL_PATIENCE
        try:
            hub.send(HEAD.pack(HOLD, int(synced), 0, 0))
            kind, value, _, _ = HEAD.unpack_from(_message(hub, late))
        except OSError as error:
            raise HostError("cannot hold the guest: it does not answer") from error
        if kind != HELD:
            raise HostError("cannot hold the guest: its answer makes no sense")
        if value:
            raise HostError("cannot hold the guest: one of its processes does not stand still")
        yield
        with suppress(OSError):
            hub.send(HEAD.pack(GO, 0, 0, 0))


@contextmanager
def frozen(home: Home, key: int) -> Iterator[None]:
    """The machine's processes in the guest stand still; the guest itself does not. A daemon that
    comes after this one lets them go on (``pause.restore``).
    """
    try:
        write_file(home, key, f"{GROUP}/cgroup.freeze", "1")
        late = time.monotonic() + STILL_PATIENCE
        events = f"{GROUP}/cgroup.events"
        while _table(read_files(home, key, (events,))[0]).get(b"frozen") != 1:
            if time.monotonic() > late:
                raise HostError("cannot freeze the guest's processes: one does not stop")
        yield
    finally:
        thaw(home, key)


def thaw(home: Home, key: int) -> None:
    """A guest that has ended has nobody to wake."""
    with suppress(HostError):
        write_file(home, key, f"{GROUP}/cgroup.freeze", "0")


def number(text: bytes, otherwise: int = 0) -> int:
    """A count of the guest's: never negative, never too large to reckon with."""
    word = text.strip()[:20]
    return min(int(word), NUMBER_MAX) if word.isdigit() else otherwise


def _table(text: bytes) -> dict[bytes, int]:
    """``name number`` lines."""
    pairs = (line.split()[:2] for line in text.splitlines())
    return {pair[0]: number(pair[1]) for pair in pairs if len(pair) == 2}


# ---- stats ----

COUNTERS = (
    "memory.current", "memory.peak", "memory.stat", "memory.events", "pids.current", "cpu.stat",
)  # fmt: skip


def used_by(home: Home, record: MachineRecord, jail: Stats) -> tuple[Stats, int]:
    """Also how often its kernel killed for memory. CPU time and traffic to disks are the
    emulator's, as the host counts them; memory, processes and who had to wait for its share of
    CPUs are those in the guest, by its own count, or while it does not answer the jail's.
    """
    limits = effective(record.spec.limits)
    known = jail._replace(pids_limit=limits.pids), 0
    if home.record(record.key).state == "paused":
        return known
    try:
        said = read_files(home, record.key, [f"{GROUP}/{name}" for name in COUNTERS])
    except HostError:
        return known
    current, peak, memory, events, pids, cpu = said
    held, time_of, most = _table(memory), _table(cpu), memory_of(record.spec.limits)
    return (
        jail._replace(
            memory=min(number(current), most),
            memory_peak=min(number(peak), most),
            memory_limit=record.spec.limits.memory or most,
            cache=min(held.get(b"file", 0), most),
            inactive_file=min(held.get(b"inactive_file", 0), most),
            pids=number(pids),
            pids_limit=limits.pids,
            periods=time_of.get(b"nr_periods", 0),
            throttled_periods=time_of.get(b"nr_throttled", 0),
            throttled=min(time_of.get(b"throttled_usec", 0) * 1000, NUMBER_MAX),
        ),
        _table(events).get(b"oom_kill", 0),
    )


# ---- top ----


@dataclass(frozen=True, slots=True)
class Seen:
    """The guest's processes, and its clock: seconds since it was booted."""

    processes: tuple[Process, ...]
    up: float
    now: datetime


def processes_of(home: Home, record: MachineRecord) -> Seen:
    """Of the machine's group: those of the agent are none of the machine's."""
    if home.record(record.key).state == "paused":
        raise Conflict(
            f"cannot list the processes of {record.name}: it is paused",
            hint=f"unpause it first: cove unpause {record.name}",
        )
    late = time.monotonic() + ALL_PATIENCE
    listed, uptime = read_files(home, record.key, (f"{GROUP}/cgroup.procs", "/proc/uptime"))
    pids = [number(word) for word in listed.split()[:PROCESSES_MAX]]
    up = min(_seconds(uptime), 1e9)
    return Seen(tuple(_read_processes(home, record, pids, up, late)), up, datetime.now())


def _seconds(text: bytes) -> float:
    whole, _, rest = text.split(b" ", 1)[0].partition(b".")
    return number(whole) + number(rest[:2]) / 100


def _read_processes(
    home: Home, record: MachineRecord, pids: Sequence[int], up: float, late: float
) -> Iterator[Process]:
    for at in range(0, len(pids), BATCH // 3):
        some = pids[at : at + BATCH // 3]
        paths = [f"/proc/{pid}/{name}" for pid in some for name in ("stat", "status", "cmdline")]
        patience = min(PATIENCE, late - time.monotonic())
        said = read_files(home, record.key, paths, patience=patience)
        for index, pid in enumerate(some):
            stat, status, command = said[3 * index : 3 * index + 3]
            found = parse_process(pid, stat, status, command, up=up)
            if found is not None:
                yield found
