"""Virtual machines, from the command to the first byte and to the exit: booted, cloned of a
template, and from the pool; beside the budgets of the design.
"""

from __future__ import annotations

import os
import select
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cove.engine.engine import Engine
from cove.engine.vms.emulators import clone
from cove.engine.vms.ground import ground_of
from cove.engine.vms.templates import empty_slot, where_of
from cove.engine.vms.virtual import MEMORY
from cove.vm.qmp import reopened

PATIENCE = 60.0
IMAGE = "cove-bench-vm"
WORDS = ("run", "--rm", "--vm", IMAGE, "echo", "hi")

BUDGETS = {
    ("stock", "boot"): 2500, ("fast", "boot"): 1000,
    ("stock", "template"): 350, ("fast", "template"): 250,
    ("stock", "pool"): 150, ("fast", "pool"): 100,
}  # fmt: skip
"""Milliseconds from the command to its first byte."""
ANSWER, OWN, IDLE = 100.0, 20.0, 1.0
"""Milliseconds from a clone's start to its agent's answer; MiB of its own; percent of a CPU."""


@dataclass
class Row:
    name: str
    budget: float
    unit: str = "ms"
    values: list[float] = field(default_factory=list)

    def line(self) -> str:
        if not self.values:
            return f"  {self.name:44} not measured"
        median = statistics.median(self.values)
        mark = "" if not self.budget else "within" if median <= self.budget else "OVER"
        budget = f"{self.budget:7.0f}" if self.budget else "      -"
        return (
            f"  {self.name:44} {min(self.values):8.1f} {median:8.1f} {max(self.values):8.1f} "
            f"{budget} {self.unit:3} {mark}"
        )


class Bench:
    """A state directory of its own, in which one kernel at a time is there."""

    def __init__(self, place: Path, cove: str, kernels: Path) -> None:
        self.root, self.cove, self.kernels = place / "vm", cove, kernels
        self.env = {**os.environ, "COVE_ROOT": str(self.root)}

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
        rows += self.idle(kernel)
        self.stop()
        rows.append(self.answers(kernel, rounds))
        self.env["COVE_VM_POOL"] = "1"
        self("ps")
        return rows + self.starts(kernel, "pool", rounds)

    def answers(self, kernel: str, rounds: int) -> Row:
        """By the engine itself, in this process."""
        row = Row(f"{kernel} kernel, clone to its agent's answer", ANSWER)
        with Engine.open(str(self.root), restart=(), environment={}, lock_fd=None) as engine:
            home = engine.home
            ground = ground_of(home, home.facts.arch)
            loaded = home.templates.take(home, ground, MEMORY, 1)
            disk = os.memfd_create("disk", os.MFD_CLOEXEC)
            os.ftruncate(disk, 1 << 20)
            root = reopened(disk)
            for _ in range(rounds):
                slot = empty_slot(home, MEMORY)
                began = time.perf_counter()
                found = clone(home, where_of(slot), ground, loaded, (root, disk), slot.ctl)
                if found.agent.read("/proc/version"):
                    row.values.append((time.perf_counter() - began) * 1e3)
                found.close()
                home.slots.give_up(slot)
            loaded.close()
            os.close(disk)
            os.close(root)
        return row

    def starts(self, kernel: str, how: str, rounds: int) -> list[Row]:
        first = Row(f"{kernel} kernel, {how}: first byte", BUDGETS[kernel, how])
        last = Row(f"{kernel} kernel, {how}: exit", 0)
        for _ in range(rounds):
            if how == "boot":  # one that is being made meanwhile would cost processors
                self.wait(lambda: "ready" in self.templates("Status"), "a template")
                self("template", "rm", *self.templates("ID"))
            elif how == "template":
                self.wait(lambda: "ready" in self.templates("Status"), "a template")
            else:
                self.wait(lambda: "1" in self.templates("Warm"), "a warm clone")
                time.sleep(0.3)
            self.timed(first, last)
        return [first, last]

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

    def idle(self, kernel: str) -> list[Row]:
        """A clone that waits: memory that is its own alone, and the processor's time."""
        memory = Row(f"{kernel} kernel, idle clone: own memory", OWN, "MiB")
        busy = Row(f"{kernel} kernel, idle clone: CPU", IDLE, "%")
        name = self("run", "-d", "--vm", IMAGE, "sleep", "1000").strip()
        hub = self("inspect", "-f", "{{.State.Pid}}", name).strip()
        children = Path(f"/proc/{hub}/task/{hub}/children").read_text().split()
        (pid,) = [p for p in children if b"qemu" in Path(f"/proc/{p}/cmdline").read_bytes()]
        time.sleep(8)  # a guest that has just started has work to finish
        before, began = _ticks(pid), time.monotonic()
        time.sleep(5)
        took = (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK")
        busy.values.append(100 * took / (time.monotonic() - began))
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                memory.values.append(int(line.split()[1]) / 1024)
        self("rm", "-f", name)
        return [memory, busy]


def _ticks(pid: str) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def measure(place: Path, cove: str, kernels: Path, rounds: int) -> None:
    """``kernels``: of a state directory that has them, ``fast`` and one of Debian's."""
    bench = Bench(place, cove, kernels)
    names = {"fast" if name == "fast" else "stock": name for name in sorted(os.listdir(kernels))}
    print(f"virtual machines{'':30} {'min':>8} {'median':>8} {'max':>8}  budget")
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
