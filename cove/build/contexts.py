"""``--build-context NAME=VALUE``: files and images that are not in the build context. Pure.

A name is one that FROM and ``--from`` may have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cove.build.graph.sources import git_of
from cove.build.graph.stages import context_name
from cove.errors import UsageError
from cove.oci.reference import parse_reference

FOLDER, IMAGE, LAYOUT, WEB, GIT = "folder", "image", "layout", "web", "git"
_KINDS = {"docker-image://": IMAGE, "oci-layout://": LAYOUT}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Named:
    """One of the command line."""

    name: str
    kind: str
    value: str
    """A path, a reference, a URL; what says the kind is not in front of it any more."""

    @property
    def typed(self) -> str:
        return f"--build-context {self.name}={self.value}"


def parse_context(text: str) -> Named:
    """``NAME=PATH``, or what names an image, an OCI layout, an archive on the web, a repository."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(
            f'cannot use context "{text}": it is NAME=PATH',
            origin=f"--build-context {text}",
            hint="or NAME=docker-image://IMAGE, oci-layout://PATH, a URL of an archive or of git",
        )
    try:
        named = context_name(name)
    except UsageError as error:
        why = error.message.rpartition(": ")[2]
        raise UsageError(
            f'cannot use context "{name}": {why}', origin=f"--build-context {text}"
        ) from None
    for front, kind in _KINDS.items():
        if value.startswith(front):
            rest = value.removeprefix(front)
            if kind == IMAGE:
                parse_reference(rest)
            return Named(named, kind, rest)
    return Named(named, kind_of(value), value)


def kind_of(value: str) -> str:
    """By Docker's rules: git by its scheme, by ``git@`` and by ``.git``, else the web, else a
    directory."""
    if git_of(value) is not None:
        return GIT
    return WEB if value.startswith(("http://", "https://")) else FOLDER


def layout_of(value: str) -> tuple[str, str]:
    """``PATH[:TAG][@DIGEST]``: the path, and which image there; empty: the only one."""
    path, _, digest = value.rpartition("@")
    if path and _DIGEST.fullmatch(digest):
        return path, digest
    path, _, tag = value.rpartition(":")
    if path and "/" not in tag and tag:
        return path, tag
    return value, ""
