"""Changing the ports that a machine publishes."""

from __future__ import annotations

import msgspec

from cove.store.records import Published


class PortChange(msgspec.Struct, frozen=True):
    machine: str
    ports: tuple[str, ...]
    """As ``-p`` has them."""
    remove: bool = False


class Ports(msgspec.Struct, frozen=True):
    """What it publishes now; nothing while it does not run."""

    published: tuple[Published, ...]
