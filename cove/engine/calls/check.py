"""``system check``: what is asked, what is found."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True):
    repair: bool = False


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as its record says, or that no record names."""

    kind: str
    """database, blob, layer, image, tag, machine; of what no record names: directory, file, socket,
    group, range, partial.
    """
    name: str
    problem: str
    means: str = ""
    """What follows from it, for people."""
    mended: str = ""
    """What was done about it; empty: nothing."""
    hint: str = ""


class Checked(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step of the check, or a finding."""

    stage: str
    """database, images, blobs, layers, machines, strays; done at the end."""
    current: int = 0
    total: int = 0
    finding: Finding | None = None
