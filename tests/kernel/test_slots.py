"""Warm slots: what was run ahead is a machine's beginning, and leaves nothing when it is not."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cove.engine import calls, slots
from cove.engine.engine import Engine
from cove.engine.machines import start
from cove.executor.messages import StartFlag
from cove.spec.machine import Limits, MachineSpec, Mount, Security
from tests.driver import Cove, kill_process, wait_until
from tests.kernel.conftest import open_engine
from tests.kernel.test_walks import settle
from tests.leaks import group_name
from tests.shared import no_scenario

pytestmark = no_scenario("slots are the works of a container's start")

LIMITS = Limits(memory=64 << 20, pids=50, oom_score_adj=300)
GRANTED = "grep CapBnd /proc/self/status"
SPEC = MachineSpec(image="bb", command=("true",))


@pytest.fixture(scope="module")
def engine(bb_tar: Path) -> Iterator[Engine]:
    """With more patience than a daemon has, on hosts however busy: who is slow is no failure."""
    with pytest.MonkeyPatch.context() as patch, open_engine(bb_tar) as made:
        patch.setattr(slots, "PATIENCE", 60)
        without_slots(made)
        made.home.slots.refill()
        yield made


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[bool]:
    """For each start: whether it was the rest of one that had been run ahead."""
    found: list[bool] = []
    real = start.send_start

    def seen(sock: object, message: object, fds: dict[str, int]) -> None:
        found.append("dir" not in fds)
        real(sock, message, fds)  # type: ignore[arg-type]

    engine.home.slots.refill()
    monkeypatch.setattr(start, "send_start", seen)
    return found


@pytest.mark.parametrize("again", [False, True])
def test_a_machine_runs_once_its_program_was_started(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, again: bool
) -> None:
    found: list[tuple[object, ...]] = []
    real = start.send_start

    def seen(*given: object) -> None:
        every = engine.list(calls.List(all=True), calls.Call()).machines
        record = engine.inspect(calls.Inspect("starts"), calls.Call()).record
        active = engine.list(calls.List(), calls.Call()).machines
        found.append((*((m.state, m.pid) for m in every), record.state, record.pid, active))
        real(*given)  # type: ignore[arg-type]

    spec = msgspec.structs.replace(SPEC, command=("sleep", "1000"), name="starts")
    made = engine.create(calls.Create(spec), calls.Call())
    if again:
        engine.start(calls.Start(made.id), calls.Call())
        engine.kill(calls.Kill(made.id), calls.Call())
    monkeypatch.setattr(start, "send_start", seen)
    engine.start(calls.Start(made.id), calls.Call())
    record = engine.inspect(calls.Inspect("starts"), calls.Call()).record
    engine.remove(calls.Remove(made.id, force=True), calls.Call())
    assert found == [(("created", 0), "created", 0, ())]
    assert record.state == "running" and record.pid


def run(engine: Engine, script: str, spec: MachineSpec = SPEC) -> str:
    """What the machine writes; it is removed."""
    spec = msgspec.structs.replace(spec, command=("sh", "-c", script))
    made = engine.run(calls.Run(spec), calls.Call())
    engine.wait(calls.Wait(made.id), calls.Call())
    logs = engine.logs(calls.Logs(made.id), calls.Call())
    out = b"".join(entry.data for entry in logs).decode()
    engine.remove(calls.Remove(made.id), calls.Call())
    settle(engine)
    return out


def without_slots(engine: Engine) -> None:
    """The next machine starts with its whole plan at once."""
    ready = engine.home.slots._ready
    while ready:
        engine.home.slots.give_up(ready.pop())


def machines_of(engine: Engine) -> list[int]:
    """The waiting children, by the groups of the slots."""
    return [pid for s in engine.home.slots._ready for pid in engine.home.groups.pids(s.group)]


def test_slots_wait(engine: Engine) -> None:
    engine.home.slots.refill()
    ready = engine.home.slots._ready
    assert [slot.ahead is not None for slot in ready] == [True] * slots.READY
    assert len({slot.id_range for slot in ready}) == slots.READY
    assert all(slot.waits() for slot in ready)
    assert engine.list(calls.List(all=True), calls.Call()).machines == ()


def test_what_the_host_unmounts_goes_from_slots_too(engine: Engine, tmp_path: Path) -> None:
    """Where mounts are shared, as systemd has them: a slot keeps no file system busy."""
    inner = tmp_path / "inner"
    subprocess.run(["mount", "-t", "tmpfs", "slots", str(tmp_path)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(tmp_path)], check=True)
        inner.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "inner", str(inner)], check=True)
        without_slots(engine)
        engine.home.slots.refill()
        pid = machines_of(engine)[0]
        assert f" {inner} " in Path(f"/proc/{pid}/mountinfo").read_text()
        subprocess.run(["umount", str(inner)], check=True)
        assert f" {inner} " not in Path(f"/proc/{pid}/mountinfo").read_text()
    finally:
        subprocess.run(["umount", "-R", str(tmp_path)], check=True)
        without_slots(engine)


def numberless(mountinfo: str) -> list[str]:
    """Mount points, roots, options, types: what a machine sees but for its own name and key."""
    lines = []
    for line in mountinfo.splitlines():
        text = re.sub(r"^\d+ \d+ \S+ ", "", line)
        text = re.sub(r"/machines/\d+/|upperdir=u\d+|workdir=u\d+|[ug]id=\d+", "", text)
        lines.append(re.sub(r"u\d+/|/\d+ ", "", text))
    return lines


LOOK = "cat /proc/self/mountinfo; grep -E 'Cap|NoNew|Secc|Umask|Groups' /proc/self/status; id"
MORE = """
cat /proc/self/limits /proc/self/oom_score_adj /proc/sys/net/ipv4/ping_group_range
ls -lAn /dev /sys/firmware /proc/acpi; cat /proc/interrupts | wc -c; cat /sys/class/net/lo/flags
echo x > /proc/sys/kernel/panic; stat -c %a /dev/shm /proc /sys /dev; pwd
"""


def test_a_warm_machine_is_as_a_cold_one(engine: Engine, sent: list[bool]) -> None:
    looks = f"exec 2>&1; {LOOK} {MORE}"  # what comes from two pipes may be mixed within a line
    warm = run(engine, looks)
    without_slots(engine)
    cold = run(engine, looks)
    assert sent == [True, False]
    strip = re.compile(r"\w\w\w +\d+ \d\d:\d\d")
    ours, theirs = (Counter(numberless(strip.sub("", said))) for said in (warm, cold))
    assert (ours - theirs, theirs - ours) == (Counter(), Counter())
    assert " /proc/sys ro" in warm and " /sys/firmware ro" in warm


@pytest.mark.parametrize(
    ("change", "script", "out"),
    [
        ({"hostname": "named"}, "hostname; cat /etc/hostname", "named named"),
        ({"extra_hosts": ("db:1.2.3.4",)}, "grep -w db /etc/hosts", "1.2.3.4 db"),
        ({"limits": LIMITS}, "cat /proc/self/oom_score_adj", "300"),
        ({"security": Security(cap_add=("SYS_TIME",))}, GRANTED, "CapBnd: 00000000820425fb"),
        ({"security": Security(read_only=True)}, "touch /x 2>/dev/null || echo ro", "ro"),
        ({"env": tuple(f"LONG{i}={'x' * 100_000}" for i in range(4))}, "echo ${#LONG3}", "100000"),
        ({"mounts": (Mount("tmpfs", "/t", origin="--tmpfs /t"),)}, "touch /t/x && ls /t", "x"),
        ({"user": "7:8"}, "id -u; id -g", "7 8"),
    ],
    ids=["hostname", "hosts", "limits", "capability", "read-only", "environment", "tmpfs", "user"],
)  # fmt: skip
def test_what_a_warm_machine_may_ask(
    engine: Engine, sent: list[bool], change: dict[str, object], script: str, out: str
) -> None:
    found = run(engine, script, msgspec.structs.replace(SPEC, **change))
    assert (found.split(), sent) == (out.split(), [True])


def test_a_bind_mount_is_warm(engine: Engine, sent: list[bool], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    below = tmp_path / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "slots", str(below)], check=True)
    try:
        (below / "deep").write_text("deep\n")
        mount = Mount("bind", "/data", str(tmp_path), origin=f"-v {tmp_path}:/data")
        spec = msgspec.structs.replace(SPEC, mounts=(mount,))
        assert run(engine, "cat /data/file /data/below/deep", spec) == "bound\ndeep\n"
    finally:
        subprocess.run(["umount", str(below)], check=True)
    assert sent == [True]


@pytest.mark.parametrize(
    "change",
    [
        {"network": "host"},
        {"sysctls": (("net.ipv4.ip_forward", "1"),)},
        {"limits": Limits(shm=1 << 20)},
        {"security": Security(privileged=True)},
        {"security": Security(userns="host")},
    ],
    ids=["network", "sysctl", "shm", "privileged", "userns"],
)
def test_other_beginnings_start_cold(
    engine: Engine, sent: list[bool], change: dict[str, object]
) -> None:
    assert run(engine, "echo ran", msgspec.structs.replace(SPEC, **change)) == "ran\n"
    assert sent == [False]


def killed_children(engine: Engine) -> None:
    for pid in machines_of(engine):
        os.kill(pid, signal.SIGKILL)


def killed_monitors(engine: Engine) -> None:
    for pid in machines_of(engine):
        os.kill(parent(pid), signal.SIGKILL)


@pytest.mark.parametrize("harm", [killed_children, killed_monitors])
def test_a_slot_that_died_is_not_seen(
    engine: Engine, sent: list[bool], harm: Callable[[Engine], None]
) -> None:
    waiting = [slot.ctl for slot in engine.home.slots._ready if slot.ctl is not None]
    harm(engine)
    for ctl in waiting:
        assert select.select([ctl], [], [], 180)[0]
    assert run(engine, "echo ran") == "ran\n"
    assert sent == [False]


def test_a_slot_that_dies_at_the_last_moment(
    engine: Engine, sent: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it was looked at: the rest cannot be sent, and the machine starts cold."""
    monkeypatch.setattr(slots.Slot, "waits", lambda slot: True)
    waiting = [slot.ctl for slot in engine.home.slots._ready if slot.ctl is not None]
    killed_monitors(engine)
    for ctl in waiting:
        assert select.select([ctl], [], [], 180)[0]
    assert run(engine, "echo ran") == "ran\n"
    assert sent == [True, False]


