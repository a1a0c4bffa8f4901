"""How much room images and machines take, and what can be given back: df and the prunes.

What is measured is what is allocated on the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from cove.engine import uppers
from cove.engine.builds import collecting
from cove.engine.calls import (
    DiskUsage,
    Image,
    ImagePrune,
    ImageRemoved,
    ImagesPruned,
    ImageUsage,
    MachineUsage,
    Prune,
    SystemPrune,
    SystemPruned,
)
from cove.engine.calls.build import MOUNT, BuildPrune
from cove.engine.calls.disk import SnapshotUsage
from cove.engine.calls.networks import NetworkPrune
from cove.engine.calls.volumes import VolumePrune, VolumesPruned
from cove.engine.home import Home
from cove.engine.looking.listing import as_seen
from cove.engine.machines import prune, stopping
from cove.engine.networks import networks
from cove.engine.system.layers import layer_sizes
from cove.engine.volumes import volumes
from cove.engine.written import written
from cove.image import catalog
from cove.image.host import HOST
from cove.oci.config import config_from_json
from cove.store.gc import LEFTOVER_LIFE
from cove.store.names import holds_name
from cove.store.records import ImageRecord

if TYPE_CHECKING:
    from cove.image.removing import Removed

EXPIRE_EVERY = 3600.0
"""Seconds."""


def disk_usage(home: Home) -> DiskUsage:
    from cove.image.leftovers import partial_usage

    stopping.settle(home, tuple(home.lives))
    sizes, listed = layer_sizes(home.store), catalog.listed(home.store)
    users = Counter(layer for found in listed for layer in set(found.record.layers))
    needed = {
        layer
        for found in listed
        if found.machines
        or found.record.id == HOST
        or home.store.snapshot_of_image(found.record.id) is not None
        for layer in found.record.layers
    }
    images = []
    for found in listed:
        own = [(layer, sizes.get(layer, 0)) for layer in set(found.record.layers)]
        images.append(
            ImageUsage(
                Image(found.record, found.tags, found.machines),
                shared=sum(size for layer, size in own if users[layer] > 1),
                unique=sum(size for layer, size in own if users[layer] == 1),
            )
        )
    partial = partial_usage(home.store)
    cached = collecting.usage(home, sizes, users.keys())
    cache = sum(one.size for one in cached if not one.shared)
    mounts = sum(one.size for one in cached if one.kind == MOUNT)
    machines = [
        MachineUsage(as_seen(record), written(home, record))
        for record in reversed(home.store.machines())
        if holds_name(record)
    ]
    return DiskUsage(
        tuple(images),
        tuple(machines),
        layers=sum(sizes.values()) + partial - (cache - mounts),
        needed=sum(sizes.get(layer, 0) for layer in needed),
        unfinished=partial,
        snapshots=_snapshot_usage(home),
        volumes=volumes.usage(home),
        steps=len(cached),
        cache=cache,
        cached=cached,
    )


def _snapshot_usage(home: Home) -> SnapshotUsage:
    sizes = uppers.strata_sizes(home, {stratum.key for stratum in home.store.strata()})
    machines, snapshots = home.store.machines(), home.store.snapshots()
    used = {key for machine in machines for key in machine.strata}
    stood_on = {machine.snapshot for machine in machines}
    return SnapshotUsage(
        len(snapshots),
        sum(snapshot.id in stood_on for snapshot in snapshots),
        sum(sizes.values()),
        sum(size for key, size in sizes.items() if key not in used),
    )


# ---- giving it back ----


def image_prune(home: Home, params: ImagePrune) -> ImagesPruned:
    stopping.settle(home, tuple(home.lives))
    return _prune_images(home, params)


def system_prune(home: Home, params: SystemPrune) -> SystemPruned:
    """Machines first: networks they were made for, and images they were made of, may go then."""
    chosen = {"until": params.until, "labels": params.labels, "without": params.without}
    machines = prune.prune(home, Prune(**chosen))  # type: ignore[arg-type]
    gone = networks.prune(home, NetworkPrune(**chosen))  # type: ignore[arg-type]
    kept = VolumesPruned()
    if params.volumes:
        kept = volumes.prune(home, VolumePrune(labels=params.labels, without=params.without))
    found = _prune_images(home, ImagePrune(params.all, **chosen))  # type: ignore[arg-type]
    reclaimed = machines.reclaimed + kept.reclaimed + found.reclaimed
    if not any(chosen.values()):
        reclaimed += collecting.prune(home, BuildPrune()).reclaimed
    return SystemPruned(machines.ids, found.removed, reclaimed, gone.names, kept.names)


def _prune_images(home: Home, params: ImagePrune) -> ImagesPruned:
    from cove.image import removing

    sizes = layer_sizes(home.store)
    chosen = bool(params.until or params.labels or params.without)
    pruned = removing.prune(
        home.store,
        everything=params.all,
        wanted=lambda record: _wanted(record, params),
        unfinished=not chosen,
    )
    home.bases.clear()
    for removed in pruned.images:
        publish_removed(home, removed)
    reclaimed = sum(sizes.get(layer, 0) for layer in pruned.layers) + pruned.partial
    home.events.publish("prune", ("", "", ""), {"reclaimed": str(reclaimed)}, type="image")
    images = tuple(ImageRemoved(one.untagged, one.deleted) for one in pruned.images)
    return ImagesPruned(images, reclaimed)


def publish_removed(home: Home, removed: Removed) -> None:
    for _ in removed.untagged:
        home.publish_image("untag", removed.record)
    if removed.deleted:
        home.publish_image("delete", removed.image)


def _wanted(record: ImageRecord, params: ImagePrune) -> bool:
    labels = config_from_json(record.config).labels
    return (
        (not params.until or record.created < params.until)
        and all(prune.has_label(labels, label) for label in params.labels)
        and not any(prune.has_label(labels, label) for label in params.without)
    )


def watch_leftovers(home: Home, clock: Callable[[], float]) -> None:
    """Every hour: give up what no pull has come back for."""

    def look() -> None:
        from cove.image.leftovers import expire

        expire(home.store, clock() - LEFTOVER_LIFE)

    def again() -> None:
        if not home.closing:
            home.worker.do(look)
            home.reactor.after(EXPIRE_EVERY, again)

    home.reactor.after(EXPIRE_EVERY, again)
