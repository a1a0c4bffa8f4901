"""``/volumes``."""

from __future__ import annotations

import msgspec

from cove.daemon.docker import bodies
from cove.daemon.docker.ask import Answer, Ask
from cove.engine import calls
from cove.engine.calls import volumes
from cove.errors import NotFound
from cove.shown import volumes as shown
from cove.spec import volume
from cove.spec.values import parse_bool

CALL = calls.Call()
PRUNE_KEYS = ("all", "label", "label!")


class Create(bodies.Struct):
    name: str = ""
    driver: str = ""
    driver_opts: bodies.StringMap = None
    labels: bodies.StringMap = None


CREATE = msgspec.json.Decoder(Create)


def create(ask: Ask) -> Answer:
    asked = ask.read(CREATE)
    if asked.driver:
        volume.parse_driver(asked.driver)
    wanted = volume.VolumeSpec(
        name=asked.name, labels=dict(asked.labels or {}), options=dict(asked.driver_opts or {})
    )
    volume.check_volume(wanted)
    made = ask.engine.volume_create(volumes.VolumeCreate(wanted), CALL)
    found = ask.engine.volume_inspect(volumes.VolumeInspect(made.name), CALL)
    return Answer(shown.document(found), 201)


def listed(ask: Ask) -> Answer:
    wanted = ask.gathered(shown.KEYS)
    found = shown.keep(ask.engine.volume_list(volumes.VolumeList(), CALL).volumes, wanted)
    return Answer({"Volumes": [shown.document(one) for one in found], "Warnings": None})


def _found(ask: Ask) -> volumes.Volume:
    try:
        return ask.engine.volume_inspect(volumes.VolumeInspect(ask.name), CALL)
    except NotFound:
        raise NotFound(f"get {ask.name}: no such volume") from None


def inspect(ask: Ask) -> Answer:
    return Answer(shown.document(_found(ask)))


def remove(ask: Ask) -> Answer:
    try:
        ask.engine.volume_remove(volumes.VolumeRemove(_found(ask).record.name), CALL)
    except NotFound:
        if not ask.on("force"):
            raise
    return Answer(status=204)


def prune(ask: Ask) -> Answer:
    wanted = ask.gathered(PRUNE_KEYS)
    # Before 1.42 those that somebody named went, too.
    everything = ask.version < (1, 42) or any(map(parse_bool, wanted.get("all", ())))
    gone = ask.engine.volume_prune(
        volumes.VolumePrune(everything, wanted.get("label", ()), wanted.get("label!", ())), CALL
    )
    return Answer({"VolumesDeleted": list(gone.names) or None, "SpaceReclaimed": gone.reclaimed})
