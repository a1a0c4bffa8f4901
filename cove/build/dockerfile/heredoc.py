"""Here-documents: which a line opens, and how their bodies are read. Pure.

Only RUN, COPY and ADD may open them, also behind ONBUILD, and not in their JSON form. The escape
character of a here-document's word is always a backslash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cove.build.dockerfile import words
from cove.build.dockerfile.words import SPACES

KEYWORDS = ("RUN", "COPY", "ADD")

_WORD = re.compile(
    rf"""(?:\\(?:.|\Z)|'[^']*+'|"(?:\\.|[^"\\])*+"|<<[\t\r ]*+|[^{SPACES}'"\\])++""", re.DOTALL
)
_OPENING = re.compile(rf"(\d*)<<(-?)[{SPACES}]*([^<]*)", re.DOTALL)
_PIECE = re.compile(r"""\\(.?)|'([^']*)'|"((?:\\.|[^"\\])*)"|([^'"\\]+)""", re.DOTALL)
_IN_QUOTES = re.compile(r'\\(["$\\])')
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """``<<-"NAME"``: the quotes make ``expand`` false, the dash makes ``chomp`` true."""

    name: str
    expand: bool
    chomp: bool
    content: str = ""

    @property
    def body(self) -> str:
        """What a program is given: without the tabs in front that ``<<-`` takes away."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content

    def filled(self, content: str) -> Heredoc:
        return replace(self, content=content)

    def ends_at(self, line: str) -> bool:
        line = line.rstrip("\r\n")
        return (line.lstrip("\t") if self.chomp else line) == self.name


def openings(line: str, escape: str) -> tuple[Heredoc, ...]:
    """The here-documents whose bodies follow ``line``."""
    if "<<" not in line:
        return ()
    keyword, rest = words.split_keyword(line)
    if keyword.upper() == "ONBUILD":
        keyword, rest = words.split_keyword(words.take_flags(rest, escape)[1])
    if keyword.upper() not in KEYWORDS:
        return ()
    try:
        if words.json_words(words.take_flags(rest, escape)[1]) is not None:
            return ()
    except words.NotStrings:
        return ()
    found, place = [], 0
    for match in _WORD.finditer(line):
        if line[place : match.start()].strip(SPACES):
            return ()  # a quote that is never closed: BuildKit finds none in such a line
        place = match.end()
        found.append(opening(match[0]))
    if line[place:].strip(SPACES):
        return ()
    return tuple(doc for doc in found if doc is not None)


def opening(word: str) -> Heredoc | None:
    """What ``<<EOF`` opens; None for any other word."""
    match = _OPENING.fullmatch(word)
    if match is None:
        return None
    named = _WORD.findall(match[3])
    if len(named) != 1 or match[3].strip(SPACES) != named[0]:
        return None
    name, quoted = _unquoted(named[0])
    return Heredoc(name, not quoted, match[2] == "-") if name else None


def _unquoted(word: str) -> tuple[str, bool]:
    found, quoted = [], False
    for piece in _PIECE.finditer(word):
        escaped, single, double, plain = piece.groups()
        if double is not None:
            found.append(_IN_QUOTES.sub(r"\1", double))
        else:
            found.append(escaped or single or plain or "")
        quoted |= single is not None or double is not None
    return "".join(found), quoted
