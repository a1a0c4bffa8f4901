"""Links: who they lead to, what the machine is told of it, and taking one away."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from cove.engine.home import Base, Home
from cove.errors import Conflict, CoveError, NotFound, UsageError
from cove.image.catalog import image_config
from cove.spec.links import split_link, variables
from cove.spec.machine import MachineSpec
from cove.spec.network import DEFAULT_NETWORK
from cove.store.records import Endpoint, MachineRecord


def resolved(home: Home, spec: MachineSpec) -> MachineSpec:
    """With the names of the machines that are meant; those must be there."""
    if not spec.links:
        return spec
    found: dict[str, str] = {}
    for link in spec.links:
        name, alias = split_link(link)
        try:
            found[alias] = f"{home.store.find_machine(name).name}:{alias}"
        except (NotFound, Conflict) as error:
            # Not a 404: to Docker's clients that is an image that is missing.
            raise UsageError(
                f"cannot link to {name}: {error.message}", origin=f"--link {link}", hint=error.hint
            ) from error
    return msgspec.structs.replace(spec, links=tuple(found.values()))


def with_variables(home: Home, record: MachineRecord, base: Base) -> MachineRecord:
    """The record with the variables that its links make, before its own and its image's. As with
    Docker they are made on the default network alone, and of machines that run there.
    """
    place = _on_default(record)
    if not record.spec.links or place is None:
        return record
    own = {word.partition("=")[0] for word in base.config.env}
    made = (
        word
        for link in record.spec.links
        for word in _variables(home, record, link, place.network)
        if word.partition("=")[0] not in own
    )
    spec = msgspec.structs.replace(record.spec, env=(*made, *record.spec.env))
    return msgspec.structs.replace(record, spec=spec)


def _on_default(record: MachineRecord) -> Endpoint | None:
    return next((e for e in record.endpoints if e.name == DEFAULT_NETWORK), None)


def _variables(home: Home, record: MachineRecord, link: str, network: str) -> Iterator[str]:
    name, alias = split_link(link)
    try:
        other = home.store.find_machine(name)
    except CoveError as error:
        raise _cannot(record, link, error.message) from error
    if other.state not in ("running", "paused"):
        raise _cannot(record, link, f"{other.name} does not run")
    place = next((e for e in other.endpoints if e.network == network), None)
    if place is None:
        raise _cannot(record, link, f"{other.name} is not on the network {DEFAULT_NETWORK}")
    address = place.address.partition("/")[0]
    image = home.store.image(other.image)
    given = image_config(image).env if image is not None else ()
    env = {word.partition("=")[0]: word for word in (*given, *other.spec.env)}
    yield from variables(alias, record.name, address, other.exposed, env.values())


def _cannot(record: MachineRecord, link: str, why: str) -> CoveError:
    return Conflict(
        f"cannot start {record.name}: its link {link.partition(':')[2]} leads nowhere: {why}",
        origin=f"--link {link}",
        exit_code=125,
    )


def remove(home: Home, record: MachineRecord, alias: str) -> MachineRecord:
    """The machine without that link; the variables that it made stay until the next start."""
    with home.lock:
        record = home.record(record.key)
        left = tuple(link for link in record.spec.links if split_link(link)[1] != alias)
        if len(left) == len(record.spec.links):
            raise NotFound(f"cannot remove the link {record.name}/{alias}: no such link")
        spec = msgspec.structs.replace(record.spec, links=left)
        record = home.update(record.key, spec=spec)
        if record.endpoints:
            home.names.tell(record)
    return record


def renamed(home: Home, old: str, new: str) -> None:
    """Links lead on to a machine that has another name now. Under ``home.lock``."""
    for record in home.store.machines():
        if any(split_link(link)[0] == old for link in record.spec.links):
            pairs = map(split_link, record.spec.links)
            links = tuple(f"{new if name == old else name}:{alias}" for name, alias in pairs)
            spec = msgspec.structs.replace(record.spec, links=links)
            now = home.update(record.key, spec=spec)
            if now.endpoints:
                home.names.tell(now)


def names_of(records: Iterable[MachineRecord]) -> Callable[[MachineRecord], list[str]]:
    """Of each machine, as Docker lists them: its own, and what others call it."""
    called: dict[str, list[str]] = {}
    for other in records:
        for name, alias in map(split_link, other.spec.links):
            called.setdefault(name, []).append(f"/{other.name}/{alias}")
    return lambda record: [f"/{record.name}", *called.get(record.name, ())]
