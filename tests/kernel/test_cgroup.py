"""Limits are the kernel's: each is hit for real, in groups of this test's own."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cove.errors import CoveError
from cove.linux import kmsg
from cove.linux.cgroups.files import read_number
from cove.linux.cgroups.tree import Cgroups, Event, Group, open_cgroups
from cove.linux.probe import probe_facts
from cove.plan.facts import Facts
from cove.spec.machine import Limits
from tests.conftest import need_root
from tests.driver import wait_until
from tests.leaks import leaks

MIB = 1 << 20


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    need_root()
    return probe_facts(tmp_path_factory.mktemp("state"))


@pytest.fixture(params=["host", "v1", "v2"])
def any_facts(request: pytest.FixtureRequest, facts: Facts) -> Facts:
    """This host, and, where it is a hybrid, as much of the other two as it can show."""
    if facts.cgroup != "hybrid" or request.param == "host":
        return facts
    if request.param == "v1":
        return msgspec.structs.replace(facts, cgroup="v1", unified="")
    return msgspec.structs.replace(facts, cgroup="v2", controllers={})


@pytest.fixture
def any_groups(any_facts: Facts, tmp_path: Path) -> Iterator[Cgroups]:
    yield from opened(any_facts, tmp_path)


@pytest.fixture
def groups(facts: Facts, tmp_path: Path) -> Iterator[Cgroups]:
    yield from opened(facts, tmp_path)


def opened(facts: Facts, tmp_path: Path) -> Iterator[Cgroups]:
    with leaks(tmp_path), open_cgroups(facts, str(tmp_path)) as cgroups:
        yield cgroups
        for name in cgroups.names():
            group = cgroups.adopt(name)
            if group is not None:
                cgroups.kill(group)
                wait_removed(cgroups, group)


def wait_removed(cgroups: Cgroups, group: Group) -> None:
    """The kernel lets go of a group a moment after its last process."""
    cgroups.remove(group)
    wait_until(lambda: not cgroups.reap())


def run_in(group: Group, script: str, **pipes: int) -> subprocess.Popen[bytes]:
    """A shell that enters the group by itself, as a machine does."""
    enter = "".join(f"echo 0 > {file}; " for file in group.entrances)
    return subprocess.Popen(["sh", "-c", enter + script], **pipes)  # type: ignore[call-overload]


def ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"


def wait_event(cgroups: Cgroups, event: Event) -> None:
    seen: list[Event] = []
    while event not in seen:
        found = select.select([cgroups.events_fd], [], [], 180)[0]
        assert found, f"no {event}, only {seen}"
        seen += cgroups.read_events()


def gone(group: Group) -> bool:
    paths = [os.path.dirname(file) for file in group.tasks] + [group.directory]
    return not any(os.path.exists(path) for path in paths if path)


HOG = "exec python3 -S -E -c 'x = bytearray(256 << 20)'"


def test_memory(groups: Cgroups) -> None:
    log = kmsg.KernelLog.open()
    assert log is not None
    group = groups.make(Limits(memory=32 * MIB, memory_swap=32 * MIB))
    with run_in(group, HOG) as process:
        assert process.wait() == -9
    wait_event(groups, Event(group.name, "oom"))
    assert groups.counters(group).oom_kills == 1
    kill = log.oom_of(group.path)
    log.close()
    assert kill is not None
    assert (kill.pid, kill.name, kill.uid) == (process.pid, "python3", 0)
    assert 16 * MIB < kill.rss <= 40 * MIB
    assert groups.stats(group).memory_limit == 32 * MIB
    assert groups.stats(group).memory_peak >= 16 * MIB
    wait_removed(groups, group)


def test_processes(groups: Cgroups, facts: Facts) -> None:
    group = groups.make(Limits(pids=3))
    script = "sleep 60 & sleep 60 & sleep 60 & wait"
    with run_in(group, script, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: groups.counters(group).pids_hits >= 1)
        if facts.cgroup == "v2":  # v1 tells nobody since Linux 6.11
            wait_event(groups, Event(group.name, "pids"))
        assert groups.stats(group).pids_limit == 3
        groups.kill(group)
        process.wait()
    wait_removed(groups, group)


def test_what_nobody_limits_is_not_limited(groups: Cgroups) -> None:
    """What a machine has where nothing was asked for is the planner's."""
    stats = groups.stats(groups.make(Limits()))
    assert stats.pids_limit == -1
    assert stats.memory_limit == -1
    assert groups.stats(groups.make(Limits(pids=-1))).pids_limit == -1


