"""How much a machine has written: for ``ps -s``, ``inspect -s``, ``system df`` and the prunes."""

from __future__ import annotations

from cove.engine.home import Home
from cove.engine.vms.virtual import scratch_name
from cove.linux.disk import file_usage
from cove.planner.defaults import STORAGE
from cove.roots import usage
from cove.store.records import MachineRecord


def written(home: Home, record: MachineRecord) -> int:
    """Bytes on disk: of a container its writable layer, of a virtual machine what its disk has
    grown by. What a guest's file system has freed stays counted: the host cannot see it.
    """
    spec, layout = record.spec, home.store.layout
    if spec.isolation != "vm":
        return usage(home.root, record.upper)
    empty = layout.scratch(spec.limits.storage or STORAGE, journal=not spec.remove)
    disk = f"{layout.machine(record.key)}/{scratch_name(record)}"
    return max(0, file_usage(disk) - file_usage(empty))
