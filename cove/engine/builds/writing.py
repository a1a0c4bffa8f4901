"""A root file system that a step writes into: what is where in it, and files put into it, by cove's
archiver inside the root's own walls."""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import stat
from dataclasses import dataclass

from cove.build.files.entries import FOLDER, Entry
from cove.build.files.select import Place, Placed
from cove.build.files.tars import Gone, Tar
from cove.engine.builds import trees
from cove.engine.builds.gathering import Gathered
from cove.engine.builds.packs import check_room, write_tar
from cove.engine.builds.trees import Tree
from cove.engine.home import Home
from cove.errors import HostError, NotFound

NAMES_MAX = 1 << 20
"""Bytes of /etc/passwd and /etc/group that are read."""
_STAT = re.compile(rb"([0-7]{1,7}) [0-9]{1,18} [^\0]*? ([0-7]{1,7})\0[^\0]*\0([^\0]*)\0", re.DOTALL)
"""Mode, mode of what links lead to; where they lead."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A tree that a step writes into, and the layer that takes it."""

    home: Home
    tree: Tree
    upper: int
    what: str

    def look(self, path: str) -> tuple[int, str]:
        """The mode of what ``path`` leads to, 0 for nothing, and where that is."""
        words = ("stat", f"/{path}")
        with trees.visit(self.home, self.tree, self.upper, words, what=self.what) as archiver:
            said = archiver.read_result()
            try:
                archiver.finish()
            except NotFound:
                return 0, path
        found = _STAT.match(said)
        if found is None:
            raise HostError(f"cannot {self.what}: what is said of /{path} makes no sense")
        mode = int(found[1], 8)
        if not stat.S_ISLNK(mode):
            return mode, path
        return int(found[2], 8), os.fsdecode(found[3]).strip("/")

    def text(self, path: str) -> str:
        """A small file of the tree; empty where there is none."""
        words = ("out", f"/{path}", "file", "1")
        with trees.visit(self.home, self.tree, self.upper, words, what=self.what) as archiver:
            data = bytearray()
            while len(data) < NAMES_MAX and (piece := os.read(archiver.stdout, 1 << 16)):
                data += piece
            if len(data) >= NAMES_MAX:
                raise HostError(f"cannot {self.what}: /{path} is too long")
            try:
                archiver.finish()
            except NotFound:
                return ""
        tar = Tar(io.BytesIO(data), f"/{path}", nothing)
        for member in tar:
            if member.isfile():  # of holes alone it may be, and as long as it likes
                return tar.content(member, NAMES_MAX).decode("utf-8", "surrogateescape")
            break
        return ""

    def is_empty(self, path: str) -> bool:
        """A folder, which is there."""
        words = ("out", f"/{path}", "folder", "1")
        with trees.visit(self.home, self.tree, self.upper, words, what=self.what) as archiver:
            data = bytearray()
            while len(data) < trees.LITTLE and (piece := os.read(archiver.stdout, 1 << 16)):
                data += piece
            if len(data) >= trees.LITTLE:
                return False
            archiver.finish()
        return sum(1 for _ in Tar(io.BytesIO(data), f"/{path}", nothing)) == 1

    def place(self, target: str) -> Place:
        """Where the files go: links of the tree are followed, as BuildKit does."""
        path = posixpath.normpath(target).strip("/")
        if not path or path == ".":
            return Place("", folder=True, exists=True)
        mode, real = self.look(path)
        folder = stat.S_ISDIR(mode)
        return Place(real if folder else path, folder or target.endswith("/"), folder)

    def missing(self, place: Place) -> list[Placed]:
        """Folders that are made on the way to it, the uppermost first."""
        path = place.path if place.folder else posixpath.dirname(place.path)
        found: list[Placed] = []
        while path and not place.exists and not self.look(path)[0]:
            found.insert(0, Placed(Entry("", FOLDER, 0o755), path, made=True))
            path = posixpath.dirname(path)
        return found

    def put(self, found: Gathered, now_ns: int, gone: Gone) -> None:
        """The files, in order."""
        check_room(self.home.store.layout.roots, found.placed)
        for fd, mine in found.parts:
            if not mine:
                continue
            words = ("in", "/", "archive")
            run = trees.visit(self.home, self.tree, self.upper, words, what=self.what, reads=True)
            with run as archiver:
                with contextlib.suppress(BrokenPipeError):  # it says why
                    write_tar(archiver.stdin, fd, mine, now_ns, gone)
                archiver.close_stdin()
                archiver.read_result()
                archiver.finish()


def nothing() -> None:
    pass
