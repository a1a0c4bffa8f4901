"""Did you mean: the known word nearest to a mistyped one. Pure."""

from __future__ import annotations

from collections.abc import Iterable


def distance(left: str, right: str, limit: int = 3) -> int:
    """Edits from ``left`` to ``right`` (a swap of neighbours is one); ``limit`` + 1 when there are
    more."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    last = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
        before, last = last, row
    return last[-1]


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word meant by ``word``, or ``""`` when none is near."""
    word = word.lower()
    limit = 1 if len(word) <= 4 else 2 if len(word) <= 8 else 3
    best, found = limit + 1, ""
    for candidate in known:
        low = candidate.lower()
        edits = distance(word, low, limit)
        if edits > limit and _begins_alike(word, low):
            edits = limit
        if edits < best:
            best, found = edits, candidate
    return found


def nearest_variable(name: str, known: Iterable[str]) -> str:
    """The variable meant by one that is not defined, or ``""``: BuildKit's measure, two edits in
    the same casing."""
    best, found = 3, ""
    for candidate in known:
        edits = distance(name, candidate, 2)
        if edits < best:
            best, found = edits, candidate
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint for a mistyped word: ``did you mean start?``, or ``""``."""
    found = nearest(word, known)
    return f"did you mean {found}?" if found else ""


def _begins_alike(left: str, right: str) -> bool:
    """Three quarters of the mistyped word, four letters at least, begin the other."""
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    return same >= max(4, len(left) * 3 // 4)
