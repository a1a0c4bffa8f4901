"""Images as the JSON documents that Docker's templates and API expect."""

from __future__ import annotations

from typing import Any

from cove.engine import calls
from cove.oci.reference import familiar
from cove.shown import units
from cove.shown.filters import image_labels
from cove.shown.functions import NoList, NoMap
from cove.shown.template import Record


def image_document(image: calls.Image) -> Record:
    record = image.record
    config: dict[str, Any] = record.config
    history = config.get("history")
    last = history[-1] if isinstance(history, list) and history else {}
    return Record(
        Id=record.id,
        RepoTags=list(image.tags),
        RepoDigests=[familiar(digest) for digest in record.digests],
        Parent=record.parent,
        Comment=str(last.get("comment", "")) if isinstance(last, dict) else "",
        Created=config.get("created") or units.stamp(record.created),
        DockerVersion="",
        Author=config.get("author", ""),
        Config=_filled(image_config(config), image),
        Architecture=config.get("architecture", ""),
        Variant=config.get("variant", ""),
        Os=config.get("os", ""),
        Size=record.size,
        VirtualSize=record.size,
        GraphDriver=Record(Name="overlay", Data={}),
        RootFS=Record(Type="layers", Layers=list(record.layers)),
        Metadata=Record(LastTagTime=units.stamp(record.created)),
        Machines=image.machines,
    )


def _filled(config: dict[str, Any], image: calls.Image) -> Record:
    empty = Record(
        User="", ExposedPorts=NoMap(), Env=NoList(), Cmd=NoList(), Volumes=NoMap(), WorkingDir="",
        Entrypoint=NoList(), OnBuild=NoList(), Labels=image_labels(image) or NoMap(),
        StopSignal="", Healthcheck=None, Shell=NoList(),
    )  # fmt: skip
    return Record(empty | {name: value for name, value in config.items() if value is not None})


def image_config(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("config")
    return inner if isinstance(inner, dict) else {}
