"""COPY, ADD and WORKDIR: files into a tree, by cove's archiver inside the tree's own walls."""

from __future__ import annotations

import contextlib
import stat

from cove.build.files.entries import FOLDER, Entry
from cove.build.files.select import Owner, Place, Placed, restyled, select
from cove.build.files.tars import Gone
from cove.build.graph.data import CopyStep, WorkdirStep
from cove.build.source import Place as Line
from cove.build.source import misfit
from cove.engine.builds import trees
from cove.engine.builds.gathering import Gathered, Part, Sources, placed
from cove.engine.builds.packs import Pack
from cove.engine.builds.pouring import pour
from cove.engine.builds.trees import Tree
from cove.engine.builds.writing import Writing, nothing
from cove.engine.home import Home
from cove.engine.ranges import RANGE_SIZE
from cove.errors import BadArchive, Unsupported
from cove.store.records import LayerRecord

# ---- whose ----


def owner_of(writing: Writing, text: str, line: Line) -> Owner:
    """``USER[:GROUP]``, by the names that the tree knows."""
    user, _, group = text.partition(":")
    uid, primary = _user(writing, user, line)
    gid = primary
    if group:
        gid = int(group) if _is_number(group) else _group(writing, group, line)
    if max(uid, gid) >= RANGE_SIZE:
        raise misfit(line, f"{max(uid, gid)} is no id of a machine", hint="they end at 65535")
    return Owner(uid, gid)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 11 and int(text) < (1 << 32) - 1


def _user(writing: Writing, user: str, line: Line) -> tuple[int, int]:
    """Its id and its group's; a number alone is both."""
    if _is_number(user):
        return int(user), int(user)
    for fields in _lines(writing.text("etc/passwd")):
        if len(fields) > 3 and fields[0] == user and all(map(_is_number, fields[2:4])):
            return int(fields[2]), int(fields[3])
    raise misfit(line, f'no user is called "{user}" in /etc/passwd there', hint="write its number")


def _group(writing: Writing, group: str, line: Line) -> int:
    for fields in _lines(writing.text("etc/group")):
        if len(fields) > 2 and fields[0] == group and _is_number(fields[2]):
            return int(fields[2])
    raise misfit(line, f'no group is called "{group}" in /etc/group there', hint="write its number")


def _lines(text: str) -> list[list[str]]:
    return [line.split(":") for line in text.splitlines()]


# ---- the steps ----


def copy(
    sources: Sources,
    step: CopyStep,
    parts: list[Part],
    tree: Tree,
    pins: contextlib.ExitStack,
) -> LayerRecord:
    """``--link``: the files alone, whatever they are put onto."""
    home, below = sources.home, Tree() if step.link else tree
    with trees.writable(home) as upper:
        writing = Writing(home, below, upper, f"copy to {step.target}")
        place = writing.place(step.target)
        found = placed(parts, step, place)
        _check_target(step, place, found)
        owner = owner_of(writing, step.chown, step.place) if step.chown else None
        if found.placed and (owner is not None or step.chmod):
            found.parts.insert(0, (-1, writing.missing(place)))
        found.parts = [(fd, restyled(mine, owner, step.chmod)) for fd, mine in found.parts]
        _check_owners(step, found)
        try:
            layer = pour(writing, found, place, sources.clock_ns, sources.gone, pins)
            if layer is not None:
                return layer
            writing.put(found, sources.clock_ns, sources.gone)
        except (BadArchive, Unsupported) as error:
            raise misfit(step.place, error.message.partition(": ")[2]) from error
        return trees.layer_of(home, below, upper, writing.what, pins, own=True)


def whole_of(pack: Pack) -> Gathered:
    """All files of a context."""
    place = Place("", folder=True, exists=True)
    return Gathered([(pack.fd, select(pack.files, "", place, None))])


def whole(
    home: Home, found: Gathered, now_ns: int, gone: Gone, what: str, pins: contextlib.ExitStack
) -> LayerRecord:
    """Files as a layer of its own."""
    with trees.writable(home) as upper:
        writing = Writing(home, Tree(), upper, what)
        writing.put(found, now_ns, gone)
        return trees.layer_of(home, Tree(), upper, what, pins, own=True)


def _check_target(step: CopyStep, place: Place, found: Gathered) -> None:
    files = [one for one in found.placed if one.target == place.path and not one.made]
    if not place.folder and files and len(step.sources) > 1:
        raise misfit(
            step.place,
            f"{step.target} is no folder, and there are more sources than one",
            hint=f"write {step.target}/",
        )
    if not place.folder and len(files) > 1:
        raise misfit(
            step.place,
            f"{step.target} is no folder, and more files than one would be called so",
            hint=f"write {step.target}/",
        )


def _check_owners(step: CopyStep, found: Gathered) -> None:
    """An archive may say anything; a machine has so many ids, and no others in its layers."""
    for one in found.placed:
        highest = max(one.entry.uid, one.entry.gid)
        if highest >= RANGE_SIZE:
            raise misfit(
                step.place,
                f"/{one.target} would be {highest}'s, and ids of a machine end at {RANGE_SIZE - 1}",
                hint="say whose it is: --chown=USER:GROUP",
            )


def workdir(
    home: Home, step: WorkdirStep, tree: Tree, now_ns: int, pins: contextlib.ExitStack
) -> LayerRecord:
    """Makes the folder where it is missing."""
    with trees.writable(home) as upper:
        writing = Writing(home, tree, upper, f"make {step.path}")
        path = step.path.strip("/")
        mode, _ = writing.look(path)
        if mode and not stat.S_ISDIR(mode):
            raise misfit(step.place, f"{step.path} is no folder")
        if not mode:
            owner = owner_of(writing, step.user, step.place) if step.user else Owner(0, 0)
            entry = Entry("", FOLDER, 0o755, owner.uid, owner.gid)
            writing.put(Gathered([(-1, [Placed(entry, path, made=True)])]), now_ns, nothing)
        return trees.layer_of(home, tree, upper, writing.what, pins)
