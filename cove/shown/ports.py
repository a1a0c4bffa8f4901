"""Ports of a machine that lead somewhere now. Pure."""

from __future__ import annotations

from cove.store.records import MachineRecord, Published


def published_now(record: MachineRecord) -> tuple[Published, ...]:
    return record.published if record.state in ("running", "paused") else ()


def exposed_now(record: MachineRecord) -> tuple[str, ...]:
    """What a machine that runs serves on its networks; where it has none of its own, Docker tells
    of no port.
    """
    runs = record.state in ("running", "paused")
    return record.exposed if runs and record.endpoints else ()
