"""Where an image may be, as skopeo spells it: ``docker://web:1``, ``oci:DIR:TAG``,
``oci-archive:FILE:TAG``, ``docker-archive:FILE:NAME``; what has no such word in front of it is a
reference, to a registry. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from cove.errors import Unsupported, UsageError
from cove.oci.reference import parse_reference

REGISTRY = "docker"
DIRECTORY = "oci"
LOCAL = (DIRECTORY, "oci-archive", "docker-archive")
ELSEWHERE = ("dir", "containers-storage", "docker-daemon", "ostree", "sif", "tarball")
"""Those of skopeo that are not here."""


@dataclass(frozen=True, slots=True)
class Place:
    text: str
    """As it was typed."""
    kind: str
    path: str = ""
    """Of a file or directory."""
    name: str = ""
    """Which image there; of a registry the whole reference."""

    @property
    def local(self) -> bool:
        return self.kind in LOCAL


def parse_place(text: str) -> Place:
    kind, colon, rest = text.partition(":")
    if colon and rest.startswith("//") and kind == REGISTRY:
        parse_reference(rest[2:])
        return Place(text, REGISTRY, name=rest[2:])
    if colon and kind in LOCAL:
        path, _, name = rest.partition(":")
        if not path:
            raise UsageError(
                f'cannot use "{text}": it names no {"directory" if kind == DIRECTORY else "file"}',
                origin=text,
                hint=f"write {kind}:PATH or {kind}:PATH:NAME",
            )
        return Place(text, kind, path, name)
    if colon and (kind in ELSEWHERE or rest.startswith("//")):
        raise Unsupported(
            f'cannot use "{text}": images are not taken from or brought to {kind}: here',
            origin=text,
            hint=f"use docker://NAME, {', '.join(f'{known}:PATH' for known in LOCAL)}",
        )
    parse_reference(text)
    return Place(text, REGISTRY, name=text)
