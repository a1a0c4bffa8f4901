"""The contexts of a build as they come with what is asked: those with names, then the build
context itself.
"""

from __future__ import annotations

import contextlib
import errno
import os

from cove.build.files.entries import Files
from cove.build.files.tars import Gone
from cove.build.ignore import read_ignore
from cove.engine.builds.packs import (
    PIECE,
    Pack,
    decode,
    nameless,
    read_files,
    read_sent,
    read_tar,
    room,
    write_all,
)
from cove.engine.calls.build import ImageBuild
from cove.engine.home import Home
from cove.errors import printable
from cove.image.pipeline import system_error
from cove.oci.archive import Span


def received(
    home: Home, params: ImageBuild, body: int, out: int, stack: contextlib.ExitStack, gone: Gone
) -> tuple[Pack, dict[str, Pack]]:
    """What was sent of the build context goes into ``out``; the files of the others are closed by
    ``stack``."""
    names = [name for name, kind in params.contexts.items() if kind == "files"]
    if not names or body < 0:
        return Pack(out, _context(params, body, out, gone)), {}
    named: dict[str, Pack] = {}
    with open(body, "rb", buffering=PIECE, closefd=False) as stream:
        for name in names:
            fd = stack.enter_context(nameless(home.store))
            named[name] = Pack(fd, read_files(stream, fd, gone, f"the context {printable(name)}"))
        if params.context == "files":
            return Pack(out, read_files(stream, out, gone)), named
        with nameless(home.store) as rest:  # of a pipe, some of which was read already
            left = room(rest)
            while data := stream.read(PIECE):
                gone()
                left -= len(data)
                if left < 0:
                    raise system_error("the build context", errno.ENOSPC, "")
                write_all(rest, data)
            os.lseek(rest, 0, os.SEEK_SET)
            return Pack(out, _context(params, rest, out, gone)), named


def _context(params: ImageBuild, body: int, out: int, gone: Gone) -> Files:
    if params.context == "none" or body < 0:
        return Files()
    if params.context == "files":
        return read_sent(body, out, gone)
    decode(Span(body, -1, -1), out, "the build context")
    files = read_tar(out, "the build context", gone)
    if not params.ignore:
        return files
    rules = read_ignore(params.ignore, params.ignore_name)
    kept = (one for path, one in files.by_path.items() if path and rules.kept(path))
    return Files(kept, what="the build context", gone=gone)
