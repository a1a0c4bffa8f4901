"""prune: remove the machines that do not run.

A machine that is being started, put away, restarted or removed by somebody else is left to them.
"""

from __future__ import annotations

from collections.abc import Mapping

from cove.engine.calls import Prune, Pruned
from cove.engine.home import Home
from cove.engine.machines import ending
from cove.engine.written import written
from cove.image.catalog import image_config
from cove.store.names import holds_name
from cove.store.records import MachineRecord

SETTLED = 2.0
"""Seconds that machines which have ended may take to be put away."""
STOPPED = ("created", "exited", "dead")


def prune(home: Home, params: Prune) -> Pruned:
    wait_for_ended(home)
    ids, reclaimed = [], 0
    for record in home.store.machines():
        if not (_is_idle(home, record) and _wanted(home, record, params)):
            continue
        size = written(home, record)
        if _remove(home, record.key):
            ids.append(record.id)
            reclaimed += size
    return Pruned(tuple(ids), reclaimed)


def wait_for_ended(home: Home) -> None:
    """Who asks has seen them end: what is left of them is put away in a moment."""
    ended = [live for live in list(home.lives.values()) if live.over]
    home.events.wait_until(
        lambda: not any(home.lives.get(live.key) is live for live in ended), timeout=SETTLED
    )


def _is_idle(home: Home, record: MachineRecord) -> bool:
    return (
        record.state in STOPPED
        and record.key not in home.lives
        and not record.restarting
        and holds_name(record)
    )


def _remove(home: Home, key: int) -> bool:
    """Whether it was this caller who removed it. A start takes the same lock for its first step."""
    with home.lock:
        if not home.store.has_machine(key) or not _is_idle(home, home.record(key)):
            return False
        ending.forget(home, home.record(key))
        return True


def _wanted(home: Home, record: MachineRecord, params: Prune) -> bool:
    """The labels of its image are the machine's, unless it has its own."""
    image = home.store.image(record.image)
    labels = (image_config(image).labels if image else {}) | record.spec.labels
    return (
        (not params.until or record.created < params.until)
        and all(has_label(labels, label) for label in params.labels)
        and not any(has_label(labels, label) for label in params.without)
    )


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
