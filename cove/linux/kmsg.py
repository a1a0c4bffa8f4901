"""The kernel's own words about memory: which process it killed, and how large that was."""

from __future__ import annotations

import os
import re
from collections import deque
from typing import NamedTuple

_KILLED = re.compile(
    r"Killed process (\d+) \((.*)\) total-vm:\d+kB, anon-rss:(\d+)kB, file-rss:\d+kB, "
    r"shmem-rss:(\d+)kB, UID:(\d+)"
)
_CONTEXT = re.compile(r"^oom-kill:.*,task_memcg=(\S+?),task=.*,pid=(\d+),uid=\d+$")
RECORD_MAX = 8192
KEPT = 256


class OomKill(NamedTuple):
    """A process the kernel killed for want of memory."""

    pid: int
    name: str
    uid: int
    """Host uid: it says whose id range, and with it which machine."""
    rss: int
    """Bytes of its own; pages of files, which it may share with others, do not count."""
    group: str
    """Path of its memory control group; empty when the kernel left that line out."""
    time: float
    """Seconds of the monotonic clock at boot."""


class KernelLog:
    """/dev/kmsg from now on. ``fileno`` is readable when the kernel said something."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._groups: dict[int, str] = {}
        self._kills: deque[OomKill] = deque(maxlen=KEPT)
        os.lseek(fd, 0, os.SEEK_END)

    @classmethod
    def open(cls) -> KernelLog | None:
        """None without the right to read it."""
        try:
            fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        return cls(fd)

    def oom_of(self, path: str, *, base: int = 0) -> OomKill | None:
        """The last kill in the control group ``path`` (of ``Group``), or, where the kernel left
        the group out, among the host uids from ``base`` on; one kill is told once.
        """
        self.read()
        for kill in reversed(self._kills):
            mine = f"{kill.group}/".find(f"/{path}/") >= 0
            by_uid = not kill.group and base and base <= kill.uid < base + 65536
            if mine or by_uid:
                self._kills.remove(kill)
                return kill
        return None

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read(self) -> list[OomKill]:
        """Kills since the last call; ``oom_of`` finds them later as well."""
        found = []
        while self._fd >= 0:
            try:
                record = os.read(self._fd, RECORD_MAX)
            except BlockingIOError:
                break
            except BrokenPipeError:  # the ring went round before we came: go on with the oldest
                continue
            except OSError:
                break
            kill = self._parse(record.decode("utf-8", "replace"))
            if kill is not None:
                found.append(kill)
                self._kills.append(kill)
        return found

    def _parse(self, record: str) -> OomKill | None:
        head, _, text = record.split("\n", 1)[0].partition(";")
        fields = head.split(",")
        # Facility 0 is the kernel: a process that may write to /dev/kmsg cannot claim to be it.
        if len(fields) < 3 or not fields[0].isdigit() or int(fields[0]) >> 3 != 0:
            return None
        context = _CONTEXT.match(text)
        if context:
            self._groups[int(context[2])] = context[1]
            return None
        killed = _KILLED.search(text)
        if not killed:
            return None
        pid = int(killed[1])
        rss = (int(killed[3]) + int(killed[4])) * 1024
        when = int(fields[2]) / 1e6 if fields[2].isdigit() else 0.0
        group = self._groups.pop(pid, "")
        return OomKill(pid, _unescape(killed[2]), int(killed[5]), rss, group, when)


def _unescape(text: str) -> str:
    """/dev/kmsg writes what is not printable as \\x0a."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text)
