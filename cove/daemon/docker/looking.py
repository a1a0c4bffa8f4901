"""``top``, ``stats`` and ``changes`` of a container."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from cove.daemon.docker import wording
from cove.daemon.docker.ask import Answer, Ask, Stream, to_json
from cove.engine import calls
from cove.errors import UsageError
from cove.shown.units import stamp_ns

KINDS = {"C": 0, "A": 1, "D": 2}
ZERO = "0001-01-01T00:00:00Z"


def top(ask: Ask) -> Answer:
    try:
        options = tuple(shlex.split(ask.text("ps_args")))
    except ValueError as error:
        raise UsageError(f"cannot read ps_args: {str(error).lower()}") from error
    machine = ask.machine()
    if not ask.engine.is_running(machine.id):
        raise wording.not_running(machine)
    seen = ask.engine.top(calls.Top(machine.id, options), ask.call())
    return Answer({"Titles": list(seen.titles), "Processes": [list(row) for row in seen.rows]})


def changes(ask: Ask) -> Answer:
    found = ask.engine.diff(calls.Diff(ask.machine().id), ask.call()).changes
    shown = [
        {"Path": change.path.decode("utf-8", "replace"), "Kind": KINDS[change.kind]}
        for change in found
    ]
    return Answer(shown or b"null\n")


def stats(ask: Ask) -> Answer | Stream:
    machine = ask.machine()
    stream = ask.on("stream", default=True)
    once = not stream and ask.on("one-shot")
    params = calls.StatsRequest((machine.id,), stream=not once)
    rounds = ask.engine.stats(params, ask.call())

    def told() -> Iterator[bytes]:
        before: calls.Stats | None = None
        try:
            for each in rounds:
                if not each.stats:  # it was removed meanwhile
                    break
                now = each.stats[0]
                if stream or once or before is not None or not now.time_ns:
                    yield to_json(stats_to_docker(now, before))
                    if not stream:
                        return
                before = now
        finally:
            end = getattr(rounds, "close", None)
            if end is not None:
                end()

    return Stream(told())


def stats_to_docker(now: calls.Stats, before: calls.Stats | None) -> dict[str, Any]:
    """One reading, with what was counted at the one before."""
    shown: dict[str, Any] = {
        "read": stamp_ns(now.time_ns) if now.time_ns else ZERO,
        "preread": stamp_ns(before.time_ns) if before and before.time_ns else ZERO,
        "id": now.id,
        "name": "/" + now.name,
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": {"current": now.pids} | _known("limit", now.pids_limit),
        "blkio_stats": _blkio(now),
        "cpu_stats": _cpu(now, now.cpu, now.host_cpu),
        "precpu_stats": _cpu(before or now, now.cpu_before, now.host_cpu_before),
        "memory_stats": {},
    }
    if now.time_ns:
        inactive = max(now.memory_inactive_file, 0)
        shown["memory_stats"] = {
            "usage": max(now.memory, 0),
            "limit": max(now.memory_limit, 0),
            "stats": {
                "inactive_file": inactive,
                "total_inactive_file": inactive,
                "cache": max(now.memory_cache, 0),
            },
        } | _known("max_usage", now.memory_peak)
    if now.networks:
        shown["networks"] = {name: _network(counted) for name, counted in now.networks.items()}
    return shown


def _known(name: str, value: int) -> dict[str, int]:
    return {name: value} if value >= 0 else {}


def _cpu(seen: calls.Stats, used: int, host: int) -> dict[str, Any]:
    if not host:
        return {
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
    return {
        "cpu_usage": {
            "total_usage": max(used, 0),
            "usage_in_kernelmode": max(seen.cpu_kernel, 0),
            "usage_in_usermode": max(seen.cpu_user, 0),
        },
        "system_cpu_usage": host,
        "online_cpus": seen.cpus,
        "throttling_data": {
            "periods": max(seen.periods, 0),
            "throttled_periods": max(seen.throttled_periods, 0),
            "throttled_time": max(seen.throttled, 0),
        },
    }


def _blkio(seen: calls.Stats) -> dict[str, Any]:
    """Of all disks together: cove counts no single ones."""
    counted = [
        {"major": 0, "minor": 0, "op": op, "value": value}
        for op, value in (("read", seen.read), ("write", seen.written))
        if value >= 0 and seen.time_ns
    ]
    return {"io_service_bytes_recursive": counted or None}


def _network(seen: calls.NetworkStats) -> dict[str, int]:
    return {
        "rx_bytes": seen.received,
        "rx_packets": seen.received_packets,
        "rx_errors": seen.received_errors,
        "rx_dropped": seen.received_dropped,
        "tx_bytes": seen.sent,
        "tx_packets": seen.sent_packets,
        "tx_errors": seen.sent_errors,
        "tx_dropped": seen.sent_dropped,
    }
