"""What is known of a guest after its end: counters of its kernel, and that kernel's last words. All
of it was said by the guest: it explains, and decides nothing.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from contextlib import suppress
from typing import NamedTuple

from cove.engine.machines.causes import OutOfMemory
from cove.errors import CoveError, HostError, one_line
from cove.executor.messages import Report
from cove.plan.ops import Plan
from cove.plan.vm_ops import Guest
from cove.vm.qmp import complaint

END = struct.Struct("<IIIIQQII64s")
"""``struct guest_exit`` of ``init/guest.h``."""
CONSOLE_MAX = 64 << 10
SAID_MAX = 64 << 10
"""Of the hub itself, behind it."""
MACHINE = 1
"""Side of a report: the jail's."""
PANIC = re.compile(rb"Kernel panic - not syncing: ([^\n]{0,160})")

CUT = re.compile(rb"cove: ([0-9]{1,12}) (channel [0-9]{1,10}: [^\n]{1,160})")
"""What hub and agent say of a program's channel that ended before the program did, and when."""

PATIENCE = 120
"""Seconds in which a guest greets, if ``COVE_VM_PATIENCE`` does not say otherwise."""
WORDS_MAX = 300
SIGNAL_MAX = 64
_NO_MEMORY = re.compile("cannot set up guest memory|ram size too large", re.IGNORECASE)


class End(NamedTuple):
    oom_kills: int = 0
    forks_refused: int = 0
    oom: OutOfMemory = OutOfMemory()
    told: bool = False
    """The guest told its end itself; otherwise it went without a word."""
    code: int = 0
    signal: int = 0
    core: bool = False
    panic: str = ""


def patience() -> int:
    """What cannot be read is the default."""
    text = os.environ.get("COVE_VM_PATIENCE", "")
    return int(text) if text.isdigit() and int(text) else PATIENCE


def never_up() -> CoveError:
    return HostError(
        f"cannot start machine: its guest did not answer within {patience()} s",
        hint="look whether its kernel boots (cove kernel ls); on a slow host, set COVE_VM_PATIENCE",
    )


def read_end(directory: str) -> End:
    """Of the machine whose directory in the state directory this is."""
    data = _read(f"{directory}/end", END.size)
    if len(data) == END.size:
        _, code, number, core, _, _, kills, forks, victim = END.unpack(data)
        number = number if code == 128 + number and number <= SIGNAL_MAX else 0
        return End(
            kills, forks, _victim(victim), told=True, code=code, signal=number, core=bool(core)
        )
    found = PANIC.search(_read(f"{directory}/console", CONSOLE_MAX))
    return End(panic=_words(found) if found else "")


def why_no_guest(directory: str, plan: Plan, report: Report) -> CoveError | None:
    """A virtual machine whose guest never came to its program, by what the emulator and the guest's
    kernel said before they ended; None: the report says more.
    """
    part = plan.machine
    if plan.guest is None or report.side != MACHINE or report.op >= len(part):
        return None
    if not isinstance(part[report.op], Guest):
        return None
    if report.errno != errno.EPIPE:
        return HostError("cannot start the virtual machine: its guest says what no agent would")
    said = complaint(_read(f"{directory}/emulator", CONSOLE_MAX))
    console = _read(f"{directory}/console", CONSOLE_MAX)
    found = PANIC.search(console)
    if said:
        reason = f"its emulator ended: {one_line(said.splitlines()[-1][:WORDS_MAX])}"
    elif found:
        reason = f"guest kernel panic: {_words(found)}"
    else:
        reason = "its emulator ended without a word"
    return HostError(
        f"cannot start the virtual machine: {reason}",
        hint="the memory limit is too large for this host" if _NO_MEMORY.search(said) else "",
    )


def tell_cut(directory: str, name: str, since: float) -> None:
    """To the daemon's log: why a program in the guest of machine ``name`` was not heard to its end.
    ``directory``: in which its guest's words are kept; ``since``: when it was begun.
    """
    for at, said in CUT.findall(_read(f"{directory}/console", CONSOLE_MAX + SAID_MAX)):
        if int(at) >= int(since):
            words = one_line(said.decode("utf-8", "replace").strip())
            with suppress(OSError):
                os.write(2, f"cove: a program in the guest of {name}: {words}\n".encode())


def _words(panic: re.Match[bytes]) -> str:
    return one_line(panic[1].decode("utf-8", "replace").strip())


def _victim(data: bytes) -> OutOfMemory:
    """``pid name kilobytes``."""
    words = data.split(b"\0", 1)[0].decode("utf-8", "replace").split(" ")
    if len(words) < 3 or not words[0].isdigit() or not words[-1].isdigit():
        return OutOfMemory()
    return OutOfMemory(" ".join(words[1:-1]), int(words[0]), int(words[-1]) * 1024)


def _read(path: str, most: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(most)
