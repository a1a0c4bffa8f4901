"""The files of cgroup v2, on a directory that looks like one: what is written, and what is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import CoveError, HostError, Unsupported
from cove.linux import inotify
from cove.linux.cgroups.devices import lines_back
from cove.linux.cgroups.driver import Group
from cove.linux.cgroups.tree import open_cgroups
from cove.linux.cgroups.v2 import CgroupsV2, numbers, weight
from cove.plan.facts import Facts
from cove.spec.machine import Limits

MIB = 1 << 20
CONTROLLERS = "cpuset cpu io memory pids"
FILES = {
    "memory.max": "max", "memory.swap.max": "max", "memory.low": "0", "memory.events": "oom_kill 2",
    "memory.current": "4096", "memory.stat": "anon 1\ninactive_file 77\n", "pids.max": "max",
    "pids.events": "max 3", "pids.current": "2", "cpu.max": "max 100000", "cpu.weight": "100",
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nthrottled_usec 1\n",
    "cpuset.cpus": "", "cpuset.cpus.effective": "0-1", "cpuset.mems": "",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n", "cgroup.procs": "",
}  # fmt: skip


def make_facts(unified: Path, *, swap: bool = True, controllers: str = CONTROLLERS) -> Facts:
    return Facts(
        kernel=(6, 1), arch="x86_64", root=True, cgroup="v2",
        controllers=dict.fromkeys(controllers.split(), str(unified)), unified=str(unified),
        idmapped_mounts=True, userns_max=1, last_cap=40, hard_limits={}, cpus=2, memory=1 << 30,
        swap=swap, seccomp=True, audit=True,
    )  # fmt: skip


@pytest.fixture
def unified(tmp_path: Path) -> Path:
    for directory in (tmp_path, tmp_path / "example"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text(CONTROLLERS)
        (directory / "cgroup.subtree_control").write_text("")
    return tmp_path


@pytest.fixture
def groups(unified: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CgroupsV2]:
    def create(self: CgroupsV2, name: str) -> None:
        directory = Path(self.parents()[0], name)
        directory.mkdir(parents=True)
        for file, text in FILES.items():
            (directory / file).write_text(text)

    monkeypatch.setattr(CgroupsV2, "_create", create)
    with open_cgroups(make_facts(unified), "/state") as found:
        assert isinstance(found, CgroupsV2)
        (Path(found.parents()[0]) / "cpuset.cpus.effective").write_text("0-1")
        yield found


def text(group: Group, name: str) -> str:
    return Path(group.directory, name).read_text()


def test_what_limits_become(groups: CgroupsV2) -> None:
    group = groups.make(
        Limits(memory=64 * MIB, memory_reservation=32 * MIB, cpus=1.5, cpu_shares=1024, pids=7)
    )
    assert group.tasks == ()
    assert text(group, "memory.max") == str(64 * MIB)
    assert text(group, "memory.swap.max") == str(64 * MIB), "memory and swap: twice the memory"
    assert text(group, "memory.low") == str(32 * MIB)
    assert text(group, "cpu.max").startswith("150000 100000")
    assert text(group, "cpu.weight").startswith("39")
    assert text(group, "pids.max").startswith("7")


@pytest.mark.parametrize(
    ("swap", "expected"), [(64 * MIB, "0"), (96 * MIB, str(32 * MIB)), (-1, "max")]
)
def test_swap(groups: CgroupsV2, swap: int, expected: str) -> None:
    group = groups.make(Limits(memory=64 * MIB, memory_swap=swap))
    assert text(group, "memory.swap.max").startswith(expected)


def test_a_host_that_does_not_count_swap(groups: CgroupsV2, unified: Path) -> None:
    facts = make_facts(unified, swap=False)
    with open_cgroups(facts, "/other") as other:
        group = other.make(Limits(memory=64 * MIB, memory_swap=64 * MIB))
        assert text(group, "memory.swap.max") == "max"
        with pytest.raises(Unsupported, match="cannot limit swap"):
            other.make(Limits(memory=64 * MIB, memory_swap=96 * MIB))


def test_controllers_are_enabled(groups: CgroupsV2, unified: Path) -> None:
    assert (unified / "cgroup.subtree_control").read_text().startswith("+")


def test_a_controller_that_is_missing(unified: Path, groups: CgroupsV2) -> None:
    facts = make_facts(unified, controllers="pids memory")
    with open_cgroups(facts, "/other") as other, pytest.raises(CoveError) as error:
        other.make(Limits(cpus=1))
    assert error.value.message == "cannot use --cpus: this host has no cpu control groups"
    assert error.value.host == "cgroup v2 with memory, pids"


def test_a_group_with_processes_of_its_own(unified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: str, value: str) -> None:
        raise OSError(16, "Device or resource busy", path)

    monkeypatch.setattr("cove.linux.cgroups.v2.write", busy)
    with pytest.raises(HostError, match="the control group cove runs in has processes"):
        open_cgroups(make_facts(unified), "/state")


@pytest.mark.parametrize("cpus", ["7", "0-2", "0,9"])
def test_cpus_that_do_not_exist(groups: CgroupsV2, cpus: str) -> None:
    with pytest.raises(CoveError) as error:
        groups.make(Limits(cpuset_cpus=cpus))
    assert error.value.message == f"cannot use cpus {cpus} of this host's 0-1: out of range"
    assert error.value.origin == f"--cpuset-cpus {cpus}"


def test_stats_and_counters(groups: CgroupsV2) -> None:
    group = groups.make(Limits())
    stats, counters = groups.stats(group), groups.counters(group)
    assert (counters.oom_kills, counters.pids_hits) == (2, 3)
    assert (stats.memory, stats.memory_peak, stats.inactive_file) == (4096, -1, 77)
    assert (stats.cpu, stats.throttled, stats.read, stats.written) == (5000, 1000, 11, 22)
    assert stats.pids_limit == -1


def test_events(groups: CgroupsV2) -> None:
    group = groups.make(Limits())
    assert groups.read_events() == []
    Path(group.directory, "pids.events").write_text("max 4")
    Path(group.directory, "memory.events").write_text("oom_kill 3")
    kinds = {event.kind for event in groups.read_events() if event.name == group.name}
    assert kinds == {"oom", "pids"}


def test_shares_as_weight() -> None:
    assert [weight(n) for n in (0, 2, 1024, 262144, 1 << 30)] == [1, 1, 39, 10000, 10000]


def test_lists_of_numbers() -> None:
    assert numbers("0-2,5\n") == {0, 1, 2, 5}
    assert numbers("") == set()


def test_changes_of_a_directory(tmp_path: Path) -> None:
    changes = inotify.Changes(str(tmp_path))
    (tmp_path / "log").write_text("x")
    assert os.read(changes.fileno(), 4096)
    changes.drain()
    changes.close()
    with pytest.raises(FileNotFoundError):
        inotify.Changes(str(tmp_path / "none"))


# ---- changing the limits of a machine that runs ----


def test_changed_limits(groups: CgroupsV2) -> None:
    group = groups.make(Limits(memory=64 * MIB))
    assert groups.change(group, Limits(memory=128 * MIB, pids=7777, cpus=1.5)) == group
    files = {name: Path(group.directory, name).read_text() for name in ("memory.max", "pids.max")}
    assert files == {"memory.max": str(128 * MIB), "pids.max": "7777"}
    assert Path(group.directory, "cpu.max").read_text() == "150000 100000"


def test_memory_in_use_is_freed_or_the_change_refused(groups: CgroupsV2) -> None:
    """Where memory.high did not bring it down, memory.max would kill."""
    group = groups.make(Limits(memory=64 * MIB, pids=5))
    base = Path(group.directory)
    (base / "memory.high").write_text("67108864")
    (base / "memory.current").write_text(str(48 * MIB))
    before = {name: (base / name).read_text() for name in ("memory.max", "pids.max", "memory.high")}
    with pytest.raises(CoveError) as error:
        groups.change(group, Limits(memory=32 * MIB, pids=9))
    assert error.value.message.startswith("cannot limit memory to 32m: 48.0 MiB are in use")
    assert before == {name: (base / name).read_text() for name in before}


def test_a_refused_change_is_undone(groups: CgroupsV2) -> None:
    group = groups.make(Limits(memory=64 * MIB, pids=5))
    with pytest.raises(CoveError) as error:
        groups.change(group, Limits(memory=32 * MIB, pids=9, cpuset_cpus="1-2"))
    assert error.value.origin == "--cpuset-cpus 1-2"
    assert Path(group.directory, "memory.max").read_text() == str(64 * MIB)
    assert text(group, "pids.max").startswith("5")


def test_what_puts_rates_and_weights_back() -> None:
    line = "8:0 rbps=1 wbps=max riops=max wiops=max"
    changed, free = line.replace("rbps=1", "rbps=2"), "8:16 rbps=max wbps=max riops=max wiops=max"
    assert lines_back("io.max", [line], [changed, "8:16 rbps=3"]) == [line, free]
    assert lines_back("io.max", [line], [line]) == []
    read = "blkio.throttle.read_bps_device"
    assert lines_back(read, ["8:0 5"], ["8:0 6", "8:16 7"]) == ["8:0 5", "8:16 0"]
    assert lines_back("io.weight", ["default 100"], ["default 300"]) == ["default 100"]
    assert lines_back("blkio.bfq.weight", ["100"], ["300"]) == ["100"]
