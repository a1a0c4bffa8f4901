"""Changing what is mounted in a machine."""

from __future__ import annotations

import msgspec

from cove.spec.machine import Mount


class MountChange(msgspec.Struct, frozen=True):
    machine: str
    add: tuple[Mount, ...] = ()
    remove: tuple[str, ...] = ()
    """Targets."""


class MountsChanged(msgspec.Struct, frozen=True):
    at_once: bool
    """It has them now; else from its next start on."""
