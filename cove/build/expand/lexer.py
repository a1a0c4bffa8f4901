"""The lexer of BuildKit's shell words: a word and an environment give text. Pure.

Three ways to use it: ``expand`` (one word; quotes are taken off), ``expand_words`` (what comes out
is split at blanks outside quotes: EXPOSE), ``expand_text`` (a here-document of COPY; quotes stay).
The words of a modifier are expanded before it is known whether they are used, as BuildKit has it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from cove.build.expand.patterns import BadPattern, replace, trim_prefix, trim_suffix
from cove.spec.suggest import did_you_mean

WORD_MAX = 128 << 10
"""What Linux lets one argument or variable of a program have."""
TEXT_MAX = 16 << 20
DEPTH_MAX = 64

_NAME = re.compile(r"\d+|[@*#?\-$!]|[^\W\d]\w*")
_BLANK = re.compile(r"[\s\x85]+")


class BadExpansion(ValueError):
    """Why a word cannot be expanded; ``hint`` is one thing to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Expansion:
    """What came out, which variables had a value, and which had none."""

    text: str
    used: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()


def expand(text: str, env: Mapping[str, str], *, escape: str = "\\") -> Expansion:
    """One word, without its quotes."""
    if not _special(escape).search(text):
        return Expansion(_fits(text, WORD_MAX))
    lexer = _Lexer(text, env, escape, quotes=True, limit=WORD_MAX)
    pieces = lexer.run("", raw=False, depth=0)
    out = "".join(piece for piece, _ in pieces)
    return Expansion(out, frozenset(lexer.used), frozenset(lexer.missing))


def expand_text(text: str, env: Mapping[str, str]) -> Expansion:
    """A here-document: quotes are text, and a backslash escapes whatever the file says."""
    lexer = _Lexer(text, env, "\\", quotes=False, limit=TEXT_MAX)
    out = "".join(piece for piece, _ in lexer.run("", raw=False, depth=0))
    return Expansion(out, frozenset(lexer.used), frozenset(lexer.missing))


def expand_words(text: str, env: Mapping[str, str], *, escape: str = "\\") -> tuple[str, ...]:
    """Words, split after expansion at blanks that stand in no quotes."""
    lexer = _Lexer(text, env, escape, quotes=True, limit=WORD_MAX)
    found, word = [], ""
    for piece, splits in lexer.run("", raw=False, depth=0):
        first, *rest = _BLANK.split(piece) if splits else [piece]
        word += first
        for part in rest:
            found.append(word)
            word = part
    return tuple(one for one in (*found, word) if one)


def _fits(text: str, limit: int) -> str:
    if len(text) > limit:
        raise BadExpansion(f"it becomes longer than {limit >> 10} KiB")
    return text


@lru_cache(maxsize=8)
def _special(escape: str) -> re.Pattern[str]:
    return re.compile(rf"[$'\"{re.escape(escape)}]")


@lru_cache(maxsize=32)
def _plain(escape: str, stop: str, quotes: bool) -> re.Pattern[str]:
    """A run of characters that mean themselves."""
    special = re.escape("$" + escape + stop) + ("'\"" if quotes else "")
    return re.compile(f"[^{special}]+")


_Pieces = list[tuple[str, bool]]
"""Text, and whether blanks in it separate words."""


