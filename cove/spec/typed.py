"""Flags with the text of their values, read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cove.errors import CoveError
from cove.spec.check import combine
from cove.spec.flags import Flag
from cove.spec.values import parse_bool

Typed = tuple[tuple[Flag, str], ...]
"""Flags in the order typed, with the text of their values; a bare switch has ``true``."""


@lru_cache(maxsize=512)
def read_values(typed: Typed) -> Mapping[str, Any]:
    """Field to value, from the flags' parsers; all bad values are told at once.

    Cached: the same flags are typed again and again by scripts, and no parser looks at the world.
    """
    values: dict[str, Any] = {}
    errors: list[CoveError] = []
    for flag, text in typed:
        try:
            value: Any = parse_bool(text) if flag.switch else flag.parse(text)
        except CoveError as error:
            error.origin = error.origin or f"--{flag.name}{'=' if flag.switch else ' '}{text}"
            errors.append(error)
            continue
        pairs = value if not flag.field else ((flag.field, value),)
        for field, item in pairs:
            many = flag.repeat and flag.field
            values[field] = (*values.get(field, ()), item) if many else item
    if errors:
        raise combine(errors)
    return MappingProxyType(values)
