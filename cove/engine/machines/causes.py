"""Why a machine ended: decided from what really happened, and said in one line.

Pure: whoever asks brings the exit record, the counters and the kernel's own words.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from cove.errors import one_line
from cove.executor.messages import ExitRecord
from cove.spec.machine import Limits
from cove.store.records import Cause

QUIET = frozenset(
    int(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT)
)
"""Signals that people send on purpose: nothing to explain."""

PROBED = frozenset({"get_mempolicy"})
"""Calls that libraries try when they are loaded (libnuma, in ps) and do without: no cause."""


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """What the kernel's log says of the process it killed."""

    process: str = ""
    pid: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything known when a machine ended."""

    exit: ExitRecord
    asked: str = ""
    """Who of cove ended it: timeout, storage, files, stop, kill, monitor, or nobody."""
    oom_kills: int = 0
    oom: OutOfMemory = OutOfMemory()
    forks_refused: int = 0
    refused: tuple[str, ...] = ()
    timeout: float = 0.0
    storage: int = 0
    pids: int = 0
    lost_guest: bool = False
    """A virtual machine that went without a word."""
    hung: bool = False
    """Its guest did not end its program when it was told to."""
    panic: str = ""
    """What its kernel said before."""


def size_text(count: int) -> str:
    """1536 → ``1.5 KiB``."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def cause_of(found: Evidence, limits: Limits) -> Cause:
    """The one cause that explains most; refused system calls are always told along."""
    end = found.exit
    if found.asked == "timeout":
        text = f"timeout: it ran longer than {found.timeout:g} s"
        if not end.started_ns:
            text = f"timeout: {found.timeout:g} s were over before its program began"
        return Cause("timeout", text, end.signal)
    if found.asked == "storage":
        text = f"storage limit: it wrote more than {size_text(found.storage)}"
        return Cause("storage", text, end.signal, limit=found.storage)
    if found.asked == "monitor":
        return Cause("monitor", "its monitor ended, and the machine with it", end.signal)
    if found.asked == "files":
        text = "the server of its shared directories ended, and the virtual machine with it"
        return Cause("files", text, end.signal)
    if found.lost_guest and not found.asked:
        if found.panic:
            return Cause("panic", f"guest kernel panic: {found.panic}", end.signal)
        return Cause("emulator", "its emulator ended, and the virtual machine with it", end.signal)
    if found.oom_kills and end.code:
        return _out_of_memory(found, limits)
    if found.forks_refused and end.code:
        times = f"{found.forks_refused} time" + "s" * (found.forks_refused > 1)
        text = f"pids limit: fork was refused {times} at {found.pids} processes"
        return Cause("pids", text, end.signal, amount=found.forks_refused, limit=found.pids)
    missed = [name for name in found.refused if name not in PROBED]
    if missed and end.code and not found.asked:
        text = f"seccomp refused: {', '.join(missed)}"
        return Cause("seccomp", text, end.signal, syscalls=found.refused)
    if end.signal:
        who = f" (cove {found.asked})" if found.asked else ""
        core = ", core dumped" if end.core else ""
        hung = ": its guest did not answer" if found.hung else ""
        text = f"killed by {signal_name(end.signal)}{who}{core}{hung}"
        return Cause("signal", text, end.signal)
    return Cause("exit", syscalls=found.refused)


def _out_of_memory(found: Evidence, limits: Limits) -> Cause:
    oom = found.oom
    who = f"{one_line(oom.process)} (pid {oom.pid})" if oom.process else "a process"
    limit = f" of {size_text(limits.memory)}" if limits.memory else ""
    used = f" used {size_text(oom.used)}{limit}" if oom.used else f" hit the limit{limit}"
    return Cause(
        "oom",
        f"out of memory: {who}{used}",
        found.exit.signal,
        process=oom.process,
        pid=oom.pid,
        amount=oom.used,
        limit=limits.memory,
        syscalls=found.refused,
    )


def last_line(cause: Cause) -> str:
    """What a foreground run prints at its end; empty where the exit code says it all."""
    if cause.kind == "exit" or (cause.kind == "signal" and cause.signal in QUIET):
        return ""
    return f"cove: {cause.text}\n"
