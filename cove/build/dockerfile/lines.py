"""Physical lines become logical ones: directives, comments, continuations, here-documents. Pure.

Sizes are limited, so that no file costs more than its length: a program's argument may have 128
KiB on Linux, a line here 1 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cove.build.dockerfile import heredoc
from cove.build.dockerfile.heredoc import Heredoc
from cove.build.dockerfile.words import SPACES
from cove.build.source import Place, fault
from cove.errors import UsageError

FILE_MAX = 16 << 20
LINE_MAX = 1 << 20
LINES_MAX = 200_000

DIRECTIVES = ("syntax", "escape", "check")
_DIRECTIVE = re.compile(rf"([a-zA-Z][a-zA-Z0-9]*)[{SPACES}]*=[{SPACES}]*(.+?)[{SPACES}]*")
_CONTINUED = {e: re.compile(rf"(?:(?<=[^{re.escape(e)}])|^){re.escape(e)}[ \t]*$") for e in "\\`"}


@dataclass(frozen=True, slots=True)
class Logical:
    """One instruction's line, put together; ``comments`` stand right above it."""

    place: Place
    text: str
    comments: tuple[str, ...]
    heredocs: tuple[Heredoc, ...]
    gap: bool
    """An empty line stands in its continuation."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A file's instructions, and the directives at its top."""

    directives: dict[str, str]
    logical: tuple[Logical, ...]

    @property
    def escape(self) -> str:
        return self.directives.get("escape", "\\")


def read_lines(data: bytes, name: str) -> Lines:
    """Cut a file; bytes that are no UTF-8 are refused where they are part of an instruction."""
    if len(data) > FILE_MAX:
        raise UsageError(
            f"cannot read {name}: it has {len(data)} bytes, more than {FILE_MAX >> 20} MiB",
            exit_code=1,
        )
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    physical = text.split("\n")
    if len(physical) > LINES_MAX:
        raise UsageError(
            f"cannot read {name}: it has {len(physical)} lines, more than {LINES_MAX}", exit_code=1
        )
    directives = _directives(physical, name)
    escape = directives.get("escape", "\\")
    return Lines(directives, tuple(_Reader(physical, name, escape, len(directives))))


def _directives(physical: list[str], name: str) -> dict[str, str]:
    """``# escape=...`` and its like; the first line that is none ends them."""
    found: dict[str, str] = {}
    for number, line in enumerate(physical, 1):
        line = line.rstrip("\r").strip(SPACES)
        match = _DIRECTIVE.fullmatch(line[1:].lstrip(SPACES)) if line.startswith("#") else None
        if match is None or match[1].lower() not in DIRECTIVES:
            break
        key, value = match[1].lower(), match[2]
        place = Place(name, number, number, line)
        if key in found:
            raise fault(place, f"the directive {key} stands there twice")
        if key == "escape" and value not in ("\\", "`"):
            raise fault(
                place,
                f'escape "{value}" is neither \\ nor `',
                hint="write # escape=` or leave it out",
            )
        found[key] = value
    return found


class _Reader:
    """Goes over the physical lines once."""

    def __init__(self, physical: list[str], name: str, escape: str, start: int) -> None:
        self.physical, self.name, self.escape = physical, name, escape
        self.continued = _CONTINUED[escape]
        self.next = start

    def __iter__(self) -> Iterator[Logical]:
        comments: list[str] = []
        while self.next < len(self.physical):
            start = self.next
            line = self._line().lstrip(SPACES)
            comment = line[1:].strip(SPACES) if line.startswith("#") else ""
            if comment:
                comments.append(comment)
                continue
            if line and line[0] != "#":
                yield self._logical(start, line, tuple(comments))
            comments = []

    def _line(self) -> str:
        return self._next().rstrip("\r")

    def _next(self) -> str:
        line = self.physical[self.next]
        self.next += 1
        if len(line) > LINE_MAX:
            place = Place(self.name, self.next, self.next, line[:200])
            raise fault(place, f"a line of {len(line)} characters, more than {LINE_MAX}")
        return line

    def _logical(self, start: int, line: str, comments: tuple[str, ...]) -> Logical:
        parts, gap, size = [], False, 0
        going = True
        while going:
            match = self.continued.search(line)
            parts.append(line[: match.start()] if match else line)
            size += len(line)
            going = match is not None
            while going and self.next < len(self.physical):
                line = self._line()
                bare = line.lstrip(SPACES)
                if bare and not bare.startswith("#"):
                    break
                # The end of the file, after its last line feed, is no empty line.
                gap |= not bare and self.next < len(self.physical)
            else:
                going = False
            if size > LINE_MAX:
                place = self._place(start)
                raise fault(place, f"an instruction of more than {LINE_MAX} characters")
        text = "".join(parts)
        heredocs = self._heredocs(start, text)
        place = self._place(start)
        _check_text(place, text, heredocs)
        return Logical(place, text, comments, heredocs, gap)

    def _place(self, start: int) -> Place:
        text = "\n".join(self.physical[start : self.next])
        return Place(self.name, start + 1, self.next, text)

    def _heredocs(self, start: int, text: str) -> tuple[Heredoc, ...]:
        return tuple(self._body(start, doc) for doc in heredoc.openings(text, self.escape))

    def _body(self, start: int, doc: Heredoc) -> Heredoc:
        first = self.next
        while self.next < len(self.physical):
            if doc.ends_at(self._next()):
                lines = self.physical[first : self.next - 1]
                return doc.filled("".join(f"{line}\n" for line in lines))
        end = min(first, start + 1)
        place = Place(self.name, start + 1, end, self.physical[start])
        raise fault(
            place,
            f'the here-document "{doc.name}" has no end',
            hint=f"write {doc.name} on a line of its own"
            + ("" if doc.chomp else ", without blanks in front"),
        )


def _check_text(place: Place, text: str, heredocs: tuple[Heredoc, ...]) -> None:
    for part in (text, *(doc.content for doc in heredocs)):
        if "\0" in part:
            raise fault(place, "it contains a NUL character")
        if not part.isascii() and any("\udc80" <= char <= "\udcff" for char in part):
            raise fault(place, "it is not UTF-8")