def test_cpu(groups: Cgroups, facts: Facts) -> None:
    group = groups.make(Limits(cpus=0.02, cpu_shares=512))
    busy = "exec python3 -S -E -c 'import time\nwhile time.process_time() < 0.03: pass'"
    with run_in(group, busy) as process:
        assert process.wait() == 0
    stats = groups.stats(group)
    assert stats.throttled > 0
    assert stats.cpu >= 27_000_000
    if facts.cgroup == "v2":
        assert Path(group.directory, "cpu.max").read_text() == "2000 100000\n"
    else:
        base = f"{facts.controllers['cpu']}/{group.path}"
        assert read_number(f"{base}/cpu.cfs_quota_us") == 2000
        assert read_number(f"{base}/cpu.shares") == 512


def test_cpuset(groups: Cgroups) -> None:
    group = groups.make(Limits(cpuset_cpus="0"))
    show = "exec python3 -S -E -c 'import os; print(os.sched_getaffinity(0))'"
    with run_in(group, show, stdout=subprocess.PIPE) as process:
        assert process.communicate()[0] == b"{0}\n"


def test_memory_and_swap(groups: Cgroups, facts: Facts) -> None:
    if not facts.swap:
        pytest.skip("needs swap that is counted: swapaccount is off")
    for limits, expected in (
        (Limits(memory=64 * MIB), 128 * MIB),
        (Limits(memory=64 * MIB, memory_swap=64 * MIB), 64 * MIB),
        (Limits(memory=64 * MIB, memory_swap=-1), -1),
    ):
        group = groups.make(limits)
        if facts.cgroup == "v2":  # there swap is counted apart from memory
            swap = read_number(f"{group.directory}/memory.swap.max")
            assert swap == (expected - 64 * MIB if expected > 0 else -1)
        else:
            base = f"{facts.controllers['memory']}/{group.path}"
            assert read_number(f"{base}/memory.memsw.limit_in_bytes") == expected
    changed = groups.set_limits(group, Limits(memory=32 * MIB, memory_swap=32 * MIB))
    groups.set_limits(changed, Limits(memory=256 * MIB, memory_swap=256 * MIB))
    assert groups.stats(group).memory_limit == 256 * MIB


@pytest.mark.parametrize(
    ("limits", "message", "origin"),
    [
        (Limits(memory=4 * MIB), "cannot limit memory to 4m: the minimum is 6m", "--memory 4m"),
        (
            Limits(memory=64 * MIB, memory_swap=32 * MIB),
            "cannot limit memory and swap to 32m: it is less than the memory limit",
            "--memory-swap 32m",
        ),
        (
            Limits(memory_swap=32 * MIB),
            "cannot limit memory and swap: it needs a memory limit as well",
            "--memory-swap 33554432",
        ),
        (Limits(cpus=4097), "cannot limit CPUs to 4097: this host has {cpus}", "--cpus 4097"),
        (
            Limits(cpuset_cpus="4096"),
            "cannot use cpus 4096 of this host's {cpuset}: ",
            "--cpuset-cpus 4096",
        ),
        (
            Limits(cpuset_cpus="no"),
            "cannot use cpus no of this host's {cpuset}: not a value the kernel takes",
            "--cpuset-cpus no",
        ),
    ],
)
def test_refused(groups: Cgroups, facts: Facts, limits: Limits, message: str, origin: str) -> None:
    before = groups.names()
    with pytest.raises(CoveError) as error:
        groups.make(limits)
    cpuset = Path("/sys/devices/system/cpu/online").read_text().strip()
    assert error.value.message.startswith(message.format(cpus=facts.cpus, cpuset=cpuset))
    assert error.value.origin == origin
    assert groups.names() == before


def test_pause_and_kill_while_paused(any_groups: Cgroups) -> None:
    groups = any_groups
    group = groups.make(Limits())
    loop = "echo ready; while :; do :; done"
    with run_in(group, loop, stdout=subprocess.PIPE) as process:
        ready(process)
        groups.freeze(group)
        wait_until(lambda: stands_still(process.pid), "it is off its CPU")
        used = cpu_time(process.pid)
        groups.thaw(group)
        wait_until(lambda: cpu_time(process.pid) > used)
        groups.freeze(group)
        groups.kill(group)
        assert process.wait() == -9
    wait_removed(groups, group)
    assert gone(group)


