"""Times whole commands, from spawn to reaped, interleaved round by round so that a neighbour's load
hits all alike.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Series:
    """Wall times in milliseconds of one contestant."""

    name: str
    times: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.times) if self.times else float("nan")

    @property
    def least(self) -> float:
        return min(self.times, default=float("nan"))


NULL = os.open("/dev/null", os.O_RDWR)


def run_command(argv: list[str], env: dict[str, str]) -> tuple[float, int]:
    """Wall milliseconds and exit status of one command, with /dev/null as 0, 1, 2."""
    program = shutil.which(argv[0], path=env.get("PATH")) or argv[0]
    dups = [(os.POSIX_SPAWN_DUP2, NULL, fd) for fd in (0, 1, 2)]
    begin = time.perf_counter()
    pid = os.posix_spawn(program, argv, env, file_actions=dups)
    _, status = os.waitpid(pid, 0)
    return (time.perf_counter() - begin) * 1e3, os.waitstatus_to_exitcode(status)


class Elsewhere:
    """Times commands from a process that lives in a mount namespace of its own, where the unified
    cgroup hierarchy is hidden: Debian's crun refuses a hybrid layout. Nothing is added to the time.
    """

    HIDE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'

    def __init__(self) -> None:
        command = ["unshare", "-m", "sh", "-c", self.HIDE, "-", sys.executable, "-m", __name__]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, argv: list[str], env: dict[str, str]) -> tuple[float, int]:
        assert self.child.stdin and self.child.stdout
        self.child.stdin.write(json.dumps([argv, env]) + "\n")
        self.child.stdin.flush()
        took, code = json.loads(self.child.stdout.readline())
        return took, code


def serve() -> None:
    """The other end of Elsewhere: a command a line, its time and code a line."""
    for line in sys.stdin:
        print(json.dumps(run_command(*json.loads(line))), flush=True)


def interleave(
    contestants: dict[str, Callable[[], tuple[float, int]]], rounds: int, *, warmup: int = 3
) -> list[Series]:
    """Each contestant once a round, in random order."""
    series = {name: Series(name) for name in contestants}
    for number in range(-warmup, rounds):
        order = list(contestants)
        random.shuffle(order)
        for name in order:
            took, code = contestants[name]()
            series[name].failed += code != 0
            if number >= 0:
                series[name].times.append(took)
            time.sleep(0.02)
    return list(series.values())


def table(title: str, rows: list[Series]) -> str:
    """Median, least and the ratio of cove's median to each peer's."""
    cove = next((r.median for r in rows if r.name == "cove"), float("nan"))
    lines = [title, f"  {'':24} {'min ms':>9} {'median':>9} {'max':>9} {'cove is':>9}"]
    for row in sorted(rows, key=lambda r: r.median):
        share = "" if row.name == "cove" else f"{cove / row.median:8.2f}x"
        note = f"  ({row.failed} failed)" if row.failed else ""
        top = max(row.times, default=float("nan"))
        lines.append(
            f"  {row.name:24} {row.least:9.2f} {row.median:9.2f} {top:9.2f} {share:>9}{note}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    serve()
