"""``.dockerignore``: which paths of a build context are kept. Pure.

The patterns are those of Go's ``filepath.Match`` with ``**`` for any number of folders and ``!``
for what is kept after all; the last one that fits decides, and what fits a folder fits all below
it. What is the same for a whole folder is found out once for it, so a context costs a few
dictionary look-ups and one regular expression a path.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from itertools import groupby

from cove.errors import UsageError

NAME = ".dockerignore"
SIZE_MAX = 1 << 20
PATTERNS_MAX = 10_000
NAME_MAX = 255
"""Characters of a name: no file system has longer ones, and a wildcard tries each."""
_WILD = re.compile(r"[*?\[\]\\]")
_STAR, _FOLDERS = "*", "**"
_STRIPPED = "\t\n\v\f\r \x85\xa0"


def ignore_names(dockerfile: str) -> tuple[str, ...]:
    """Files to look for, the first that is there counts: ``Dockerfile.dockerignore`` beside the
    Dockerfile, then ``.dockerignore`` at the context's root."""
    return (f"{dockerfile}{NAME}", NAME)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line; ``keep`` where it began with ``!``."""

    text: str
    keep: bool
    regex: str
    line: int


class Ignore:
    """The rules of one file. ``kept(path)`` may be asked in any order."""

    def __init__(self, patterns: tuple[Pattern, ...]) -> None:
        self.patterns = patterns
        self.exceptions = any(pattern.keep for pattern in patterns)
        self._runs = tuple(_runs(patterns))
        self._folders: dict[str, tuple[bool, ...]] = {"": (False,) * len(self._runs)}

    def kept(self, path: str) -> bool:
        """Whether ``path``, relative and with slashes, is part of the context. One that no file can
        have is: who makes the file says so.
        """
        if _too_long(path):
            return True
        return not self._judge(path, self._above(path))[0]

    def enters(self, path: str) -> bool:
        """Whether something below the folder ``path`` could be kept."""
        return self.exceptions or self.kept(path)

    def why(self, path: str) -> Pattern | None:
        """The pattern that decided, for messages; None: none fits."""
        if _too_long(path):
            return None
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        for pattern in reversed(self.patterns):
            regex = re.compile(pattern.regex, re.DOTALL)
            if any(regex.fullmatch(one) for one in above):
                return pattern
        return None

    def _above(self, path: str) -> tuple[bool, ...]:
        """What has been found out of the folder that ``path`` is in."""
        missing = []
        folder = path.rpartition("/")[0]
        while folder not in self._folders:
            missing.append(folder)
            folder = folder.rpartition("/")[0]
        found = self._folders[folder]
        for folder in reversed(missing):
            found = self._folders[folder] = self._judge(folder, found)[1]
        return found

    def _judge(self, path: str, above: tuple[bool, ...]) -> tuple[bool, tuple[bool, ...]]:
        """Whether it is ignored, and which runs fit it or a folder above it.

        A run is only asked where it could change the answer, and counts as not fitting otherwise:
        what BuildKit does on its way down, and what decides over files below ``!folder``.
        """
        ignored = False
        found = []
        for fits, run in zip(above, self._runs, strict=True):
            fits = fits or (run.keep == ignored and run.fits(path))
            found.append(fits)
            if fits:
                ignored = not run.keep
        return ignored, tuple(found)


class _Run:
    """Patterns in a row that all ignore, or all keep, sorted so that few are tried for a path."""

    def __init__(self, keep: bool, patterns: list[Pattern]) -> None:
        self.keep = keep
        self.literal: set[str] = set()
        below: dict[str, list[str]] = {}
        ends: dict[str, list[str]] = {"": []}
        for pattern in patterns:
            first, slash, _ = pattern.text.partition("/")
            if not _WILD.search(pattern.text):
                self.literal.add(pattern.text)
            elif slash and not _WILD.search(first):
                below.setdefault(first, []).append(pattern.regex)
            else:
                end = _WILD.split(pattern.text)[-1].lstrip("/")
                ends.setdefault(end, []).append(pattern.regex)
        self.below = {first: _either(texts) for first, texts in below.items()}
        anywhere = ends.pop("")
        self.anywhere = _either(anywhere) if anywhere else None
        self.ends = tuple(ends)
        self.ending = _either([text for texts in ends.values() for text in texts])

    def fits(self, path: str) -> bool:
        if path in self.literal:
            return True
        if self.below:
            regex = self.below.get(path.partition("/")[0])
            if regex and regex.fullmatch(path):
                return True
        if path.endswith(self.ends) and self.ending.fullmatch(path):
            return True
        return self.anywhere is not None and self.anywhere.fullmatch(path) is not None


def _too_long(path: str) -> bool:
    return len(path) > NAME_MAX and max(map(len, path.split("/"))) > NAME_MAX


def _either(texts: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(texts), re.DOTALL)


def _runs(patterns: tuple[Pattern, ...]) -> list[_Run]:
    return [_Run(keep, list(run)) for keep, run in groupby(patterns, lambda one: one.keep)]


def read_ignore(data: bytes, name: str = NAME) -> Ignore:
    """Read a file of patterns, called ``name`` in messages."""
    if len(data) > SIZE_MAX:
        raise _bad(name, 0, "", f"it has more than {SIZE_MAX >> 20} MiB")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#") or not line.strip(_STRIPPED):
            continue
        found.append(_pattern(line.strip(_STRIPPED), name, number))
        if len(found) > PATTERNS_MAX:
            raise _bad(name, number, line, f"it has more than {PATTERNS_MAX} patterns")
    return Ignore(tuple(found))


def _pattern(line: str, name: str, number: int) -> Pattern:
    keep = line.startswith("!")
    text = line[1:].strip(_STRIPPED) if keep else line
    if not text:
        raise _bad(name, number, line, "! stands alone", hint="write !path for what is to be kept")
    text = posixpath.normpath(text)
    text = text.lstrip("/") or "/"
    try:
        return Pattern(text, keep, path_regex(text), number)
    except ValueError as error:
        raise _bad(name, number, line, str(error)) from None


def _bad(name: str, line: int, text: str, why: str, hint: str = "") -> UsageError:
    origin = f"{name}:{line}  {text[:120]}" if line else ""
    return UsageError(f"cannot read {name}: {why}", origin=origin, hint=hint, exit_code=1)


def path_regex(pattern: str) -> str:
    """One pattern as a regular expression that cannot take long.

    Between two wildcards a part is taken at its first place and kept (``(?>...)``): a later one
    could only leave less room. Only a ``**`` inside a word could need the later one.
    """
    head, rest = pattern[:2], pattern[2:]
    if head == "**" and not set(rest) & set("*?[]\\"):
        return f"(?:.*/)?{re.escape(rest[1:])}" if rest[:1] == "/" else f".*{re.escape(rest)}"
    tokens = _tokens(pattern)
    wild = [token for token in tokens if token in (_STAR, _FOLDERS)]
    glued = any(
        token == _FOLDERS and n and tokens[n - 1] not in ("/", _FOLDERS)
        for n, token in enumerate(tokens)
    )
    if not glued:
        return _atomic(tokens)
    # One that follows tries each name once; before it, or two, each place would be tried with each.
    if wild not in ([_FOLDERS], [_FOLDERS, _STAR]):
        raise ValueError("** inside a word beside other wildcards but one that follows is refused")
    return "".join({_STAR: "[^/]*", _FOLDERS: "(?:.*/)?"}.get(token, token) for token in tokens)


def _atomic(tokens: list[str]) -> str:
    """Chains of parts, each behind a ``**``; in a chain, parts that each stand behind a ``*``."""
    chains: list[list[str]] = [[""]]
    for token in tokens:
        if token == _FOLDERS:
            chains.append([""])
        elif token == _STAR:
            chains[-1].append("")
        else:
            chains[-1][-1] += token
    out = _chain(chains[0], last=len(chains) == 1)
    for n, chain in enumerate(chains[1:], 2):
        last = n == len(chains)
        text = f"(?:.*?/)??{_chain(chain, last=last)}"
        out += text if last else f"(?>{text})"
    return out


def _chain(parts: list[str], *, last: bool) -> str:
    first, *rest = parts
    end = f"[^/]*{rest.pop()}" if rest and last else ""
    return first + "".join(f"(?>[^/]*?{part})" for part in rest) + end


def _tokens(pattern: str) -> list[str]:
    """Expressions for one character each, and the wildcards."""
    out: list[str] = []
    place = 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*" and pattern[place : place + 1] == "*":
            place += 2 if pattern[place + 1 : place + 2] == "/" else 1
            out.append(_FOLDERS if place < len(pattern) else ".*")
        elif char == "*":
            out.append(_STAR)
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            place = _class(pattern, place, out)
        elif char == "\\":
            if place == len(pattern):
                raise ValueError("a backslash at its end escapes nothing")
            out.append(re.escape(pattern[place]))
            place += 1
        else:
            out.append(re.escape(char))
    return [t for n, t in enumerate(out) if t not in (_STAR, _FOLDERS) or out[n - 1 : n] != [t]]


def _class(pattern: str, place: int, out: list[str]) -> int:
    """``[a-z]`` and ``[^a-z]``, from behind the bracket."""
    negated = "^" if pattern[place : place + 1] == "^" else ""
    place += len(negated)
    ranges: list[str] = []
    while pattern[place : place + 1] != "]" or not ranges:
        low, place = _member(pattern, place)
        high = low
        if pattern[place : place + 1] == "-":
            high, place = _member(pattern, place + 1)
        if low > high:
            raise ValueError(f"the range {low}-{high} runs backwards")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    out.append(f"[{negated}{''.join(ranges)}]")
    return place + 1


def _member(pattern: str, place: int) -> tuple[str, int]:
    if pattern[place : place + 1] == "\\":
        place += 1
    elif pattern[place : place + 1] in ("-", "]"):
        raise ValueError(f"{pattern[place]} stands alone in [ ]")
    if place >= len(pattern):
        raise ValueError("a [ is not closed")
    return pattern[place], place + 1
