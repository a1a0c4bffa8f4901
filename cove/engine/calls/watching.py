"""The verbs that look on: events, stats, and the processes of a machine."""

from __future__ import annotations

import msgspec

MISSED = "missed"
"""Action of the event that stands where a listener was too slow for others."""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened."""

    type: str
    """container, image, daemon, …; ``listener`` with the action ``missed``: so many events as
    the attribute ``count`` says were not kept for this listener.
    """
    action: str
    """Docker's words: create, start, die, ``exec_create: sh -c true``, pull, untag, …"""
    id: str
    """Of the machine or image."""
    attributes: dict[str, str]
    """Name, image and labels; then what belongs to the action: exitCode, signal, execID. cove's
    own: ``cause`` and ``reason`` of an end that was no plain exit, ``refused`` system calls.
    """
    time_ns: int


class Events(msgspec.Struct, frozen=True):
    """What happened from ``since`` to ``until`` and matches every filter; a stream. Only what is
    still remembered can be told of the past.
    """

    since_ns: int = 0
    """0: only what happens from now on, or with ``until`` also what is remembered."""
    until_ns: int = 0
    """0: until the caller leaves."""
    filters: dict[str, tuple[str, ...]] = {}
    """container, daemon, event, image, label, network, scope, type, volume, …"""


class NetworkStats(msgspec.Struct, frozen=True):
    """Of one interface since it was made, as the kernel counts."""

    received: int
    received_packets: int
    received_errors: int
    received_dropped: int
    sent: int
    sent_packets: int
    sent_errors: int
    sent_dropped: int


class Stats(msgspec.Struct, frozen=True):
    """Sizes are bytes, times nanoseconds, and everything but memory and pids counts from the
    machine's start. What this host does not count is -1.
    """

    id: str
    name: str
    state: str
    time_ns: int
    """When it was read; 0: the machine does not run, and every number is 0."""
    cpus: int = 0
    """Of the host."""
    cpu: int = 0
    cpu_user: int = 0
    cpu_kernel: int = 0
    host_cpu: int = 0
    """Time that passed for all CPUs of the host together."""
    cpu_before: int = 0
    host_cpu_before: int = 0
    """The same two at the reading before; 0: this is the first of the machine."""
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0
    memory: int = 0
    """With the cache of files."""
    memory_inactive_file: int = 0
    """Cache that the kernel gives up first."""
    memory_cache: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    """The host's memory where there is no lower limit."""
    oom_kills: int = 0
    pids: int = 0
    pids_limit: int = 0
    """-1: none."""
    read: int = 0
    written: int = 0
    """From and to disks."""
    networks: dict[str, NetworkStats] = {}
    """Interfaces of the machine's own network but loopback, by name; none on the host's."""

    @property
    def memory_used(self) -> int:
        """What docker shows: without cache that is given up first."""
        inactive = self.memory_inactive_file
        return self.memory - inactive if 0 < inactive < self.memory else self.memory

    @property
    def cpu_percent(self) -> float:
        """Since the reading before; 100 is one CPU."""
        busy, passed = self.cpu - self.cpu_before, self.host_cpu - self.host_cpu_before
        if not self.host_cpu_before or busy <= 0 or passed <= 0:
            return 0.0
        return busy / passed * self.cpus * 100.0

    @property
    def memory_percent(self) -> float:
        return self.memory_used / self.memory_limit * 100.0 if self.memory_limit > 0 else 0.0


class StatsRequest(msgspec.Struct, frozen=True):
    """Readings of machines; a stream, one round a second."""

    machines: tuple[str, ...] = ()
    """Empty: those that run at each moment."""
    all: bool = False
    """With no names: also machines that do not run."""
    stream: bool = True
    """False: one round."""


class Round(msgspec.Struct, frozen=True):
    """Every machine asked for, read at one moment."""

    stats: tuple[Stats, ...]


class Top(msgspec.Struct, frozen=True):
    machine: str
    options: tuple[str, ...] = ()
    """Of ps; empty: ``-ef``."""


class Processes(msgspec.Struct, frozen=True):
    """The table ps printed, less whoever is not of the machine."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
