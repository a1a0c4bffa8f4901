"""Control groups v2: one hierarchy for everything."""

from __future__ import annotations

import contextlib

from cove.errors import HostError, UsageError
from cove.linux.cgroups.devices import limit_v2
from cove.linux.cgroups.driver import Cgroups, Counters, Group, Stats
from cove.linux.cgroups.files import (
    make_directory,
    read_limit,
    read_lines,
    read_number,
    read_table,
    set_limit,
    write,
)
from cove.linux.cgroups.limits import PERIOD, controller, numbers, size_text, swap_limit
from cove.spec.machine import Limits

WANTED = ("memory", "pids", "cpu", "io", "cpuset")
LIMITS = (
    "memory.max", "memory.swap.max", "memory.low", "pids.max", "cpu.max", "cpu.weight",
    "cpuset.cpus", "cpuset.mems",
)  # fmt: skip


class CgroupsV2(Cgroups):
    """See ``Cgroups``."""

    def parents(self) -> list[str]:
        return [f"{self._facts.unified}/{self.parent}"]

    def _open(self) -> None:
        top = self._facts.unified
        self._base = f"{top}/{self.parent}"
        make_directory(self._base)
        for directory in (top, self._base):
            enabled = " ".join(read_lines(f"{directory}/cgroup.subtree_control")).split()
            there = " ".join(read_lines(f"{directory}/cgroup.controllers")).split()
            for name in WANTED:
                if name in there and name not in enabled:
                    self._enable(directory, name)

    def _enable(self, directory: str, name: str) -> None:
        try:
            write(f"{directory}/cgroup.subtree_control", f"+{name}")
        except OSError as error:
            if name not in ("memory", "pids"):
                return  # the flag that needs it says so
            raise HostError(
                f"cannot limit {name}: the control group cove runs in has processes of its own",
                host=f"+{name} to {directory}/cgroup.subtree_control: {error.strerror}",
                hint="run cove in the host's own cgroup namespace",
            ) from error

    def _group(self, name: str) -> Group:
        return Group(name, f"{self.parent}/{name}", f"{self._base}/{name}")

    def _directories(self, name: str) -> list[str]:
        return [f"{self._base}/{name}"]

    def _members(self, group: Group) -> str:
        return group.directory

    def _create(self, name: str) -> None:
        make_directory(f"{self._base}/{name}")

    def _watch(self, group: Group) -> None:
        self._watch_file(group, f"{group.directory}/memory.events", "oom")
        self._watch_file(group, f"{group.directory}/pids.events", "pids")

    def _files(self, group: Group) -> list[str]:
        return [f"{group.directory}/{name}" for name in LIMITS]

    def _devices(self, group: Group) -> str:
        return group.directory

    def _make_room(self, group: Group, limits: Limits) -> None:
        """A memory.max below what is in use would call the OOM killer; memory.high only frees."""
        base = group.directory
        if not 0 < limits.memory < read_number(f"{base}/memory.current"):
            return
        high = read_limit(f"{base}/memory.high")
        write(f"{base}/memory.high", str(limits.memory))
        used = read_number(f"{base}/memory.current")
        write(f"{base}/memory.high", high or "max")
        if used > limits.memory:
            raise self._too_small(group, limits)

    def _enter(self, group: Group, changed: Group) -> None:
        """There is one hierarchy, and everybody is in it."""

    def _limit(self, group: Group, limits: Limits) -> Group:
        base = group.directory
        if limits.memory or limits.memory_reservation:
            self._limit_memory(base, limits)
        if limits.pids:
            flag = f"--pids-limit {limits.pids}"
            controller(self._facts, "pids", flag=flag)
            most = "max" if limits.pids < 0 else str(limits.pids)
            set_limit(f"{base}/pids.max", most, what="limit processes", flag=flag)
        if limits.cpus:
            controller(self._facts, "cpu", flag="--cpus")
            value = f"{round(limits.cpus * PERIOD)} {PERIOD}"
            flag = f"--cpus {limits.cpus:g}"
            set_limit(f"{base}/cpu.max", value, what="limit CPU time", flag=flag)
        if limits.cpu_shares:
            controller(self._facts, "cpu", flag="--cpu-shares")
            value = str(weight(limits.cpu_shares))
            flag = f"--cpu-shares {limits.cpu_shares}"
            set_limit(f"{base}/cpu.weight", value, what="set CPU shares", flag=flag)
        if limits.blkio_weight or limits.rates:
            controller(self._facts, "io", flag="--blkio-weight, --device-…")
            limit_v2(base, limits)
        for kind, value in (("cpus", limits.cpuset_cpus), ("mems", limits.cpuset_mems)):
            if value:
                controller(self._facts, "cpuset", flag=f"--cpuset-{kind}")
                self._limit_cpuset(base, kind, value)
        return group

    def _limit_memory(self, base: str, limits: Limits) -> None:
        controller(self._facts, "memory", flag="--memory")
        both = swap_limit(limits)
        flag = f"--memory {size_text(limits.memory)}"
        writes = []
        if limits.memory:
            writes.append(("memory.max", str(limits.memory), flag))
            if self._facts.swap:
                if limits.memory_swap:
                    flag = f"--memory-swap {size_text(both)}"
                swap = "max" if both < 0 else str(both - limits.memory)
                writes.append(("memory.swap.max", swap, flag))
        if limits.memory_reservation:
            value = str(limits.memory_reservation)
            flag = f"--memory-reservation {size_text(limits.memory_reservation)}"
            writes.append(("memory.low", value, flag))
        for file, value, origin in writes:
            set_limit(f"{base}/{file}", value, what="limit memory", flag=origin)

    def _limit_cpuset(self, base: str, kind: str, value: str) -> None:
        have = "".join(read_lines(f"{self._base}/cpuset.{kind}.effective")).strip()
        what = f"use {kind} {value} of this host's {have}"
        flag = f"--cpuset-{kind} {value}"
        set_limit(f"{base}/cpuset.{kind}", value, what=what, flag=flag)
        # v2 takes CPUs that do not exist and then falls back to the parent's: that is no limit.
        given = "".join(read_lines(f"{base}/cpuset.{kind}.effective")).strip()
        if numbers(value) - numbers(given):
            with contextlib.suppress(OSError):
                write(f"{base}/cpuset.{kind}", "\n")
            raise UsageError(f"cannot {what}: out of range", origin=flag)

    def counters(self, group: Group) -> Counters:
        oom = read_table(f"{group.directory}/memory.events")
        pids = read_table(f"{group.directory}/pids.events")
        return Counters(oom.get("oom_kill", 0), pids.get("max", 0))

    def stats(self, group: Group) -> Stats:
        base = group.directory
        cpu, held = read_table(f"{base}/cpu.stat"), read_table(f"{base}/memory.stat")
        moved = [line.split()[1:] for line in read_lines(f"{base}/io.stat")]
        amounts = [dict(pair.split("=", 1) for pair in line if "=" in pair) for line in moved]
        return Stats(
            memory=read_number(f"{base}/memory.current"),
            memory_peak=read_number(f"{base}/memory.peak", -1),
            memory_limit=read_number(f"{base}/memory.max", -1),
            cache=held.get("file", 0),
            inactive_file=held.get("inactive_file", 0),
            cpu=cpu.get("usage_usec", 0) * 1000,
            cpu_user=cpu.get("user_usec", 0) * 1000,
            cpu_system=cpu.get("system_usec", 0) * 1000,
            periods=cpu.get("nr_periods", 0),
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled=cpu.get("throttled_usec", 0) * 1000,
            pids=read_number(f"{base}/pids.current"),
            pids_limit=read_number(f"{base}/pids.max", -1),
            read=sum(int(line.get("rbytes", 0)) for line in amounts),
            written=sum(int(line.get("wbytes", 0)) for line in amounts),
        )


def weight(shares: int) -> int:
    """v1's CPU shares (2 to 262144) as a weight (1 to 10000), as every runtime converts them."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142
