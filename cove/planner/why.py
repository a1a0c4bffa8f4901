"""How the ``why`` of an op is written: the part of the spec, or ``default: reason``."""

from __future__ import annotations


def default(reason: str) -> str:
    """Not asked for: cove's own choice."""
    return f"default: {reason}"


def option(name: str, value: object = "") -> str:
    """What was asked for, as it is typed."""
    text = f"--{name} {value}".rstrip()
    return text if len(text) <= 100 else text[:97] + "..."


def size(count: int) -> str:
    """Bytes as they are typed: ``64m``, where it comes out even."""
    for unit, shift in (("g", 30), ("m", 20), ("k", 10)):
        if count and count % (1 << shift) == 0:
            return f"{count >> shift}{unit}"
    return str(count)
