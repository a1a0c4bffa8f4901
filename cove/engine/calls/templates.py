"""The verbs of templates: guests that have booted, of which virtual machines are clones."""

from __future__ import annotations

import msgspec

from cove.vm.templates import Template


class TemplateList(msgspec.Struct, frozen=True):
    pass


class TemplatesListed(msgspec.Struct, frozen=True):
    """Newest first."""

    templates: tuple[Template, ...]
    ready: tuple[bool, ...]
    """Of each: whether a start would take it; otherwise kernel, agent or QEMU are others by now."""
    warm: tuple[int, ...] = ()
    """Of each: how many clones wait for a machine."""


class TemplateRemove(msgspec.Struct, frozen=True):
    template: str
    """Its key, or the beginning of it."""


class TemplateRemoved(msgspec.Struct, frozen=True):
    key: str
