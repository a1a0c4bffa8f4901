"""How a line is cut: keyword, flags, words, quotes, JSON lists. Pure.

BuildKit has three ways to cut what follows the flags: at blanks, at blanks outside quotes (which
stay, for the expansion to take off), or as a JSON list of strings.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""What Go calls white space; Python also counts the separators 0x1c to 0x1f."""

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_JSON = msgspec.json.Decoder()


class NotStrings(ValueError):
    """A JSON list with something else than strings in it."""


def split_keyword(line: str) -> tuple[str, str]:
    """``RUN`` and the rest."""
    keyword, *rest = _BLANKS.split(line.strip(SPACES), maxsplit=1)
    return keyword, rest[0] if rest else ""


def split_blanks(text: str) -> list[str]:
    return _BLANKS.split(text) if text else []


def split_first(text: str) -> tuple[str, str | None]:
    """The first word, and what follows the blanks after it."""
    first, *rest = _BLANKS.split(text, maxsplit=1)
    return first, rest[0] if rest else None


@lru_cache(maxsize=2)
def _quoted(escape: str) -> re.Pattern[str]:
    """A word that may hold quoted parts; what is not closed ends with the line."""
    e = re.escape(escape)
    return re.compile(
        rf"""(?:{e}(?:.|\Z)|'[^']*+(?:'|\Z)|"(?:{e}.|[^"{e}])*+(?:"|{e}?\Z)|[^{SPACES}'"{e}])++""",
        re.DOTALL,
    )


def split_quoted(text: str, escape: str) -> list[str]:
    """Words at blanks outside quotes; quotes and escapes stay. A last, lone escape is dropped."""
    words = _quoted(escape).findall(text)
    if words and text.endswith(escape):
        last = words[-1]
        if (len(last) - len(last.rstrip(escape))) % 2:
            words[-1] = last[:-1]
    return [word for word in words if word]


def take_flags(text: str, escape: str) -> tuple[list[str], str]:
    """The words in front that begin with ``--``, without quotes and escapes, and the rest.

    ``--`` alone ends them.
    """
    flags: list[str] = []
    place = 0
    while True:
        rest = text[place:].lstrip(SPACES)
        if not rest.startswith("--"):
            return flags, rest.strip(SPACES)
        place = len(text) - len(rest)
        word, place = _flag(text, place, escape)
        if word == "--":
            return flags, text[place:].strip(SPACES)
        flags.append(word)


def _flag(text: str, place: int, escape: str) -> tuple[str, int]:
    """One flag from ``place`` on, and where it ends."""
    found: list[str] = []
    quote = ""
    while place < len(text):
        char = text[place]
        if char == escape:
            place += 1
            found.append(text[place : place + 1])
        elif char == quote:
            quote = ""
        elif quote:
            found.append(char)
        elif char in "'\"":
            quote = char
        elif char in SPACES:
            break
        else:
            found.append(char)
        place += 1
    return "".join(found), place


def json_words(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON list; None where ``text`` is no list, so that it means a shell's line.

    A list that holds anything else is a mistake, not a shell's line.
    """
    if not text.lstrip(SPACES).startswith("["):
        return None
    try:
        found = _JSON.decode(text.encode("utf-8", "surrogateescape"))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    if not all(isinstance(word, str) for word in found):
        raise NotStrings
    return tuple(found)
