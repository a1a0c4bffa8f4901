"""``cove commit``: what a machine wrote becomes the highest layer of a new image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from cove.image.changes import Start, apply_changes
from cove.image.layers import Blob, add_layer, drop_unused
from cove.oci.archive import Span
from cove.oci.digest import digest_of
from cove.oci.reference import Reference
from cove.spec.machine import MachineSpec
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, LayerRecord


@dataclass(frozen=True, slots=True)
class Wish:
    """What is said of the new image."""

    name: Reference | None
    author: str
    message: str
    command: tuple[str, ...]
    """What ran in the machine: the history tells."""
    start: Start
    """How machines of it start."""


def start_of(base: ImageRecord, spec: MachineSpec, changes: tuple[str, ...]) -> Start:
    """As the machine was started, with ``--change`` on top of that."""
    config = base.config.get("config")
    start: Start = dict(config) if isinstance(config, dict) else {}
    if spec.entrypoint is not None:
        start["Entrypoint"] = [word for word in spec.entrypoint if word] or None
        start["Cmd"] = list(spec.command) or None
    elif spec.command:
        start["Cmd"] = list(spec.command)
    if spec.env:
        merged = dict(entry.partition("=")[::2] for entry in start.get("Env") or ())
        for entry in spec.env:
            name, equals, value = entry.partition("=")
            if equals:
                merged[name] = value
            else:
                merged.pop(name, None)
        start["Env"] = [f"{name}={value}" for name, value in merged.items()]
    if spec.labels:
        start["Labels"] = {**(start.get("Labels") or {}), **spec.labels}
    for key, value in (
        ("User", spec.user), ("WorkingDir", spec.workdir), ("StopSignal", spec.stop_signal),
    ):  # fmt: skip
        if value:
            start[key] = value
    volumes = [m.target for m in spec.mounts if m.type == "volume" and m.anonymous]
    if volumes:
        start["Volumes"] = {**(start.get("Volumes") or {}), **{path: {} for path in volumes}}
    return apply_changes({key: value for key, value in start.items() if value}, changes)


def commit_layer(
    store: Store,
    base: ImageRecord,
    tar: int,
    wish: Wish,
    *,
    check: Callable[[], None],
    blame: Callable[[], None],
) -> ImageRecord:
    """Read the layer's tar from the descriptor ``tar`` to its end; the new image's record.
    ``check`` raises when the tar was not whole: then there is no image. ``blame`` is called when it
    is read no further, and may raise why.
    """
    with ExitStack() as pins:
        pins.enter_context(store.pinned(*base.layers))
        try:
            layer = add_layer(store, Blob(Span(tar, -1, -1), "the machine's layer"), pins=pins)
        except BaseException:
            blame()  # why it ended too soon
            raise
        try:
            check()
            return _record(store, base, layer, wish)
        except BaseException:
            pins.close()
            drop_unused(store, (layer.diff_id,))
            raise


def _record(store: Store, base: ImageRecord, layer: LayerRecord, wish: Wish) -> ImageRecord:
    created = datetime.now(UTC)
    stamp = created.isoformat().replace("+00:00", "Z")
    entry = {
        "created": stamp,
        "created_by": " ".join(wish.command),
        "author": wish.author,
        "comment": wish.message,
    }
    history = base.config.get("history")
    layers = (*base.layers, layer.diff_id)
    config: dict[str, object] = {
        **base.config,
        "author": wish.author,
        "comment": wish.message,
        "config": wish.start,
        "created": stamp,
        "history": [
            *(history if isinstance(history, list) else ()),
            {key: value for key, value in entry.items() if value},
        ],
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
    }
    config = {key: value for key, value in config.items() if value not in ("", None)}
    for key in ("container", "container_config", "docker_version", "id", "parent"):
        config.pop(key, None)  # of the image below, or of the machine it was made in
    data = msgspec.json.encode(config)
    image_id = digest_of(data)
    with store.pinned(image_id):
        Blobs(store.layout).put(data, image_id)
        record = ImageRecord(
            image_id, config, layers, base.size + layer.size, created.timestamp(), parent=base.id
        )
        with store.transaction():
            store.put_image(record)
            if wish.name is not None:
                store.tag(str(wish.name), image_id)
    return record
