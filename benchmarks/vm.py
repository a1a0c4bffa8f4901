"""Virtual machines, from the command to the first byte and to the exit: booted, cloned of a
template, and from the pool, split by stage; beside the budgets of the design.

    cove kernel fetch; cove kernel build        # once; half an hour
    python -m benchmarks --work vm --rounds 10 --kernels /var/lib/cove/kernels
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.vm_rows import Row
from benchmarks.vm_stages import stages

PATIENCE = 60.0
IMAGE = "cove-bench-vm"
WORDS = ("run", "--rm", "--vm", IMAGE, "echo", "hi")

BUDGETS = {
    ("stock", "boot"): 2500, ("fast", "boot"): 1000,
    ("stock", "template"): 350, ("fast", "template"): 250,
    ("stock", "pool"): 150, ("fast", "pool"): 100,
}  # fmt: skip
"""Milliseconds from the command to its first byte."""


class Bench:
    """A state directory of its own, in which one kernel at a time is there."""

    def __init__(self, place: Path, cove: str, kernels: Path) -> None:
        self.root, self.cove, self.kernels = place / "vm", cove, kernels
        self.env = {**os.environ, "COVE_ROOT": str(self.root), "COVE_DEFAULT_NETWORK": "none"}

    def __call__(self, *words: str, check: bool = True) -> str:
        ran = subprocess.run(
            [self.cove, *words], env=self.env, capture_output=True, text=True, check=check
        )
        return ran.stdout

    def open(self, kernel: str, *, pool: int) -> None:
        self.stop()
        shutil.rmtree(self.root / "kernels", ignore_errors=True)
        shutil.copytree(self.kernels / kernel, self.root / "kernels" / kernel)
        self.env["COVE_VM_POOL"] = str(pool)
        self("ps")

    def stop(self) -> None:
        try:
            pid = int((self.root / "run/daemon.pid").read_text())
            fd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return
        self("daemon", "stop", check=False)
        select.select([fd], [], [], PATIENCE)
        os.close(fd)

    def templates(self, column: str) -> list[str]:
        return self("template", "ls", "--format", f"{{{{.{column}}}}}").split()

    def wait(self, true: Callable[[], bool], what: str) -> None:
        late = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > late:
                raise TimeoutError(f"waited in vain: {what}")
            time.sleep(0.05)

    def timed(self, first: Row, last: Row, words: tuple[str, ...] = WORDS) -> None:
        began = time.perf_counter()
        with subprocess.Popen(
            [self.cove, *words], env=self.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        ) as child:
            assert child.stdout is not None
            if child.stdout.read(1):
                first.values.append((time.perf_counter() - began) * 1e3)
            if child.wait() == 0:
                last.values.append((time.perf_counter() - began) * 1e3)

    # ---- what is measured ----

    def all_of(self, kernel: str, rounds: int) -> list[Row]:
        rows = self.starts(kernel, "boot", rounds)
        rows += self.starts(kernel, "template", rounds)
        rows.append(self.at_once(kernel))
        self.stop()
        rows += stages(kernel, self.root, rounds)
        self.env["COVE_VM_POOL"] = "1"
        self("ps")
        return rows + self.starts(kernel, "pool", rounds)

    def starts(self, kernel: str, how: str, rounds: int) -> list[Row]:
        """To the first byte and to the end, split by what the daemon's events tell."""
        first = Row(f"{kernel} kernel, {how}: first byte", BUDGETS[kernel, how])
        last = Row(f"{kernel} kernel, {how}: exit", 0)
        runs = []
        for _ in range(rounds):
            if how == "boot":  # one that is being made meanwhile would cost processors
                self.wait(lambda: "ready" in self.templates("Status"), "a template")
                self("template", "rm", *self.templates("ID"))
            elif how == "template":
                self.wait(lambda: "ready" in self.templates("Status"), "a template")
            else:
                self.wait(lambda: "1" in self.templates("Warm"), "a warm clone")
                time.sleep(0.3)
            began = time.time()
            self.timed(first, last)
            runs.append((began, first.values[-1] / 1e3, last.values[-1] / 1e3))
        return [first, last, *self.split(f"{kernel} kernel, {how}", runs)]

    def split(self, name: str, runs: list[tuple[float, float, float]]) -> list[Row]:
        names = ("command to record", "record to running program", "program to first byte",
                 "first byte to exit")  # fmt: skip
        rows = [Row(f"  {name}: {stage}", 0) for stage in names]
        words = ("--since", f"{runs[0][0]:.6f}", "--until", f"{time.time():.6f}")
        events = [json.loads(line) for line in
                  self("events", *words, "--format", "json").splitlines()]  # fmt: skip
        told = {
            kind: [event["timeNano"] / 1e9 for event in events if event["Action"] == kind]
            for kind in ("create", "start")
        }
        for (began, first, last), created, started in zip(runs, *told.values(), strict=True):
            marks = (began, created, started, began + first, began + last)
            for row, (one, two) in zip(rows, itertools.pairwise(marks), strict=True):
                row.values.append((two - one) * 1e3)
        return rows

    def at_once(self, kernel: str, count: int = 10) -> Row:
        """All of them, from the first command to the last byte."""
        row = Row(f"{kernel} kernel, {count} at once from the template", 0)
        began = time.perf_counter()
        children = [
            subprocess.Popen([self.cove, *WORDS], env=self.env, stdout=subprocess.PIPE)
            for _ in range(count)
        ]
        said = [child.communicate()[0] for child in children]
        if said == [b"hi\n"] * count:
            row.values.append((time.perf_counter() - began) * 1e3)
        return row


def kinds(kernels: Path) -> dict[str, str]:
    """Those for this CPU, the newest of each kind."""
    found = {}
    for name in sorted(os.listdir(kernels)):
        if json.loads((kernels / name / "meta.json").read_text())["arch"] == os.uname().machine:
            found["fast" if name == "fast" else "stock"] = name
    return found


def measure(place: Path, cove: str, kernels: Path, rounds: int) -> None:
    """``kernels``: of a state directory that has them, ``fast`` and one of Debian's."""
    bench = Bench(place, cove, kernels)
    names = kinds(kernels)
    print(f"virtual machines{'':52} {'min':>8} {'median':>8} {'max':>8}  budget")
    tree = place / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", tree / "bin/busybox")
    for applet in ("echo", "sleep", "sh"):
        (tree / "bin" / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", tree, "-cf", place / "image.tar", "."], check=True)
    try:
        bench.root.mkdir()
        if (kernels.parent / "kvm.json").exists():
            shutil.copy(kernels.parent / "kvm.json", bench.root / "kvm.json")
        bench("image", "import", str(place / "image.tar"), IMAGE)
        for kind, name in names.items():
            bench.open(name, pool=0)
            bench(*WORDS)
            for row in bench.all_of(kind, rounds):
                print(row.line(), flush=True)
    finally:
        bench.stop()