def test_a_host_that_runs_nothing_ahead(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some failures it is not tried any more, and machines start all the same."""
    without_slots(engine)
    monkeypatch.setattr(slots, "_wait_barrier", lambda ctl, ahead: -1)
    tried: list[StartFlag] = []
    real = slots.send_start
    monkeypatch.setattr(slots, "send_start", lambda s, m, f: (tried.append(m.flags), real(s, m, f)))
    engine.home.slots.refill()
    assert tried == [StartFlag.AHEAD] * slots.FAILURES
    assert run(engine, "echo ran") == "ran\n"
    without_slots(engine)
    engine.home.slots._failures = 0


def of_slots(cove: Cove) -> set[Path]:
    """What exists of machines that nobody asked for, besides their processes."""
    found = {*cove.root.glob("roots/u*"), *cove.root.glob("machines/*")}
    return found | {path for path in cove.root.glob("run/*.sock") if path.stem.isdigit()}


def waiting_processes(cove: Cove) -> set[int]:
    """The children in groups of this state directory, and their monitors."""
    group = f"/{group_name(cove.root)}/"
    found = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if group in Path(f"/proc/{entry}/cgroup").read_text():
                found |= {int(entry), parent(int(entry))}
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def test_a_killed_daemon_leaves_no_slots(fresh_cove: Cove) -> None:
    cove = fresh_cove
    wait_until(lambda: len(waiting_processes(cove)) == 2 * slots.READY)
    before, processes, daemon = of_slots(cove), waiting_processes(cove), cove.daemon_pid()
    assert len(before) == 3 * slots.READY
    kill_process(daemon)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in processes))
    assert cove("ps", "-aq").out == ""
    wait_until(lambda: not before & of_slots(cove))
