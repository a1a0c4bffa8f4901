"""What strangers send, read without trusting its form: None where it is not what it should be,
and never an exception of the reader's own. Pure.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

from cove.errors import NOT_JSON

DIGITS_MAX = 18
"""Of a number of bytes: more than any file has, and nothing that is slow to read."""


def json_of(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except NOT_JSON:
        return None


def number(text: str) -> int | None:
    """Digits of ASCII, and not many: ``isdigit`` knows others, that ``int`` refuses."""
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > DIGITS_MAX:
        return None
    return int(text)


def seconds(value: object) -> float:
    """A span of time as JSON; 0: it is none."""
    if isinstance(value, str):
        value = number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        found = float(value)
    except OverflowError:
        return 0.0
    return found if 0 <= found < 1e9 else 0.0


def split(url: str) -> SplitResult | None:
    """With a host and a port that can be one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


def join(url: str, target: str) -> str:
    """Where ``target`` leads from ``url``; the target itself where that makes no sense."""
    try:
        return urljoin(url, target)
    except ValueError:
        return target