class _Lexer:
    """Goes over a text once; ``place`` only grows."""

    def __init__(
        self, text: str, env: Mapping[str, str], escape: str, *, quotes: bool, limit: int
    ) -> None:
        self.text, self.env, self.escape = text, env, escape
        self.quotes, self.limit = quotes, limit
        self.place = self.size = 0
        self.used: set[str] = set()
        self.missing: set[str] = set()

    def run(self, stop: str, *, raw: bool, depth: int) -> _Pieces:
        """Up to ``stop``, which is passed over, or to the end; ``raw`` keeps escapes."""
        if depth > DEPTH_MAX:
            raise BadExpansion(f"${{}} stand in each other more than {DEPTH_MAX} deep")
        pieces: _Pieces = []
        plain = _plain(self.escape, stop, self.quotes)
        while self.place < len(self.text):
            match = plain.match(self.text, self.place)
            if match:
                self.place = match.end()
                self._add(pieces, match[0], splits=True)
                continue
            char = self.text[self.place]
            if char == stop:
                self.place += 1
                return pieces
            if char == "$":
                self._add(pieces, self._dollar(raw, depth), splits=True)
            elif char == self.escape:
                self._add(pieces, self._escaped(raw), splits=False)
            elif char == "'":
                self._add(pieces, self._single(), splits=False)
            else:
                self._add(pieces, self._double(raw, depth), splits=False)
        if stop:
            raise BadExpansion(
                f'"{stop}" is missing after ${{',
                hint="close it; around blanks there have to be quotes",
            )
        return pieces

    def _add(self, pieces: _Pieces, text: str, *, splits: bool) -> None:
        self.size += len(text)
        if self.size > self.limit:
            raise BadExpansion(f"it becomes longer than {self.limit >> 10} KiB")
        pieces.append((text, splits))

    def _peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def _escaped(self, raw: bool) -> str:
        """The escape character and the next one; alone at the end it is dropped."""
        both = self.text[self.place : self.place + 2]
        self.place += len(both)
        return both if raw else both[1:]

    def _single(self) -> str:
        end = self.text.find("'", self.place + 1)
        if end < 0:
            raise BadExpansion("a ' is not closed")
        start, self.place = self.place + 1, end + 1
        return self.text[start:end]

    def _double(self, raw: bool, depth: int) -> str:
        """Only ``"``, ``$`` and the escape character itself are escaped here."""
        self.place += 1
        pieces: _Pieces = []
        plain = _plain(self.escape, '"', False)
        while self.place < len(self.text):
            match = plain.match(self.text, self.place)
            if match:
                self.place = match.end()
                self._add(pieces, match[0], splits=False)
                continue
            char = self._peek()
            if char == '"':
                self.place += 1
                text = "".join(piece for piece, _ in pieces)
                self.size -= len(text)
                return text
            if char == "$":
                self._add(pieces, self._dollar(raw, depth), splits=False)
                continue
            following = self.text[self.place + 1 : self.place + 2]
            if following and following in ('"', "$", self.escape):
                self._add(pieces, self._escaped(raw), splits=False)
            else:
                self.place += 1
                self._add(pieces, char, splits=False)
        raise BadExpansion('a " is not closed')

    def _value(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.missing if value is None else self.used).add(name)
        return value

    def _name(self) -> str:
        match = _NAME.match(self.text, self.place)
        if match is None:
            return ""
        self.place = match.end()
        return match[0]

    def _dollar(self, raw: bool, depth: int) -> str:
        self.place += 1
        if self._peek() != "{":
            name = self._name()
            return (self._value(name) or "") if name else "$"
        start = self.place - 1
        self.place += 1
        if self._peek() in ("", "{", "}", ":"):
            raise BadExpansion("${ is not followed by a name", hint="write ${name}, or \\$ for $")
        name = self._name()
        sign = self._peek()
        self.place += 1
        if sign == "}":
            return self._value(name) or ""
        strict = sign == ":"
        if strict:
            sign = self._peek()
            self.place += 1
        known = "+-?" if strict else "+-?#%/"
        if not name or not sign or sign not in known:
            shown = self.text[start : start + 40]
            raise BadExpansion(
                f"{shown} has no known modifier",
                hint="there are :- - :+ + :? ? # ## % %% / //; a name has letters, digits and _",
            )
        return self._modified(name, sign, strict, depth)

    def _inner(self, stop: str, *, raw: bool, depth: int) -> str:
        """The text of a modifier; it counts only if it comes out."""
        before = self.size
        text = "".join(piece for piece, _ in self.run(stop, raw=raw, depth=depth + 1))
        self.size = before
        return text

    def _modified(self, name: str, sign: str, strict: bool, depth: int) -> str:
        if sign == "/":
            return self._replaced(name, depth)
        word = self._inner("}", raw=sign in "#%", depth=depth)
        value = self._value(name)
        empty = value is None or (strict and not value)
        if sign == "-":
            return word if value is None or empty else value
        if sign == "+":
            return "" if empty else word
        if sign == "?":
            if value is None or empty:
                raise self._required(name, word, unset=value is None)
            return value
        longest = word.startswith(sign)
        trim = trim_suffix if sign == "%" else trim_prefix
        try:
            return trim(value or "", word[1:] if longest else word, longest=longest)
        except BadPattern as error:
            raise BadExpansion(str(error)) from None

    def _required(self, name: str, word: str, *, unset: bool) -> BadExpansion:
        hint = did_you_mean(name, self.env) or f"give it: --build-arg {name}=..."
        return BadExpansion(word or f"{name} is {'not set' if unset else 'empty'}", hint)

    def _replaced(self, name: str, depth: int) -> str:
        everywhere = self._peek() == "/"
        self.place += everywhere
        pattern = self._inner("/", raw=True, depth=depth)
        new = self._inner("}", raw=True, depth=depth)
        try:
            return replace(
                self._value(name) or "", pattern, new, everywhere=everywhere, limit=self.limit
            )
        except BadPattern as error:
            raise BadExpansion(str(error)) from None
