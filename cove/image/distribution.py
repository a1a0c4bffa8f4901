"""What a registry has under a name, without fetching it: its digest and its platforms."""

from __future__ import annotations

from dataclasses import dataclass

from cove.errors import CoveError
from cove.image.lists import Asking
from cove.image.registries import mirrors_of, open_for
from cove.oci.config import parse_config
from cove.oci.manifest import Manifest, Platform, parse_document
from cove.oci.reference import parse_reference
from cove.oci.registry import Registry


@dataclass(frozen=True, slots=True)
class Distributed:
    digest: str
    size: int
    kind: str
    """The media type."""
    platforms: tuple[Platform, ...]


def look(asking: Asking, text: str) -> Distributed:
    """Mirrors are asked first, as by a pull."""
    reference = parse_reference(text)
    name = reference.digest or reference.tag
    for mirror in mirrors_of(asking.store, reference):
        try:
            with open_for(
                asking.store, text, None, asking.tell, asking.stopped, asking.patience,
                "inspect", mirror=mirror,
            ) as (_, registry):  # fmt: skip
                return _look(registry, name, text)
        except CoveError:
            if asking.stopped.is_set():
                raise
    with open_for(
        asking.store, text, asking.credentials(text), asking.tell, asking.stopped, asking.patience,
        "inspect",
    ) as (_, registry):  # fmt: skip
        return _look(registry, name, text)


def _look(registry: Registry, name: str, text: str) -> Distributed:
    document = registry.document(name)
    parsed = parse_document(document.data, f"manifest of {text}")
    if isinstance(parsed, Manifest):
        config = parse_config(registry.config(parsed.config), f"image config of {text}").config
        platforms = [Platform(config.architecture, config.os, config.variant)]
    else:
        platforms = [one.platform for one in parsed.manifests if one.platform is not None]
    return Distributed(document.digest, len(document.data), document.kind, tuple(platforms))
