"""``/events``, and how much of the disk is taken."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC
from typing import Any

from cove.daemon.docker import shapes, versions, wording
from cove.daemon.docker.ask import Answer, Ask, Stream, to_json
from cove.daemon.docker.images import listed_to_docker
from cove.engine import calls
from cove.engine.calls import volumes
from cove.engine.calls.disk import CacheUsage
from cove.shown import events as shown
from cove.shown import volumes as of_volumes
from cove.shown.units import stamp

CALL = calls.Call()


def events(ask: Ask) -> Stream:
    now = time.time_ns()
    since, until = ask.text("since"), ask.text("until")
    # What happens before this is listened for, as soon as the client has its answer, is told, too.
    first = 0 if until else now
    params = calls.Events(
        shown.parse_moment(since, now, UTC) if since else first,
        shown.parse_moment(until, now, UTC) if until else 0,
        ask.filters(),
    )
    wording.check_filters(dict.fromkeys(params.filters, ()), shown.KEYS)
    found = ask.engine.events(params, ask.call())

    def told() -> Iterator[bytes]:
        for event in found:
            yield to_json(shown.record(event))

    return Stream(told(), early=True)


def disk(ask: Ask) -> Answer:
    seen = ask.engine.disk_usage(calls.Nothing(), CALL)
    wanted = set(ask.texts("type")) or {"image", "container", "volume", "build-cache"}
    found: dict[str, Any] = {"LayersSize": seen.layers, "BuilderSize": seen.cache}
    if "image" in wanted:
        found["Images"] = [
            listed_to_docker(usage.image)
            | dict.fromkeys(("Size", "VirtualSize"), usage.shared + usage.unique)
            | {"SharedSize": usage.shared}  # of the same bytes: Docker's command subtracts it
            for usage in seen.images
        ]
    if "container" in wanted:
        now = time.time()
        found["Containers"] = [
            shapes.listed_to_docker(usage.record, None, now) | {"SizeRw": usage.writable}
            for usage in seen.machines
        ]
    if "volume" in wanted:
        held = {usage.name: usage for usage in seen.volumes if not usage.cache}
        listed = ask.engine.volume_list(volumes.VolumeList(), CALL).volumes
        found["Volumes"] = [
            dict(of_volumes.document(one))
            | {"UsageData": {"Size": held[name].size, "RefCount": held[name].links}}
            for one in listed
            if (name := one.record.name) in held
        ]
    if "build-cache" in wanted:
        found["BuildCache"] = [_cached_to_docker(one) for one in seen.cached]
    return Answer(versions.disk(found, ask.version))


def _cached_to_docker(one: CacheUsage) -> dict[str, Any]:
    record = one.record
    return {
        "ID": record.key,
        "Type": one.kind,
        "Description": record.title,
        "InUse": one.in_use,
        "Shared": one.shared,
        "Size": one.size,
        "CreatedAt": stamp(record.created),
        "LastUsedAt": stamp(record.used),
        "UsageCount": 0,
    }
