"""Other limits for a virtual machine that runs: its guest's kernel keeps them, and the jail those
that are its emulator's. What a guest was started with cannot grow.
"""

from __future__ import annotations

import msgspec

from cove.engine.home import Home, effective
from cove.engine.live import Live
from cove.engine.vms import inside
from cove.engine.vms.virtual import cpus_of, jail_of, memory_of
from cove.errors import CoveError, UsageError
from cove.linux.cgroups.limits import size_text
from cove.linux.cgroups.tree import Group
from cove.plan.vm_ops import Write
from cove.planner.virtual.guest import GROUP, limits_of_guest
from cove.spec.machine import Limits
from cove.store.records import MachineRecord


def change(home: Home, record: MachineRecord, live: Live, before: Limits) -> Group:
    """The limits of ``record`` for one that was under those of ``before``: all, or none."""
    assert live.group is not None
    limits = effective(record.spec.limits)
    _check_size(home, limits, before)
    _make_room(home, record.key, limits.memory)
    held = jail_of(msgspec.structs.replace(record.spec, limits=before)).limits
    group = home.groups.change(live.group, jail_of(record.spec).limits)
    try:
        inside.run_ops(home, record.key, limits_of_guest(limits, GROUP, anew=True))
    except CoveError:
        home.groups.change(group, held)
        raise
    return group


def _check_size(home: Home, limits: Limits, before: Limits) -> None:
    hint = "stop it first: its next start makes a larger guest"
    if memory_of(limits) > memory_of(before):
        raise UsageError(
            f"cannot limit memory to {size_text(limits.memory)}: the guest was started with "
            f"{size_text(memory_of(before))}",
            origin=f"--memory {size_text(limits.memory)}",
            hint=hint,
            exit_code=1,
        )
    if cpus_of(limits, home.facts) > (had := cpus_of(before, home.facts)):
        raise UsageError(
            f"cannot limit CPUs to {limits.cpus:g}: the guest was started with {had}",
            origin=f"--cpus {limits.cpus:g}",
            hint=hint,
            exit_code=1,
        )


def _make_room(home: Home, key: int, memory: int) -> None:
    """A memory.max below what is in use would call the OOM killer; memory.high only frees."""
    if not 0 < memory < _used(home, key):
        return
    for high in (str(memory), "max"):
        inside.run_ops(home, key, (Write(f"{GROUP}/memory.high", high, why="--memory"),))
    if (used := _used(home, key)) > memory:
        raise UsageError(
            f"cannot limit memory to {size_text(memory)}: {used / (1 << 20):.1f} MiB are in use, "
            "and the kernel cannot free enough of it",
            origin=f"--memory {size_text(memory)}",
            exit_code=1,
        )


def _used(home: Home, key: int) -> int:
    return inside.number(inside.read_files(home, key, (f"{GROUP}/memory.current",))[0])
