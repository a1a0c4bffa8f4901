"""pause and unpause: the processes of a machine stop where they are, and go on.

The record says so before the freezer does; a daemon that comes between the two makes the freezer do
what the record says (``restore``).
"""

from __future__ import annotations

import contextlib
from functools import partial

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.vms import moments
from cove.errors import Conflict, CoveError, HostError
from cove.store.records import MachineRecord


def pause(home: Home, record: MachineRecord, live: Live | None) -> None:
    """``live``: the machine, if it runs."""
    if live is None or not live.started or live.group is None:
        raise _not_running(record)
    with live.changing:
        record = _record(home, record, live, was="running", state="paused")
        try:
            home.groups.freeze(live.group)
        except (OSError, CoveError) as error:
            _undo(home, live)
            if live.ended is not None or live.failure is not None:
                raise _not_running(record) from error
            if isinstance(error, OSError):
                raise HostError(
                    f"cannot pause {record.name}: {(error.strerror or '').lower()}",
                    host=str(error.filename or live.group.path),
                ) from error
            raise
    home.publish("pause", record)


def unpause(home: Home, record: MachineRecord, live: Live | None) -> None:
    if live is None:
        raise Conflict(f"cannot unpause {record.name}: it is not running")
    with live.changing:
        record = _record(home, record, live, was="paused", state="running")
        _thaw(home, live)
    home.publish("unpause", record)


def go_on(home: Home, live: Live) -> None:
    """Let a machine that was sent a signal receive it, as Docker does."""
    with contextlib.suppress(CoveError):
        record = home.record(live.key)
        if record.state == "paused":
            unpause(home, record, live)


def restore(home: Home, record: MachineRecord, live: Live) -> None:
    """The machine of an earlier daemon: what its record says becomes true."""
    if live.group is None:
        return
    with contextlib.suppress(OSError, CoveError):
        if record.state == "paused":
            home.groups.freeze(live.group)
        else:
            home.groups.thaw(live.group)
            if (
                record.spec.isolation == "vm"
            ):  # a commit stopped only those in the guest, a copy all
                home.worker.do(partial(moments.let_go, home, live.key))


def check_not_paused(record: MachineRecord, verb: str) -> None:
    if record.state == "paused":
        raise Conflict(
            f"cannot {verb} {record.name}: it is paused",
            hint=f"unpause it first: cove unpause {record.name}",
        )


def _record(
    home: Home, record: MachineRecord, live: Live, *, was: str, state: str
) -> MachineRecord:
    """Write the new state, of a machine that has not ended meanwhile."""
    with home.lock:
        record = home.record(record.key)
        if record.state == state and state == "paused":
            raise Conflict(f"cannot pause {record.name}: it is paused already")
        if record.state != was or live.ended is not None:
            if state == "paused":
                raise _not_running(record)
            raise Conflict(f"cannot unpause {record.name}: it is not paused")
        return home.update(record.key, state=state)


def _undo(home: Home, live: Live) -> None:
    with home.lock:
        if home.store.has_machine(live.key) and home.record(live.key).state == "paused":
            home.update(live.key, state="running")
    _thaw(home, live)


def _thaw(home: Home, live: Live) -> None:
    """A group that is gone has nobody to wake."""
    if live.group is not None:
        with contextlib.suppress(OSError):
            home.groups.thaw(live.group)


def _not_running(record: MachineRecord) -> Conflict:
    return Conflict(
        f"cannot pause {record.name}: it is not running",
        hint=f"start it first: cove start {record.name}",
    )
