"""What machines use, read from their control groups and network namespaces: one round a second,
CPU time beside that of the round before.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cove.engine import calls
from cove.engine.events import Cancel
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.looking import listing
from cove.engine.machines.stopping import running
from cove.engine.vms import inside
from cove.linux.cgroups.tree import Group, Stats
from cove.linux.processes import host_cpu, interfaces
from cove.store.records import MachineRecord

PERIOD = 1.0
FIRST = 0.5
"""Seconds between the reading that is only compared with and the first round."""


@dataclass(slots=True)
class Readings:
    """A caller's rounds. ``before``: each machine's CPU time, and the host's, at the last one."""

    home: Home
    params: calls.StatsRequest
    keys: tuple[int, ...] = ()
    """Of the machines that were named."""
    before: dict[str, tuple[int, int]] = field(default_factory=dict)

    def round(self) -> calls.Round:
        passed, cpus = host_cpu()
        found = tuple(self._read(record, passed, cpus) for record in self._records())
        self.before = {one.id: (one.cpu, one.host_cpu) for one in found if one.time_ns}
        return calls.Round(found)

    def _records(self) -> list[MachineRecord]:
        """By name: whoever is still there. Without names, newest first."""
        if not self.params.machines:
            listed = listing.list_machines(self.home, everything=self.params.all, sizes=False)
            return list(listed.machines)
        store = self.home.store
        return [listing.as_seen(store.machine(k)) for k in self.keys if store.has_machine(k)]

    def _used(self, record: MachineRecord, group: Group) -> tuple[Stats, int]:
        used = self.home.groups.stats(group)
        if record.spec.isolation == "vm":
            return inside.used_by(self.home, record, used)
        return used, self.home.groups.counters(group).oom_kills

    def _read(self, record: MachineRecord, passed: int, cpus: int) -> calls.Stats:
        live = running(self.home, record)
        if live is None or live.group is None or not live.started:
            return calls.Stats(record.id, record.name, record.state, 0)
        now = time.time_ns()
        used, oom_kills = self._used(record, live.group)
        cpu_before, host_cpu_before = self.before.get(record.id, (0, 0))
        memory = self.home.facts.memory
        limited = 0 <= used.memory_limit < memory
        return calls.Stats(
            id=record.id,
            name=record.name,
            state=record.state,
            time_ns=now,
            cpus=cpus,
            cpu=used.cpu,
            cpu_user=used.cpu_user,
            cpu_kernel=used.cpu_system,
            host_cpu=passed,
            cpu_before=cpu_before,
            host_cpu_before=host_cpu_before,
            periods=used.periods,
            throttled_periods=used.throttled_periods,
            throttled=used.throttled,
            memory=used.memory,
            memory_inactive_file=used.inactive_file,
            memory_cache=used.cache,
            memory_peak=used.memory_peak,
            memory_limit=used.memory_limit if limited else memory,
            oom_kills=oom_kills,
            pids=used.pids,
            pids_limit=used.pids_limit,
            read=used.read,
            written=used.written,
            networks=_networks(record, live),
        )


def _networks(record: MachineRecord, live: Live) -> dict[str, calls.NetworkStats]:
    if record.spec.network == "host" or live.pidfd < 0:
        return {}
    if record.spec.isolation == "vm":
        return _of_taps(record, live)
    found = interfaces(live.pid, live.pidfd)
    return {
        name: calls.NetworkStats(*numbers[0:4], *numbers[8:12]) for name, numbers in found.items()
    }


def _of_taps(record: MachineRecord, live: Live) -> dict[str, calls.NetworkStats]:
    """By what the host counts at its ends: what it sends, the machine receives."""
    found = interfaces(os.getpid(), live.pidfd) if record.endpoints else {}
    return {
        f"eth{place.index}": calls.NetworkStats(*numbers[8:12], *numbers[0:4])
        for place in record.endpoints
        if (numbers := found.get(place.link)) is not None
    }


def stats(
    home: Home, params: calls.StatsRequest, cancelled: threading.Event | None, keys: tuple[int, ...]
) -> Iterator[calls.Round]:
    """``keys``: of the machines that were named; the stream ends with the last of them."""
    readings = Readings(home, params, keys)
    pause = cancelled or Cancel()
    readings.round()
    if pause.wait(FIRST):
        return
    due = time.monotonic()
    while True:
        seen = readings.round()
        yield seen
        if not params.stream or (keys and not seen.stats):
            return
        # no round is made up for: a reader that was slow goes on with the present
        due = max(due + PERIOD, time.monotonic())
        if pause.wait(due - time.monotonic()):
            return
