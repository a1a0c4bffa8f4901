"""Where the static program of ``init/`` is installed, and which build it is."""

from __future__ import annotations

import os

_INSTALLED = os.path.join(os.path.dirname(os.path.dirname(__file__)), "_native", "cove-init")
_MARK = b"cove-stamp:"


def init_program() -> str:
    """``COVE_INIT``, or the one that came with this package."""
    return os.environ.get("COVE_INIT") or _INSTALLED


def build_stamp() -> str:
    """Version and time of this installation, as its front says them; empty: it has none."""
    return stamp_of(init_program())


def stamp_of(program: str) -> str:
    """Of any build of the program; empty: it has none, or is not there."""
    try:
        with open(program, "rb") as file:
            data = file.read()
    except OSError:
        return ""
    return data.partition(_MARK)[2][:64].partition(b"\0")[0].decode("ascii", "replace")


def is_older(stamp: str, other: str) -> bool:
    """Whether the build ``stamp`` has to make way for ``other``: of the same version, the later."""
    return bool(other) and _order(stamp) < _order(other)


def _order(stamp: str) -> tuple[tuple[int, ...], int]:
    version, _, changed = stamp.partition(" ")
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers), int(changed) if changed.isdigit() else 0
