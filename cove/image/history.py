"""The steps that made an image, as its config tells them, with the size of what each one added.
Pure: the sizes of the layers are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cove.store.records import ImageRecord


@dataclass(frozen=True, slots=True)
class Past:
    created: float
    """0: unknown."""
    created_by: str
    comment: str
    size: int


def steps_of(record: ImageRecord, sizes: Sequence[int]) -> list[Past]:
    """Newest first. ``sizes`` are those of the layers, lowest first; layers that the history does
    not mention are steps without a word.
    """
    rest, steps = list(sizes), []
    for entry in _entries(record.config):
        made = not entry.get("empty_layer") and rest
        size = rest.pop(0) if made else 0
        created = moment(entry.get("created"))
        text = str(entry.get("created_by") or "")
        steps.append(Past(created, text, str(entry.get("comment") or ""), size))
    steps += [Past(record.created, "", "", size) for size in rest]
    return steps[::-1]


def _entries(config: dict[str, Any]) -> list[dict[str, Any]]:
    history = config.get("history")
    return [e for e in history if isinstance(e, dict)] if isinstance(history, list) else []


def moment(text: object) -> float:
    """Unix seconds of RFC 3339; 0 for what is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
