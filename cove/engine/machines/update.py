"""update: other limits for a machine, at once where it runs and for its next start; another restart
policy, from its next end on.

The record takes the new limits first and keeps the old ones until the kernel has taken them too; a
daemon that finds both tries again (``restore``). What the kernel refuses changes nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cove.engine.calls import Update
from cove.engine.home import Home, effective
from cove.engine.live import Live
from cove.engine.vms import limits as guest_limits
from cove.errors import CoveError, UsageError
from cove.linux.cgroups.tree import check_limits, check_online
from cove.spec.check import check_machine
from cove.spec.machine import Limits
from cove.spec.restart import Restart
from cove.store.records import MachineRecord


def update(home: Home, record: MachineRecord, params: Update) -> None:
    live = home.lives.get(record.key)
    _set_policy(home, record.key, params.restart, only_check=True)
    if params.restart is None or _fields(params):
        if live is None:
            _write(home, record.key, params)
        else:
            with live.changing:
                _update_live(home, _write(home, record.key, params, pending=True), live)
    _set_policy(home, record.key, params.restart)
    home.publish("update", record)


def restore(home: Home, record: MachineRecord, live: Live) -> None:
    """The machine of an earlier daemon, which may have been killed in the middle of an update."""
    if record.limits_before is not None:
        try:
            _update_live(home, record, live)
        except CoveError:
            pass  # it keeps the limits it had; whoever asked was told nothing


def changed(limits: Limits, params: Update) -> Limits:
    """``limits`` with what was asked for."""
    fields = _fields(params)
    if not fields:
        raise UsageError("cannot update: no limit is named", hint="cove update --help lists them")
    return msgspec.structs.replace(limits, **fields)


def _fields(params: Update) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: value
        for name in Limits.__struct_fields__
        if name != "pids" and (value := getattr(params, name, None))
    }
    if params.pids is not None:
        fields["pids"] = params.pids
    return fields


def _set_policy(home: Home, key: int, policy: Restart | None, *, only_check: bool = False) -> None:
    """Last of all: limits that the kernel refuses change nothing."""
    if policy is None:
        return
    with home.lock:
        spec = msgspec.structs.replace(home.record(key).spec, restart=policy)
        check_machine(spec)
        if not only_check:
            home.update(key, spec=spec)


def _write(home: Home, key: int, params: Update, *, pending: bool = False) -> MachineRecord:
    """The record with the limits asked for, if they make sense together and on this host."""
    with home.lock:
        record = home.record(key)
        before = record.limits_before or record.spec.limits
        limits = changed(record.spec.limits, params)
        spec = msgspec.structs.replace(record.spec, limits=limits)
        check_machine(spec)
        check_limits(limits, home.facts)
        check_online(limits)
        return home.update(key, spec=spec, limits_before=before if pending else None)


def _update_live(home: Home, record: MachineRecord, live: Live) -> None:
    """What is recorded becomes true, or is recorded no more. One that ends meanwhile is under the
    new limits from its next start on.
    """
    spec = record.spec
    try:
        if live.group is not None:
            if spec.isolation == "vm":
                before = record.limits_before or spec.limits
                live.group = guest_limits.change(home, record, live, before)
            else:
                live.group = home.groups.change(live.group, effective(spec.limits))
    except CoveError:
        if live.ended is None and live.failure is None:
            before = record.limits_before or spec.limits
            spec = msgspec.structs.replace(spec, limits=before)
            raise
    finally:
        if live.over and live.group is not None:
            home.groups.remove(live.group)  # a cpuset may have been made anew beneath it
        with home.lock:
            if home.store.has_machine(live.key):
                now = home.record(live.key).spec
                spec = msgspec.structs.replace(now, limits=spec.limits)
                home.update(live.key, spec=spec, limits_before=None)
