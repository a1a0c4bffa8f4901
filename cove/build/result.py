"""The config of the image that a build makes, as BuildKit writes it. Pure: times are arguments.

A step that comes from the cache has the time at which it was made, and what only changes the config
that of the layer before: the same build twice is the same image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cove.build.graph.data import StagePlan, Step
from cove.oci.config import ImageConfig

COMMENT = "buildkit.dockerfile.v0"
_MADE = " # buildkit"


@dataclass(frozen=True, slots=True)
class Past:
    """One line of a history."""

    created_by: str
    created: str = ""
    """RFC 3339; empty: as the layer before."""
    layer: bool = False


def past_of(step: Step, created: str, epoch: str = "") -> Past:
    """``created``: when its layer was made; ``epoch``: what every time is to be."""
    if not step.layer:
        return Past(step.created_by, epoch)
    return Past(step.created_by + _MADE, epoch or created, layer=True)


def image_config(
    stage: StagePlan, base: dict[str, Any], pasts: Sequence[Past], diff_ids: Sequence[str]
) -> dict[str, Any]:
    """``base``: the config of the image that it all stands on, empty for none."""
    config = stage.config
    before = [dict(one) for one in _list(base.get("history")) if isinstance(one, dict)]
    history = _with_times([*before, *map(_entry, pasts)])
    times = [str(one["created"]) for one in history if one.get("created")]
    found: dict[str, Any] = {
        "architecture": config.architecture or stage.platform.architecture,
        "variant": config.variant,
        "os": config.os or stage.platform.os,
        "os.version": base.get("os.version"),
        "os.features": base.get("os.features"),
        "author": config.author,
        "created": times[-1] if times else None,
        "config": start_of(config),
        "history": history,
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
    }
    return {key: value for key, value in found.items() if value not in (None, "", [])}


def start_of(config: ImageConfig) -> dict[str, Any]:
    """The ``config`` object: what is empty is left out."""
    found: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Healthcheck": config.healthcheck,
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.workdir,
        "OnBuild": list(config.onbuild),
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Shell": list(config.shell),
    }
    return {key: value for key, value in found.items() if value}


def _entry(past: Past) -> dict[str, Any]:
    entry: dict[str, Any] = {"created": past.created} if past.created else {}
    entry |= {"created_by": past.created_by, "comment": COMMENT}
    if not past.layer:
        entry["empty_layer"] = True
    return entry


def _with_times(history: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines without a time get that of the layer before, those in front of the first new layer that
    layer's."""
    entries = list(history)
    known = ""
    waits = False
    for entry in entries:
        if entry.get("created"):
            known = str(entry["created"])
            if waits:
                break
        else:
            waits = True
    waits = False
    for entry in entries:
        if entry.get("created"):
            if waits:
                known = str(entry["created"])
        else:
            waits = True
            if known:
                entry["created"] = known
    return [_ordered(entry) for entry in entries]


def _ordered(entry: dict[str, Any]) -> dict[str, Any]:
    first = {"created": entry["created"]} if "created" in entry else {}
    return {**first, **{key: value for key, value in entry.items() if key != "created"}}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
