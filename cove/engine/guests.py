"""What is known of a guest after its end: counters of its kernel, and that kernel's last words. All
of it was said by the guest: it explains, and decides nothing.
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

from cove.engine.causes import OutOfMemory
from cove.errors import one_line

END = struct.Struct("<IIIIQQII64s")
"""``struct guest_exit`` of ``init/guest.h``."""
CONSOLE_MAX = 64 << 10
PANIC = re.compile(rb"Kernel panic - not syncing: ([^\n]{0,160})")


class End(NamedTuple):
    oom_kills: int = 0
    forks_refused: int = 0
    oom: OutOfMemory = OutOfMemory()
    told: bool = False
    """The guest told its end itself; otherwise it went without a word."""
    panic: str = ""


def read_end(directory: str) -> End:
    """Of the machine whose directory in the state directory this is."""
    data = _read(f"{directory}/end", END.size)
    if len(data) == END.size:
        *_, kills, forks, victim = END.unpack(data)
        return End(kills, forks, _victim(victim), told=True)
    found = PANIC.search(_read(f"{directory}/console", CONSOLE_MAX))
    return End(panic=one_line(found[1].decode("utf-8", "replace").strip()) if found else "")


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
