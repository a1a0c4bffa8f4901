"""``--chmod``: octal, or as chmod(1) writes it. Pure."""

from __future__ import annotations

import re

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]+|[ugo])?)+)")
_ACTION = re.compile(r"([-+=])([rwxXst]*|[ugo])(?=[-+=]|$)")
_WHO = {"u": (6, 0o4000), "g": (3, 0o2000), "o": (0, 0)}


def changed(mode: int, text: str, *, folder: bool) -> int:
    """``mode`` with ``text``, which has been checked for its form, applied to it."""
    if text.isdigit():
        return int(text, 8) & 0o7777
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            continue
        who = "ugo" if not match[1] or "a" in match[1] else match[1]
        for action, what in _ACTION.findall(match[2]):
            mode = _applied(mode, who, action, what, folder=folder)
    return mode


def _applied(mode: int, who: str, action: str, what: str, *, folder: bool) -> int:
    bits = mask = 0
    for one in who:
        shift, special = _WHO[one]
        bits |= _bits(mode, what, shift, special, folder=folder)
        mask |= (0o7 << shift) | special
    if "t" in what and what not in ("u", "g", "o"):
        bits |= 0o1000
    if action == "+":
        return mode | bits
    if action == "-":
        return mode & ~bits
    return (mode & ~mask) | bits


def _bits(mode: int, what: str, shift: int, special: int, *, folder: bool) -> int:
    if what in ("u", "g", "o") and what:
        return ((mode >> _WHO[what][0]) & 0o7) << shift
    found = 0
    for one in what:
        if one in "rwx":
            found |= {"r": 4, "w": 2, "x": 1}[one] << shift
        elif one == "X" and (folder or mode & 0o111):
            found |= 1 << shift
        elif one == "s":
            found |= special
    return found