def stands_still(pid: int) -> bool:
    """The kernel says frozen a moment before the process is off its CPU."""
    before = cpu_time(pid)
    select.select([], [], [], 0.05)
    return cpu_time(pid) == before


def cpu_time(pid: int) -> int:
    """Nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def test_kill_takes_everybody(any_groups: Cgroups) -> None:
    groups = any_groups
    group = groups.make(Limits())
    fork = "(setsid sleep 60 &) ; (sleep 60 &) ; echo ready; exec sleep 60"
    with run_in(group, fork, stdout=subprocess.PIPE) as process:
        ready(process)
        assert process.pid in groups.pids(group)
        groups.kill(group)
        process.wait()
        assert process.stdout is not None
        assert process.stdout.read() == b"", "the pipe ends when its last holder is dead"
    wait_removed(groups, group)
    groups.kill(group)  # one that is gone is no error


def test_busy_until_the_last_process_is_gone(any_groups: Cgroups) -> None:
    groups = any_groups
    group = groups.make(Limits())
    with run_in(group, "echo ready; exec sleep 60", stdout=subprocess.PIPE) as process:
        ready(process)
        assert not groups.remove(group)
        assert groups.reap() == 1
        process.kill()
    wait_removed(groups, group)
    assert gone(group)


def test_adopted_by_the_next_daemon(facts: Facts, tmp_path: Path) -> None:
    with leaks(tmp_path):
        first = open_cgroups(facts, str(tmp_path))
        group = first.make(Limits(memory=32 * MIB, memory_swap=32 * MIB))
        wait_for_word = f"echo ready; read go; {HOG}"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with run_in(group, wait_for_word, **pipes) as process:
            ready(process)
            first.close()
            with open_cgroups(facts, str(tmp_path)) as second:
                adopted = second.adopt(group.name)
                assert adopted == group
                assert second.sweep({group.name}) == []
                assert second.make(Limits()).name != group.name
                process.communicate(b"go\n")
                assert process.returncode == -9
                wait_event(second, Event(group.name, "oom"))
                second.sweep(())
                wait_removed(second, group)


def test_adopting_what_is_gone(any_groups: Cgroups) -> None:
    assert any_groups.adopt("4711") is None
    assert any_groups.adopt("../../process") is None
    assert any_groups.adopt("") is None


def test_sweep_leaves_others_alone(any_facts: Facts, tmp_path: Path) -> None:
    with (
        leaks(tmp_path / "a"),
        leaks(tmp_path / "b"),
        open_cgroups(any_facts, str(tmp_path / "a")) as ours,
        open_cgroups(any_facts, str(tmp_path / "b")) as theirs,
    ):
        theirs_group, kept, stray = theirs.make(Limits()), ours.make(Limits()), ours.make(Limits())
        ours.fill(2)
        with run_in(stray, "echo ready; exec sleep 60", stdout=subprocess.PIPE) as process:
            ready(process)
            assert ours.sweep({kept.name}) == [stray.name]
            assert process.wait() == -9
        wait_removed(ours, stray)
        assert gone(stray)
        assert not gone(kept)
        assert not gone(theirs_group)
        ours.remove(kept)
        theirs.remove(theirs_group)


def test_one_that_is_lent_goes_with_who_is_in_it(any_groups: Cgroups) -> None:
    with any_groups.lent(Limits()) as group:
        assert group.name in any_groups.pooled(), "a check of the state takes it for nobody's"
        process = run_in(group, "echo ready; sleep 600", stdout=subprocess.PIPE)
        ready(process)
    assert process.wait() == -9
    assert process.stdout is not None
    process.stdout.close()
    wait_until(lambda: not any_groups.reap())
    assert gone(group) and group.name not in any_groups.pooled()


def test_groups_made_ahead(any_groups: Cgroups) -> None:
    groups = any_groups
    groups.fill(3)
    before = groups.names()
    groups = any_groups
    group = groups.make(Limits())
    assert group.name in before
    groups.fill(3)
    assert len(groups.names()) == 4


def test_groups_made_inside_go_with_it(any_groups: Cgroups) -> None:
    groups = any_groups
    group = groups.make(Limits())
    top = group.directory or os.path.dirname(group.tasks[0])
    os.makedirs(f"{top}/inner/deep")
    assert groups.remove(group)
    assert gone(group)
