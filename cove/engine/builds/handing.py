"""Caches that come from elsewhere and go there: as images, which every other verb can carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from cove.build.handing import FIELD, LAYERS_MAX, field_of, records_of
from cove.engine.builds.conduct import Done, Site
from cove.engine.builds.conduct import stamp as stamp_of
from cove.engine.home import Home
from cove.errors import CoveError, Unsupported
from cove.image import catalog, holding
from cove.oci.digest import digest_of
from cove.oci.manifest import host_platform_of
from cove.store.blobs import Blobs
from cove.store.records import CacheRecord, ImageRecord


def received(
    home: Home, images: Iterable[str], tell: Callable[..., None]
) -> dict[str, CacheRecord]:
    """What they say of their layers, for this build alone: what it uses is kept, as if it were made
    here. Of two that say something of the same step the first is believed.
    """
    found: dict[str, CacheRecord] = {}
    for name in images:
        try:
            record = catalog.resolve(home.store, name)
            said = records_of(record.config, record.layers)
        except CoveError as error:
            text = f"cannot use cache {name}: {error.message}; building without it"
            tell("warning", 0, text=text.encode())
            continue
        found = said | found
    return found


def _used(site: Site) -> list[CacheRecord]:
    """With the other keys of the same steps: COPY of a stage is known by the stage and by the files
    that it took, and looked up by one of them.
    """
    known = {(one.diff_id, one.title) for one in site.used.values()}
    found = {
        one.key: one
        for one in (*site.home.store.all_cached(), *site.received.values())
        if (one.diff_id, one.title) in known
    }
    return list((found | site.used).values())


def kept_in(site: Site, layers: tuple[str, ...]) -> dict[str, object]:
    """The field of an image with these layers."""
    return {FIELD: field_of(_used(site), layers)}


def made(site: Site, results: Iterable[Done], mode: str, holder: str) -> str:
    """The id of an image that is the cache of this build; empty: there is nothing to keep. ``min``:
    only what is in the results.
    """
    store, chain = site.home.store, {layer for done in results for layer in done.tree.chain}
    records = [one for one in _used(site) if mode == "max" or one.diff_id in chain]
    records.sort(key=lambda one: (one.created, one.key))
    layers = tuple(dict.fromkeys(one.diff_id for one in records))
    if not layers:
        return ""
    if len(layers) > LAYERS_MAX:
        raise Unsupported(
            f"cannot keep {len(layers)} layers in one cache: {LAYERS_MAX} are the most",
            origin=f"mode={mode}",
            exit_code=1,
        )
    stamp, host = stamp_of(records[-1].created), host_platform_of()
    config: dict[str, object] = {
        "architecture": host.architecture,
        **({"variant": host.variant} if host.variant else {}),
        "os": host.os,
        "created": stamp,
        "config": {},
        "history": [{"created": stamp, "created_by": "a layer of a build cache"} for _ in layers],
        "rootfs": {"type": "layers", "diff_ids": list(layers)},
        FIELD: field_of(records, layers),
    }
    data = msgspec.json.encode(config)
    image_id = digest_of(data)
    found = [store.layer(diff_id) for diff_id in layers]
    size = sum(layer.size for layer in found if layer is not None)
    with store.pinned(image_id):
        Blobs(store.layout).put(data, image_id)
        record = ImageRecord(image_id, config, layers, size, records[-1].created)
        holding.put(store, record, holder)
    return image_id
