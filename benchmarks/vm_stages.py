"""Where the time of a start without a boot goes, and what an idle clone costs: clones that this
process makes by the engine itself, stage by stage, without a command, a daemon or a machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks.vm_rows import Row
from cove.engine import files
from cove.engine.engine import Engine
from cove.engine.home import Home
from cove.engine.vms import pool
from cove.engine.vms.emulators import Emulator, clone
from cove.engine.vms.ground import Ground, ground_of
from cove.engine.vms.templates import PLACEHOLDER, empty_slot, where_of
from cove.engine.vms.virtual import MEMORY
from cove.oci.config import ImageConfig
from cove.planner.defaults import STORAGE
from cove.planner.virtual.guest import Identity, plan_guest
from cove.roots.scratch import make_scratch
from cove.vm import agent as agents
from cove.vm import qmp
from cove.vm.templates import Loaded

ANSWER, OWN, IDLE = 100.0, 20.0, 1.0
"""Milliseconds from a clone's start to its agent's answer; MiB of its own; percent of a CPU."""
SETTLE, WATCH = 4.0, 4.0
"""Seconds in which a guest that has just started finishes what it has to do; and that its processor
time is counted over.
"""


@dataclass
class Stages:
    """Rows by what they are called, in the order in which they were first seen."""

    kernel: str
    rows: dict[str, Row] = field(default_factory=dict)

    def add(self, name: str, value: float, *, budget: float = 0.0, unit: str = "ms") -> None:
        row = self.rows.setdefault(name, Row(f"{self.kernel} kernel, {name}", budget, unit))
        row.values.append(value)


def stages(kernel: str, root: Path, rounds: int) -> list[Row]:
    """With no daemon on that state directory; its template is there."""
    found = Stages(kernel)
    os.environ["COVE_VM_POOL"] = "0"  # one that is filled meanwhile would cost processors
    with Engine.open(str(root), restart=(), environment={}, lock_fd=None) as engine:
        home = engine.home
        ground = ground_of(home, home.facts.arch)
        loaded = home.templates.take(home, ground, MEMORY, 1)
        assert loaded is not None, "there is no template"
        try:
            for number in range(rounds):
                _clone(found, home, ground, loaded, last=number == rounds - 1)
            for number in range(rounds):
                _warm(found, home, ground, loaded, last=number == rounds - 1)
        finally:
            loaded.close()
    return list(found.rows.values())


def _clone(found: Stages, home: Home, ground: Ground, loaded: Loaded, *, last: bool) -> None:
    """From nothing to the end of a program."""
    with _clocked("resume") as took:
        began = time.perf_counter()
        with _made(home, ground, loaded) as (emulator, _):
            made = _since(began)
            resumed = took.pop() * 1e3
            found.add("clone: jail and emulator, up to its control socket", made - resumed)
            found.add("clone: state loaded, going on", resumed)
            answered = _run(found, "clone", ground, emulator)
            found.add("clone: from nothing to its agent's answer", made + answered, budget=ANSWER)
    if last:
        with _made(home, ground, loaded) as (emulator, pid):
            assert emulator.agent.read("/proc/version")
            _idle(found, "clone that has answered", pid, budget=OWN)


def _warm(found: Stages, home: Home, ground: Ground, loaded: Loaded, *, last: bool) -> None:
    """One that has waited in the pool."""
    with _made(home, ground, loaded) as (emulator, pid):
        pool.warm(emulator, ground)
        if last:
            _idle(found, "warm clone, with its translated code", pid, budget=0.0)
        root, scratch = _disks(home, emulator)
        began = time.perf_counter()
        try:
            qmp.put_disks(emulator.control, root, scratch)
        finally:
            os.close(root)
            os.close(scratch)
        found.add("warm: disks exchanged", _since(began))
        _run(found, "warm", ground, emulator)


def _run(found: Stages, kind: str, ground: Ground, emulator: Emulator) -> float:
    """The rest of the plan of a machine, and what its agent says meanwhile. Milliseconds to the
    first word, which is that it has taken the plan.
    """
    texts = dict(files.texts(PLACEHOLDER, "guest"))
    spec = msgspec.structs.replace(PLACEHOLDER, remove=True)
    own = Identity(os.urandom(64), time.time_ns(), "0" * 36, "0" * 32)
    plan = plan_guest(spec, ImageConfig(), ground.inside, own, texts, hostname="guest")
    rest = plan.after(ground.ahead)
    assert rest is not None
    seen: dict[int, float] = {}
    hear = emulator.agent.message

    def heard() -> tuple[int, int, int, bytes]:
        message = hear()
        seen.setdefault(message[0], time.perf_counter())
        return message

    emulator.agent.message = heard  # type: ignore[method-assign]
    began = time.perf_counter()
    emulator.agent.finish(rest, channel=agents.MACHINE)
    last = began
    for name, what in (
        ("its agent takes the plan", agents.TAKEN),
        ("identity, disks, root, walls: to its program", agents.STARTED),
        ("its program's first byte", agents.OUTPUT),
        ("its end told", agents.EXITED),
    ):
        found.add(f"{kind}: {name}", (seen[what] - last) * 1e3)
        last = seen[what]
    return (seen[agents.TAKEN] - began) * 1e3


@contextmanager
def _made(home: Home, ground: Ground, loaded: Loaded) -> Iterator[tuple[Emulator, str]]:
    """A clone on a placeholder, and its emulator's process."""
    slot = empty_slot(home, MEMORY)
    assert slot.ctl is not None
    try:
        root, scratch = pool.placeholder(home), _scratch(home, slot.key)
        try:
            emulator = clone(home, where_of(slot), ground, loaded, (root, scratch), slot.ctl)
        finally:
            os.close(root)
            os.close(scratch)
        try:
            yield emulator, _process(slot.group.path)
        finally:
            emulator.close()
    finally:
        home.slots.give_up(slot)


