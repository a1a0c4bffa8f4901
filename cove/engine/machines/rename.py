"""rename: another name for a machine, running or not. Its host name stays, as in Docker."""

from __future__ import annotations

import msgspec

from cove.engine.home import Home
from cove.engine.networks import linking
from cove.errors import Conflict, UsageError
from cove.spec.values import parse_name
from cove.store.names import holds_name
from cove.store.records import MachineRecord


def rename(home: Home, record: MachineRecord, name: str) -> MachineRecord:
    """The record under its new name, which must be good and free."""
    if not name:
        raise UsageError(f"cannot rename {record.name}: the new name is empty")
    name = parse_name(name)
    with home.lock:
        record = home.record(record.key)
        old = record.name
        if name == old:
            raise Conflict(f"cannot rename {old}: it has this name already")
        if not holds_name(record):
            raise Conflict(f"cannot rename {old}: it has ended and is being removed")
        spec = msgspec.structs.replace(record.spec, name=name)
        try:
            record = home.update(record.key, name=name, spec=spec)
        except Conflict as error:
            error.origin = f"rename {old} {name}"
            raise
        if record.endpoints:
            home.names.tell(record)
        linking.renamed(home, old, name)
    home.publish("rename", record, {"oldName": f"/{old}"})
    return record
