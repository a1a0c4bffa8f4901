"""Copies of writable layers, by cove's own copier (``init/copy.c``): exact, and confined. A staging
directory takes each; it is the caller's to install or to remove.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Sequence

from cove.errors import Conflict, CoveError, HostError, Unsupported, printable
from cove.linux.program import init_program
from cove.store.lock import ROOM

REFUSED, LIMIT, FULL = 5, 6, 7
"""Exit codes, of ``enum verdict`` in ``init/unpack.h``."""


def copy_uppers(
    sources: Sequence[str],
    staging: str,
    *,
    what: str,
    views: int = 0,
    hollow: bool = False,
    cancelled: threading.Event | None = None,
) -> None:
    """``staging`` becomes a writable layer: what ``sources``, lowest first, come to together.
    ``hollow``: files have their sizes, and nothing in them.
    """
    os.mkdir(staging, 0o700)
    for part in ("fs", *(f"v{i}" for i in range(views))):
        there = [f"{source}/{part}" for source in sources if os.path.isdir(f"{source}/{part}")]
        if there:
            _copy(part, there, staging, what, "hollow" if hollow else "whole", cancelled)


def copy_tree(
    source: str, staging: str, part: str, *, what: str, cancelled: threading.Event | None = None
) -> None:
    """``staging/part`` becomes what ``source`` is; blocks are shared where the file system can."""
    os.mkdir(staging, 0o700)
    _copy(part, [source], staging, what, "whole", cancelled)


def _copy(
    part: str,
    sources: list[str],
    staging: str,
    what: str,
    mode: str,
    cancelled: threading.Event | None,
) -> None:
    argv = [init_program(), "copy", staging, part, mode, *sources]
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd="/", env={},
        )  # fmt: skip
    except OSError as error:
        raise HostError(f"cannot {what}: {(error.strerror or '').lower()}") from error
    with child:
        while True:
            try:
                _, complaint = child.communicate(timeout=0.1 if cancelled is not None else None)
                break
            except subprocess.TimeoutExpired:
                if cancelled is not None and cancelled.is_set():
                    child.kill()
        if child.returncode:
            if cancelled is not None and cancelled.is_set():
                raise Conflict(f"cannot {what}: interrupted", exit_code=130)
            raise _error(child.returncode, complaint, what)


def _error(code: int, complaint: bytes, what: str) -> CoveError:
    text = complaint.decode("utf-8", "backslashreplace").strip().removeprefix("unpack: ")
    reason = printable(text) or f"its process ended with {code}"
    if code == FULL:
        return HostError(f"cannot {what}: {os.strerror(errno.ENOSPC).lower()}", hint=ROOM)
    if code in (REFUSED, LIMIT):
        return Unsupported(f"cannot {what}: {reason}")
    return HostError(f"cannot {what}: {reason}")
