"""Of a COPY of many files: what may stand in the archive of its layer as it is, because the tree
that it goes onto has nothing there. Pure.
"""

from __future__ import annotations

from cove.build.files.entries import FILE, FOLDER
from cove.build.files.select import Place, Placed

MANY = 256
"""Fewer go through the tree in no more time than it takes to look."""
LITTLE = 64 << 10
"""Bytes of a file that may go through the tree in front of the others."""
IDS = 65536
Parts = list[tuple[int, list[Placed]]]
"""Files, each list with the file that their content is in."""


def divided(parts: Parts, place: Place) -> tuple[Parts, Parts] | None:
    """What goes through the tree first, and the rest; None: all of it does.

    The first ones bring ``place`` into the layer with all that leads there, as the tree has it.
    Each of the rest has a name that no other has, in a folder that came before it: no link, and no
    file, is on its way.
    """
    if sum(len(mine) for _, mine in parts) < MANY:
        return None
    first = None
    if not any(one.made and one.target == place.path for _, mine in parts for one in mine):
        first = _first(parts, place) if place.folder else None
        if first is None:
            return None
    ahead: Parts = []
    rest: Parts = []
    folders, names = {place.path}, set()
    for fd, mine in parts:
        left = []
        for one in mine:
            if one.made:
                continue
            folder, _, name = one.target.rpartition("/")
            if folder not in folders or one.target in names or not _is_plain(one, name):
                return None
            names.add(one.target)
            if one.entry.kind == FOLDER:
                folders.add(one.target)
            if one is not first:
                left.append(one)
        ahead.append((fd, [one for one in mine if one.made or one is first]))
        rest.append((fd, left))
    return ahead, rest


def _first(parts: Parts, place: Place) -> Placed | None:
    """One that stands in the folder itself, and costs little."""
    for _, mine in parts:
        for one in mine:
            entry = one.entry
            little = entry.kind != FILE or (entry.size <= LITTLE and not entry.shared)
            if little and one.target.rpartition("/")[0] == place.path:
                return one
    return None


def _is_plain(one: Placed, name: str) -> bool:
    """Whether an archive says of it what a file system would, to everybody who reads it."""
    entry = one.entry
    words = one.target + entry.link
    return (
        not entry.xattrs
        and entry.uid < IDS
        and entry.gid < IDS
        and not name.startswith(".wh.")
        and (words.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in words))
    )
