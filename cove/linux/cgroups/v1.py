"""Control groups v1, and the hybrid: v1 controllers for limits, with one cgroup2 group beside them
for killing, freezing and tracing where the host has cgroup2 mounted.
"""

from __future__ import annotations

import contextlib
import os

from cove.errors import HostError
from cove.linux.cgroups.devices import limit_v1
from cove.linux.cgroups.driver import Cgroups, Counters, Group, Stats
from cove.linux.cgroups.files import (
    make_directory,
    read_lines,
    read_number,
    read_table,
    set_limit,
    write,
)
from cove.linux.cgroups.limits import PERIOD, controller, size_text, swap_limit
from cove.spec.machine import Limits

ALWAYS = ("memory", "pids", "cpu", "cpuacct", "blkio")
"""Of every machine; blkio only counts. cpuset only when asked for; the freezer only where cgroup2
cannot freeze.
"""

MEMORY_LIMITS = (
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes",
)  # fmt: skip

MOVED = "blkio.throttle.io_service_bytes_recursive"

TICK = 10_000_000
"""Nanoseconds of USER_HZ, in which v1 counts user and system time."""


class CgroupsV1(Cgroups):
    """See ``Cgroups``."""

    def parents(self) -> list[str]:
        places = dict.fromkeys(self._facts.controllers[name] for name in self._known())
        found = [f"{place}/{self.parent}" for place in places]
        if self._facts.unified:
            found.append(f"{self._facts.unified}/{self.parent}")
        return found

    def _known(self) -> list[str]:
        """Controllers that may have a directory of ours."""
        names = (*ALWAYS, "freezer", "cpuset")
        return [name for name in names if name in self._facts.controllers]

    def _open(self) -> None:
        controllers = self._facts.controllers
        always = [n for n in ALWAYS if n in controllers]
        if not self._facts.unified:
            always += [n for n in ("freezer",) if n in controllers]
        # cpu and cpuacct are one hierarchy on most hosts.
        self._places = list(dict.fromkeys(f"{controllers[n]}/{self.parent}" for n in always))
        self._unified = f"{self._facts.unified}/{self.parent}" if self._facts.unified else ""
        for place in (*self._places, *((self._unified,) if self._unified else ())):
            make_directory(place)
        self._memory = self._place("memory")
        self._pids = self._place("pids")
        self._cpu = self._place("cpu")
        self._cpuacct = self._place("cpuacct")
        self._freezer = self._place("freezer")
        self._cpuset = self._place("cpuset")
        self._blkio = self._place("blkio")

    def _place(self, name: str) -> str:
        path = self._facts.controllers.get(name)
        return f"{path}/{self.parent}" if path else ""

    def _group(self, name: str) -> Group:
        places = list(self._places)
        if self._cpuset and self._cpuset not in places and os.path.isdir(f"{self._cpuset}/{name}"):
            places.append(self._cpuset)
        return Group(
            name,
            f"{self.parent}/{name}",
            f"{self._unified}/{name}" if self._unified else "",
            tuple([f"{place}/{name}/tasks" for place in places]),
        )

    def _directories(self, name: str) -> list[str]:
        return [f"{parent}/{name}" for parent in self.parents()]

    def _members(self, group: Group) -> str:
        return group.directory or f"{self._freezer or self._pids}/{group.name}"

    def _create(self, name: str) -> None:
        for place in self._places:
            make_directory(f"{place}/{name}")
        if self._unified:
            make_directory(f"{self._unified}/{name}")

    def _watch(self, group: Group) -> None:
        if self._memory:
            self._watch_oom(group)
        if self._pids:
            self._watch_file(group, f"{self._pids}/{group.name}/pids.events", "pids")

    def _watch_oom(self, group: Group) -> None:
        base = f"{self._memory}/{group.name}"
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{base}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write(f"{base}/cgroup.event_control", f"{event} {control}")
            finally:
                os.close(control)  # the kernel holds the event, not the file
        except OSError:
            os.close(event)
            return
        self._watch_eventfd(group, event)

    # ---- limits ----

    def _limit(self, group: Group, limits: Limits) -> Group:
        name = group.name
        if limits.memory or limits.memory_reservation:
            self._limit_memory(name, limits)
        if limits.pids:
            flag = f"--pids-limit {limits.pids}"
            base = controller(self._facts, "pids", flag=flag) + f"/{self.parent}/{name}"
            most = "max" if limits.pids < 0 else str(limits.pids)
            set_limit(f"{base}/pids.max", most, what="limit processes", flag=flag)
        if limits.cpus:
            base = controller(self._facts, "cpu", flag="--cpus") + f"/{self.parent}/{name}"
            flag = f"--cpus {limits.cpus:g}"
            for file, value in (("period", PERIOD), ("quota", round(limits.cpus * PERIOD))):
                path = f"{base}/cpu.cfs_{file}_us"
                set_limit(path, str(value), what="limit CPU time", flag=flag)
        if limits.cpu_shares:
            base = controller(self._facts, "cpu", flag="--cpu-shares") + f"/{self.parent}/{name}"
            flag = f"--cpu-shares {limits.cpu_shares}"
            path = f"{base}/cpu.shares"
            set_limit(path, str(limits.cpu_shares), what="set CPU shares", flag=flag)
        if limits.blkio_weight or limits.rates:
            top = controller(self._facts, "blkio", flag="--blkio-weight, --device-…")
            limit_v1(f"{top}/{self.parent}/{name}", limits)
        if limits.cpuset_cpus or limits.cpuset_mems:
            self._limit_cpuset(name, limits)
            return self._group(name)
        return group

    def _limit_memory(self, name: str, limits: Limits) -> None:
        base = controller(self._facts, "memory", flag="--memory") + f"/{self.parent}/{name}"
        both = swap_limit(limits)
        flag = f"--memory {size_text(limits.memory)}"
        writes = [("memory.limit_in_bytes", limits.memory, flag)] if limits.memory else []
        if limits.memory and self._facts.swap:
            swap_flag = f"--memory-swap {size_text(both)}" if limits.memory_swap else flag
            writes.append(("memory.memsw.limit_in_bytes", both, swap_flag))
            # The kernel refuses, at any moment, less memory and swap than memory.
            old = read_number(f"{base}/memory.memsw.limit_in_bytes", -1)
            if 0 < old < limits.memory:
                writes.reverse()
        if limits.memory_reservation:
            flag = f"--memory-reservation {size_text(limits.memory_reservation)}"
            writes.append(("memory.soft_limit_in_bytes", limits.memory_reservation, flag))
        for file, value, origin in writes:
            set_limit(f"{base}/{file}", str(value), what="limit memory", flag=origin)

    def _limit_cpuset(self, name: str, limits: Limits) -> None:
        top = controller(self._facts, "cpuset", flag="--cpuset-cpus")
        parent = f"{top}/{self.parent}"
        for directory, above in ((parent, top), (f"{parent}/{name}", parent)):
            make_directory(directory)
            for file in ("cpuset.cpus", "cpuset.mems"):
                # A v1 cpuset begins empty, and nobody can enter it before both are set.
                if not "".join(read_lines(f"{directory}/{file}")).strip():
                    write(f"{directory}/{file}", "".join(read_lines(f"{above}/{file}")).strip())
        for kind, value in (("cpus", limits.cpuset_cpus), ("mems", limits.cpuset_mems)):
            if value:
                have = "".join(read_lines(f"{parent}/cpuset.{kind}")).strip()
                set_limit(
                    f"{parent}/{name}/cpuset.{kind}",
                    value,
                    what=f"use {kind} {value} of this host's {have}",
                    flag=f"--cpuset-{kind} {value}",
                )

    def _files(self, group: Group) -> list[str]:
        return [
            f"{place}/{group.name}/{file}"
            for place, files in (
                (self._memory, MEMORY_LIMITS),
                (self._pids, ("pids.max",)),
                (self._cpu, ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares")),
                (self._cpuset, ("cpuset.cpus", "cpuset.mems")),
            )
            if place
            for file in files
        ]

    def _devices(self, group: Group) -> str:
        return f"{self._blkio}/{group.name}" if self._blkio else ""

    def _make_room(self, group: Group, limits: Limits) -> None:
        """The kernel does it itself: a limit that it cannot bring about is refused."""

    def _enter(self, group: Group, changed: Group) -> None:
        """A cpuset is made only when it is asked for: who is there already has to be moved in."""
        for file in set(changed.tasks) - set(group.tasks):
            inside: set[int] = set()
            while new := set(self.pids(group)) - inside:  # one that was born meanwhile
                for pid in new:
                    with contextlib.suppress(ProcessLookupError):
                        write(f"{os.path.dirname(file)}/cgroup.procs", str(pid))
                inside |= new

    # ---- state ----

    def freeze(self, group: Group) -> None:
        if group.directory:
            super().freeze(group)
            return
        path = f"{self._freezer}/{group.name}/freezer.state"
        write(path, "FROZEN")
        # v1 has nothing to wait for: reading the state drives it on.
        for _ in range(10_000):
            if "FROZEN" in read_lines(path):
                return
            os.sched_yield()
        self.thaw(group)
        raise HostError("cannot pause the machine: it does not come to a stop", host=path)

    def thaw(self, group: Group) -> None:
        if group.directory:
            super().thaw(group)
        else:
            with contextlib.suppress(FileNotFoundError):
                write(f"{self._freezer}/{group.name}/freezer.state", "THAWED")

    def counters(self, group: Group) -> Counters:
        oom = read_table(f"{self._memory}/{group.name}/memory.oom_control")
        pids = read_table(f"{self._pids}/{group.name}/pids.events")
        return Counters(oom.get("oom_kill", 0), pids.get("max", 0))

    def stats(self, group: Group) -> Stats:
        memory = f"{self._memory}/{group.name}"
        held = read_table(f"{memory}/memory.stat")
        times = read_table(f"{self._cpuacct}/{group.name}/cpuacct.stat")
        bandwidth = read_table(f"{self._cpu}/{group.name}/cpu.stat")
        pids = f"{self._pids}/{group.name}"
        read, written = self._moved(group)
        return Stats(
            memory=read_number(f"{memory}/memory.usage_in_bytes"),
            memory_peak=read_number(f"{memory}/memory.max_usage_in_bytes"),
            memory_limit=read_number(f"{memory}/memory.limit_in_bytes", -1),
            cache=held.get("total_cache", 0),
            inactive_file=held.get("total_inactive_file", 0),
            cpu=read_number(f"{self._cpuacct}/{group.name}/cpuacct.usage"),
            cpu_user=times.get("user", 0) * TICK,
            cpu_system=times.get("system", 0) * TICK,
            periods=bandwidth.get("nr_periods", 0),
            throttled_periods=bandwidth.get("nr_throttled", 0),
            throttled=bandwidth.get("throttled_time", 0),
            pids=read_number(f"{pids}/pids.current"),
            pids_limit=read_number(f"{pids}/pids.max", -1),
            read=read,
            written=written,
        )

    def _moved(self, group: Group) -> tuple[int, int]:
        """Bytes from and to all disks: ``8:0 Read 4096`` and so on, a line each."""
        if not self._blkio:
            return -1, -1
        sums = {"Read": 0, "Write": 0}
        for line in read_lines(f"{self._blkio}/{group.name}/{MOVED}"):
            words = line.split()
            if len(words) == 3 and words[1] in sums and words[2].isdigit():
                sums[words[1]] += int(words[2])
        return sums["Read"], sums["Write"]
