"""Which part of a context a build needs: what is read of it, and nothing else. Pure."""

from __future__ import annotations

import re

from cove.build.files.select import literal
from cove.build.ignore import Ignore, path_regex


class Wanted:
    """By the patterns of ``Build.context_paths``, less what is ignored."""

    def __init__(self, patterns: tuple[str, ...], ignore: Ignore | None) -> None:
        self.ignore = ignore
        self.everything = "/" in patterns
        self.patterns = tuple(pattern.strip("/") for pattern in patterns)
        self._fits = [re.compile(path_regex(pattern), re.DOTALL) for pattern in self.patterns]
        self._parts = [_parts(pattern) for pattern in self.patterns]

    def more(self, path: str) -> Wanted:
        """And a place that a link of the context leads to."""
        return Wanted((*self.patterns, path), self.ignore)

    def takes(self, path: str, *, inside: bool) -> bool:
        """Whether it is to be sent; ``inside``: in a folder that is taken as a whole."""
        return inside or self.everything or any(one.fullmatch(path) for one in self._fits)

    def kept(self, path: str) -> bool:
        return self.ignore is None or self.ignore.kept(path)

    def enters(self, path: str) -> bool:
        """Whether something below a folder that is not taken could be."""
        mine = path.split("/")
        return any(_leads(mine, parts) for parts in self._parts)

    def looks_into(self, path: str) -> bool:
        return self.ignore is None or self.ignore.enters(path)


def _parts(pattern: str) -> list[re.Pattern[str] | None]:
    """An expression for each part; None: from here on any number of folders."""
    front, rest = literal(pattern)
    parts = [part for part in (*front.split("/"), *rest.split("/")) if part]
    return [None if "**" in part else re.compile(path_regex(part), re.DOTALL) for part in parts]


def _leads(mine: list[str], parts: list[re.Pattern[str] | None]) -> bool:
    for name, part in zip(mine, parts, strict=False):
        if part is None:
            return True
        if not part.fullmatch(name):
            return False
    return len(mine) < len(parts)
