"""cove's records in Docker's shapes, as far as the API alone has them; what ``cove inspect`` and
the other commands show, too, is made in ``shown``. Pure: the moment is an argument.
"""

from __future__ import annotations

from typing import Any

from cove.daemon.docker import versions
from cove.daemon.docker.routes import Version
from cove.engine import calls
from cove.shown.machines import machine_document, places_document, status
from cove.shown.ports import exposed_now, published_now
from cove.spec.machine import MachineSpec
from cove.store.records import MachineRecord

Json = dict[str, Any]


def listed_to_docker(record: MachineRecord, sizes: calls.Sizes | None, now: float) -> Json:
    """One line of ``docker ps``."""
    places = places_document(record)
    words = record.argv or record.spec.command
    found: Json = {
        "Id": record.id,
        "Names": ["/" + record.name],
        "Image": record.spec.image,
        "ImageID": record.image,
        "Command": " ".join(f"'{word}'" if " " in word else word for word in words),
        "Created": int(record.created),
        "Ports": ports_to_docker(record),
        "Labels": dict(record.spec.labels),
        "State": record.state,
        "Status": status(record, now),
        "HostConfig": {"NetworkMode": record.spec.network},
        "NetworkSettings": {"Networks": places["Networks"]},
        "Mounts": places["Mounts"],
    }
    if record.spec.annotations:
        found["HostConfig"]["Annotations"] = dict(record.spec.annotations)
    if sizes is not None:
        found |= {"SizeRw": sizes.writable, "SizeRootFs": sizes.root}
    return found


def ports_to_docker(record: MachineRecord) -> list[Json]:
    published = published_now(record)
    found: list[Json] = [
        {"IP": p.ip, "PrivatePort": p.port, "PublicPort": p.host, "Type": p.protocol}
        for p in published
    ]
    held = {f"{p.port}/{p.protocol}" for p in published}
    for word in exposed_now(record):
        if word not in held:
            number, _, protocol = word.partition("/")
            found.append({"PrivatePort": int(number), "Type": protocol})
    return found


def inspected_to_docker(seen: calls.Inspected, version: Version) -> Json:
    """Of the log only what is not by default; a container's isolation is Docker's own."""
    found, spec, plain = machine_document(seen), seen.record.spec, MachineSpec("")
    host = found["HostConfig"]
    log = dict(host["LogConfig"]["Config"])
    for name, same in (
        ("max-size", spec.log_max == plain.log_max),
        ("max-file", spec.log_files == plain.log_files),
    ):
        if same:
            log.pop(name, None)
    host["LogConfig"] = {"Type": host["LogConfig"]["Type"], "Config": log}
    if spec.isolation == "container":
        host["Isolation"] = "default"
    return versions.container(found, version)
