"""Finding machines by what people type: a name, an id, or the beginning of an id. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cove.errors import Conflict, NameTaken, NotFound
from cove.spec.suggest import did_you_mean
from cove.store.records import MachineRecord

ENDED = ("exited", "dead")


def holds_name(record: MachineRecord) -> bool:
    """An exited ``--rm`` machine is only waiting to be removed: its name is free already."""
    return not (record.spec.remove and record.state in ENDED) or record.restarting


def find(
    text: str, machines: Mapping[int, MachineRecord], names: Mapping[str, int]
) -> MachineRecord:
    """The machine called ``text``, as Docker finds it: full id, then name, then a unique prefix
    of an id. Docker shows names with a slash, and takes them so.
    """
    text = text.removeprefix("/")
    key = names.get(text)
    if key is not None and len(text) != 64:
        return machines[key]
    if len(text) == 64:  # the one that is looked for most: no list is made of those that may be
        for record in machines.values():
            if record.id == text:
                return record
    prefix = [record for record in machines.values() if text and record.id.startswith(text)]
    if key is not None:
        return machines[key]
    if len(prefix) > 1:
        raise Conflict(
            f'cannot find machine "{text}": {len(prefix)} machines have ids that begin with it',
            hint="type more of the id, or a name",
        )
    if not prefix:
        return _leaving(text, machines.values(), names)
    return prefix[0]


def _leaving(text: str, machines: Iterable[MachineRecord], names: Iterable[str]) -> MachineRecord:
    """A machine that gave its name up may still be meant by it, while no other one has it."""
    for record in machines:
        if text and record.name == text:
            return record
    raise NotFound(
        f'cannot find machine "{text}": no such machine',
        hint=did_you_mean(text, names) or "cove ps -a lists them",
    )


def name_taken(name: str, holder: MachineRecord) -> NameTaken:
    return NameTaken(
        f'cannot use the name "{name}": machine {holder.id[:12]} has it',
        origin=f"--name {name}",
        hint=f"remove that machine (cove rm {name}), or choose another name",
    )
