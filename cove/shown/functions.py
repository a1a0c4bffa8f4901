"""The functions of templates: Go's own and Docker's, and how Go shows values. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any


class NoList(list[Any]):
    """A list Go would have as nil: ``[]`` as text, ``null`` as JSON."""


class NoMap(dict[str, Any]):
    """The same for a map: ``map[]`` as text."""


def show(value: Any) -> str:
    """As Go's fmt prints a value."""
    if isinstance(value, str):
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        shown = " ".join(f"{key}:{show(item)}" for key, item in sorted(value.items()))
        return f"map[{shown}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(show(item) for item in value)}]"
    return str(value)


def truth(value: Any) -> bool:
    return bool(value)


def to_json(value: Any) -> str:
    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)


PLAIN = frozenset((str, int, bool, float, type(None)))


def plain(value: Any) -> Any:
    """Without methods, which JSON does not show; Go's maps are sorted, its structs are not."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind is NoList or kind is NoMap:
        return None
    # Most of what is in them is plain itself, and is not asked again: half of a list's time.
    if isinstance(value, dict):
        pairs = sorted(value.items()) if kind is dict and len(value) > 1 else value.items()
        return {
            key: item if type(item) in PLAIN else plain(item)
            for key, item in pairs
            if type(item) in PLAIN or not callable(item)
        }
    if isinstance(value, list | tuple):
        return [item if type(item) in PLAIN else plain(item) for item in value]
    return value


def _join(parts: Any, mark: str = "") -> str:
    if not isinstance(parts, list | tuple):
        raise TypeError("it joins a list")
    return str(mark).join(show(part) for part in parts)


def _split(text: str, mark: str) -> list[str]:
    return list(text) if not mark else text.split(mark)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list | tuple | str):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise IndexError(f"{show(key)} is not an index of a list of {len(value)}")
            value = value[key]
        else:
            raise TypeError("there is nothing to index")
    return value


def _slice(value: Any, *places: int) -> Any:
    if any(not 0 <= place <= len(value) for place in places):
        raise IndexError("out of range")
    return value[slice(*places)] if len(places) > 1 else value[(places or (0,))[0] :]


def _print(*values: Any) -> str:
    """A space between two values when neither is a string."""
    text = ""
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            text += " "
        text += show(value)
    return text


def _println(*values: Any) -> str:
    return " ".join(show(value) for value in values) + "\n"


WIDEST = 8192
"""Of padding: many callers share one process, and none may fill its memory."""

_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")


def _printf(form: str, *values: Any) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, digits, verb = match.groups()
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        text = _verb(verb, left.pop(0), digits)
        if width:
            width = min(int(width), WIDEST)
            fill = "0" if "0" in flags and "-" not in flags else " "
            text = text.ljust(width) if "-" in flags else text.rjust(width, fill)
        return text

    return _VERB.sub(one, form)


_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;"})
_JS = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E",
     "&": "\\u0026", "=": "\\u003D"}
    | {chr(code): f"\\u{code:04X}" for code in range(32)}
)  # fmt: skip


def _verb(verb: str, value: Any, digits: str | None) -> str:
    if verb in "vs":
        text = show(value)
        return text[: int(digits)] if digits else text
    if verb == "q":
        return json.dumps(show(value), ensure_ascii=False)
    if verb == "t":
        return show(bool(value))
    if verb in "dxXob" and isinstance(value, int):
        return format(value, verb)
    if verb in "feg" and isinstance(value, int | float):
        return format(float(value), f".{min(int(digits or 6), 100)}{verb}")
    if verb in "xX" and isinstance(value, str):
        return value.encode().hex()
    return f"%!{verb}({show(value)})"


def _pad(text: Any, left: int, right: int) -> str:
    shown = show(text)
    return " " * min(left, WIDEST) + shown + " " * min(right, WIDEST) if shown else shown


def _truncate(text: str, length: int) -> str:
    return text[:length]


def _equal(first: Any, *others: Any) -> bool:
    return any(type(first) is type(other) and first == other for other in others)


def _order(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda a, b: test(a, b)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "join": _join,
    "split": _split,
    "lower": lambda text: show(text).lower(),
    "upper": lambda text: show(text).upper(),
    "title": lambda text: re.sub(r"\b\w", lambda m: m[0].upper(), show(text)),
    "pad": _pad,
    "truncate": _truncate,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "eq": _equal,
    "ne": lambda a, b: not _equal(a, b),
    "lt": _order(lambda a, b: a < b),
    "le": _order(lambda a, b: a <= b),
    "gt": _order(lambda a, b: a > b),
    "ge": _order(lambda a, b: a >= b),
    "not": lambda value: not truth(value),
    "and": lambda *values: values[-1],
    "or": lambda *values: values[-1],
    "html": lambda value: show(value).translate(_HTML),
    "js": lambda value: show(value).translate(_JS),
    "urlquery": lambda value: re.sub(
        r"[^A-Za-z0-9_.~-]",
        lambda m: "+" if m[0] == " " else "".join(f"%{b:02X}" for b in m[0].encode()),
        show(value),
    ),
}
