"""Volumes as Docker's API and templates have them, and ``--filter`` of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cove.engine.calls import volumes as of_volumes
from cove.shown import filters, units
from cove.shown.functions import NoMap
from cove.shown.template import Record
from cove.spec import values

SCOPE = "local"
KEYS = ("dangling", "driver", "label", "name", "scope")

Shown = Sequence[of_volumes.Volume]


def keep(volumes: Shown, wanted: filters.Filters) -> list[of_volumes.Volume]:
    """Those that match one value of every key, and every label."""
    return [found for found in volumes if all(_match(found, k, v) for k, v in wanted.items())]


def _match(found: of_volumes.Volume, key: str, wanted: tuple[str, ...]) -> bool:
    if key == "label":
        return all(filters.same_label(found.record.labels, value) for value in wanted)
    return any(TESTS[key](found, value) for value in wanted)


TESTS: dict[str, Callable[[of_volumes.Volume, str], bool]] = {
    "name": lambda v, text: text in v.record.name,
    "driver": lambda v, text: text == "local",
    "scope": lambda v, text: text == SCOPE,
    "dangling": lambda v, text: values.parse_bool(text) == (not v.users),
}


def document(found: of_volumes.Volume) -> Record:
    record = found.record
    return Record(
        CreatedAt=units.stamp(record.created),
        Driver="local",
        Labels=dict(record.labels) or NoMap(),
        Mountpoint=found.mountpoint,
        Name=record.name,
        Options=dict(record.options) or NoMap(),
        Scope=SCOPE,
        Anonymous=record.anonymous,
        Machines=list(found.users),
    )
