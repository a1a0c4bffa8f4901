"""Patterns of ``${v#pat} ${v%pat} ${v/pat/rep}``: ``*``, ``?``, a backslash, nothing else. Pure.

A pattern is cut at its stars into parts of fixed length, of which each is taken at its first place
(at the end, where the longest is wanted, the last part at its last place). That finds what a
backtracking search would, in time that does not explode. A wildcard does not cross a line's end.
"""

from __future__ import annotations

import re

PATTERN_MAX = 1024


class BadPattern(ValueError):
    """Why a pattern cannot be used."""


def trim_prefix(value: str, pattern: str, *, longest: bool) -> str:
    return value[_end(value, _parts(pattern), longest=longest) :]


def trim_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """The same from the other end, with both turned round."""
    parts = [part[::-1] for part in reversed(_parts(pattern))]
    end = _end(value[::-1], parts, longest=longest)
    return value[: len(value) - end]


def replace(value: str, pattern: str, new: str, *, everywhere: bool, limit: int) -> str:
    """The first match, or all, each as long as can be; an empty pattern matches between letters."""
    parts = _parts(pattern)
    first = _regex([parts[0]], longest=False)
    whole = _regex(parts, longest=True)
    out: list[str] = []
    size = place = copied = 0
    last = -1
    while place <= len(value):
        begin = first.search(value, place)
        if begin is None:
            break
        match = whole.match(value, begin.start())
        if match is None:
            # The other parts do not follow on this line; a later start on it has no better chance.
            newline = value.find("\n", begin.end())
            if newline < 0:
                break
            place = max(begin.start() + 1, newline - len(parts[0]) + 1)
            continue
        place = match.end()
        if match.end() == match.start():
            place += 1
            if match.start() == last:
                continue
        out += [value[copied : match.start()], new]
        size += match.start() - copied + len(new)
        if size > limit:
            raise BadPattern(f"it becomes longer than {limit >> 10} KiB")
        copied = last = match.end()
        if not everywhere:
            break
    return "".join((*out, value[copied:]))


def _end(value: str, parts: list[list[str]], *, longest: bool) -> int:
    """Where a match that begins at the start ends; 0 where there is none."""
    match = _regex(parts, longest=longest).match(value)
    return match.end() if match else 0


def _regex(parts: list[list[str]], *, longest: bool) -> re.Pattern[str]:
    texts = ["".join("." if not char else re.escape(char) for char in part) for part in parts]
    first, *rest = texts
    if not rest:
        return re.compile(first)
    *middle, last = rest
    found = first + "".join(f"(?>.*?{text})" for text in middle)
    return re.compile(found + (f".*{last}" if longest else f".*?{last}"))


def _parts(pattern: str) -> list[list[str]]:
    """Between the stars: characters, ``""`` for any one."""
    if len(pattern) > PATTERN_MAX:
        raise BadPattern(f"a pattern of more than {PATTERN_MAX} characters")
    parts: list[list[str]] = [[]]
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            parts.append([])
        elif char == "?":
            parts[-1].append("")
        elif char == "\\":
            escaped = pattern[place : place + 1]
            if escaped not in ("*", "?", "\\", "}", "/") or not escaped:
                raise BadPattern(f'in the pattern "{pattern}" nothing is escaped by \\{escaped}')
            parts[-1].append(escaped)
            place += 1
        else:
            parts[-1].append(char)
    return parts
