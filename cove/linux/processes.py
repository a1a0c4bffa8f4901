"""What /proc says of processes, for ``top`` and ``stats``. What a process wrote itself is read with
a limit, and believed to be no more than text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from cove.linux.pidfd import wait_exit

NETWORK_MAX = 1 << 20
COMMAND_MAX = 8 << 10
TICKS = os.sysconf("SC_CLK_TCK")
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc/PID/stat, and what belongs to it."""

    pid: int
    parent: int
    uid: int
    state: str
    terminal: int
    """The device's number; 0: none."""
    cpu: float
    """Seconds, of all its threads."""
    started: float
    """Seconds after the host's boot."""
    name: str
    command: tuple[str, ...]
    """Empty: none is left, as of a zombie."""


def read_process(pid: int) -> Process | None:
    """None: it has ended."""
    try:
        stat = _read(f"/proc/{pid}/stat", 4096)
        uid = os.stat(f"/proc/{pid}").st_uid
        command = _read(f"/proc/{pid}/cmdline", COMMAND_MAX)
    except OSError:
        return None
    return _parsed(pid, uid, stat, command)


def parse_process(
    pid: int, stat: bytes, status: bytes, command: bytes, *, up: float
) -> Process | None:
    """The same from another kernel, whose files somebody else has read, and may have made up; that
    kernel runs for ``up`` seconds. None: there is no such process.
    """
    try:
        ids = _ids(status)
        found = _parsed(pid, ids[1] if ids else 0, stat, command) if ids else None
    except ValueError:
        return None
    if found is None:
        return None
    started, cpu = min(max(found.started, 0.0), up), min(max(found.cpu, 0.0), 1e12)
    return replace(
        found,
        started=started,
        cpu=cpu,
        terminal=found.terminal & 0xFFFFFFFF,
        uid=ids[1] % (1 << 32),
    )


def _parsed(pid: int, uid: int, stat: bytes, command: bytes) -> Process | None:
    # the name stands in parentheses and may hold any byte, also a parenthesis
    name, _, rest = stat.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    if len(fields) < 20:
        return None
    return Process(
        pid=pid,
        parent=int(fields[1]),
        uid=uid,
        state=fields[0].decode("ascii", "replace"),
        terminal=int(fields[4]),
        cpu=(int(fields[11]) + int(fields[12])) / TICKS,
        started=int(fields[19]) / TICKS,
        name=name.decode("utf-8", "surrogateescape"),
        command=tuple(
            word.decode("utf-8", "surrogateescape") for word in command.rstrip(b"\0").split(b"\0")
        )
        if command
        else (),
    )


def process_ids(pid: int) -> tuple[int, ...] | None:
    """Real, effective, saved and file system user id; None: it has ended."""
    try:
        status = _read(f"/proc/{pid}/status", 65536)
    except OSError:
        return None
    return _ids(status) or None


def _ids(status: bytes) -> tuple[int, ...]:
    # the name comes first, with its newlines escaped
    for line in status.split(b"\n"):
        if line.startswith(b"Uid:"):
            found = tuple(map(int, line.split()[1:5]))
            return found if len(found) == 4 else ()
    return ()


def _read(path: str, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = bytearray()
        while len(data) < limit and (part := os.read(fd, min(65536, limit - len(data)))):
            data += part
        return bytes(data)
    finally:
        os.close(fd)


def interfaces(pid: int, pidfd: int) -> dict[str, tuple[int, ...]]:
    """The 16 counters of every interface but loopback in the process's network namespace; none
    once the process of ``pidfd`` has ended, for then the number may be another's.
    """
    try:
        text = _read(f"/proc/{pid}/net/dev", NETWORK_MAX)
    except OSError:
        return {}
    if wait_exit(pidfd, 0):
        return {}
    found = {}
    for line in text.decode("utf-8", "replace").splitlines()[2:]:
        name, _, numbers = line.strip().rpartition(":")
        words = numbers.split()
        if name != "lo" and len(words) >= 16 and all(word.isdigit() for word in words):
            found[name] = tuple(map(int, words[:16]))
    return found


def host_cpu() -> tuple[int, int]:
    """Nanoseconds that have passed for all CPUs together, and how many CPUs there are."""
    total, count = 0, 0
    for line in _read("/proc/stat", 1 << 20).decode("ascii", "replace").splitlines():
        words = line.split()
        if words and words[0] == "cpu":
            # guest time, which follows, is counted in user time already
            total = sum(map(int, words[1:9])) * (SECOND // TICKS)
        elif words and words[0].startswith("cpu"):
            count += 1
    return total, max(1, count)