def _disks(home: Home, emulator: Emulator) -> tuple[int, int]:
    return pool.placeholder(home), _scratch(home, id(emulator))


def _scratch(home: Home, key: int) -> int:
    layout = home.store.layout
    path = f"{layout.tmp}/bench-{key}"
    fd = make_scratch(layout.scratch(STORAGE, journal=False), path, STORAGE, journal=False)
    os.unlink(path)
    return fd


def _process(group: str) -> str:
    """The emulator in the control group with this path, which holds no other."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
                groups = Path(f"/proc/{entry}/cgroup").read_text().splitlines()
            except OSError:
                continue
            if b"qemu-system" in line[:40] and any(at.endswith(group) for at in groups):
                return entry
    raise LookupError("the emulator is gone")


def _idle(found: Stages, name: str, pid: str, *, budget: float) -> None:
    time.sleep(SETTLE)
    before, began = _ticks(pid), time.monotonic()
    time.sleep(WATCH)
    used = (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK")
    share = 100 * used / (time.monotonic() - began)
    found.add(f"{name}: own memory, idle", own_memory(pid), budget=budget, unit="MiB")
    found.add(f"{name}: CPU, idle", share, budget=IDLE, unit="%")


def own_memory(pid: str) -> float:
    """MiB that are this process's alone; template pages that it only reads are not."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    raise LookupError("no count of anonymous memory")


def _ticks(pid: str) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


@contextmanager
def _clocked(name: str) -> Iterator[list[float]]:
    """Seconds that each call of this function of ``qmp`` takes."""
    took: list[float] = []
    real = getattr(qmp, name)

    def call(*words: object) -> None:
        began = time.perf_counter()
        real(*words)
        took.append(time.perf_counter() - began)

    setattr(qmp, name, call)
    try:
        yield took
    finally:
        setattr(qmp, name, real)
