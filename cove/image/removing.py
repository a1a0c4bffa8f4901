"""Removing images and their names, by Docker's rules; and pruning: all that nothing needs.

A record goes before its directory. What a verb that is under way has pinned is never taken, and an
image that a machine is made of keeps its layers whatever is asked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from cove.errors import Conflict, UsageError
from cove.image import catalog, leftovers, several
from cove.image.host import HOST, is_former
from cove.image.layers import drop_unused
from cove.oci.config import chain_id
from cove.oci.reference import familiar, parse_reference
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, IndexRecord, MachineRecord

ACTIVE = ("running", "paused", "restarting")
LEAVING = 5.0
"""Seconds that a machine of ``--rm`` may take to go."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Names that mean nothing any more, and the ids of what is gone: an image, then layers."""

    record: ImageRecord
    """As it was."""
    untagged: tuple[str, ...]
    deleted: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    """Diff IDs of the layers that are gone."""

    @property
    def image(self) -> str:
        return self.record.id


def remove(store: Store, text: str, *, force: bool = False) -> Removed:
    """Take a name away, and the image with its last one; by id the image with all its names.

    ``force`` takes the names of an image away that machines are made of, and by id all of several.
    """
    if text in catalog.HOST_NAMES:
        raise UsageError("cannot remove image host: it is built in", origin=text)
    with store.removing:
        return _remove(store, text, force=force)


def remove_name(store: Store, text: str, *, force: bool = False) -> tuple[Removed, ...]:
    """The same, of a name that means several images: each of them goes with its last name."""
    if several.index_of(store, text) is None:
        return (remove(store, text, force=force),)
    with store.removing:
        index = several.index_of(store, text)
        if index is not None:
            return _remove_index(store, index, text, force=force)
        return (_remove(store, text, force=force),)


def remove_if(store: Store, image_id: str, wanted: Callable[[ImageRecord], bool]) -> Removed | None:
    """An image as a prune would, if it is ``wanted``: one that has a name by now, or a machine,
    stays.
    """
    with store.removing:
        return _prune_image(store, image_id, everything=False, wanted=wanted)


def _remove_index(
    store: Store, index: IndexRecord, text: str, *, force: bool
) -> tuple[Removed, ...]:
    """All of it, or nothing."""
    found = []
    for record in several.members(store, index):
        names, users = references(store, record), _users(store, record)
        doomed = _with_digests(index.name, names)
        rest = set(names) - set(doomed)
        if not rest and not force:
            if users:
                raise _in_use(text, users[0])
            _check_snapshots(store, record, text)
        found.append((record, doomed, users, bool(rest)))
    return tuple(_take(store, *one[:3], keep=one[3]) for one in found)


def _remove(store: Store, text: str, *, force: bool) -> Removed:
    record = catalog.resolve(store, text)
    names = references(store, record)
    name = _meant(text, names)
    users = _users(store, record)
    if not name and not force:
        _check_indexes(store, record, text)
    if not users and not force and (not name or _single(names)):
        _check_snapshots(store, record, text)
    if name:
        return _remove_name(store, record, name, names, users, force=force)
    if not force or any(user.state in ACTIVE for user in users):
        _check_running(users, text)
    if not _single(names) and not force:
        raise Conflict(
            f"cannot remove image {catalog.short_id(record.id)}: it has {len(names)} names: "
            + ", ".join(familiar(one) for one in names),
            origin=text,
            hint="remove it by name, or with --force",
        )
    if users and not force:
        raise _in_use(text, users[0])
    own = [one for one in names if store.index(one) is None]  # those of several go on without it
    return _take(store, record, own, users)


def references(store: Store, record: ImageRecord) -> tuple[str, ...]:
    """Every full name of an image: its tags, then what its digests are called."""
    return (*store.names_of(record.id), *record.digests)


def _meant(text: str, names: tuple[str, ...]) -> str:
    """The one of the image's names that was typed; empty: an id was."""
    if catalog.ID_PREFIX.fullmatch(text) and text.startswith("sha256:"):
        return ""
    try:
        typed = parse_reference(text)
    except UsageError:
        return ""
    full = f"{typed.name}@{typed.digest}" if typed.digest else str(typed)
    return full if full in names else ""


def _remove_name(
    store: Store,
    record: ImageRecord,
    name: str,
    names: tuple[str, ...],
    users: list[MachineRecord],
    *,
    force: bool,
) -> Removed:
    """The last tag of a repository takes the digests along that are known by its name."""
    if users and not force and _single(names):
        raise _in_use(familiar(name), users[0])
    doomed = _with_digests(name, names)
    rest = set(names) - set(doomed)
    return _take(store, record, doomed, users, keep=bool(rest))


def _with_digests(name: str, names: Sequence[str]) -> tuple[str, ...]:
    repository = _repository(name)
    mates = [one for one in names if one != name and _repository(one) == repository]
    if "@" not in name and all("@" in one for one in mates):
        return (name, *mates)
    return (name,)


def _take(
    store: Store,
    record: ImageRecord,
    names: Sequence[str],
    users: list[MachineRecord],
    *,
    keep: bool = False,
) -> Removed:
    """Without ``names``, and without the image too unless something needs it."""
    if keep or users or store.snapshot_of_image(record.id):
        with store.transaction():
            for name in names:
                store.untag(name)
            digests = tuple(one for one in record.digests if one not in names)
            store.put_image(msgspec.structs.replace(record, digests=digests))
        return Removed(record, tuple(familiar(name) for name in names))
    return _delete(store, record, names)


def _repository(name: str) -> str:
    return parse_reference(name).name


def _single(names: Sequence[str]) -> bool:
    """At most one tag, and no digest of another repository."""
    tags = [name for name in names if "@" not in name]
    return len(tags) <= 1 and len({_repository(name) for name in names}) <= 1


def _users(store: Store, record: ImageRecord) -> list[MachineRecord]:
    """Machines made of the image, those that run first. One of ``--rm`` that has exited is on its
    way out: waited for.
    """
    until = time.monotonic() + LEAVING
    while True:
        users = [machine for machine in store.machines() if machine.image == record.id]
        leaving = [m for m in users if m.spec.remove and m.state in ("exited", "dead")]
        if not leaving or len(leaving) < len(users) or time.monotonic() > until:
            return sorted(users, key=lambda user: user.state not in ACTIVE)
        time.sleep(0.005)


def _check_running(users: list[MachineRecord], text: str) -> None:
    if users and users[0].state in ACTIVE:
        raise _in_use(text, users[0])


def _check_snapshots(store: Store, record: ImageRecord, text: str) -> None:
    snapshot = store.snapshot_of_image(record.id)
    if snapshot is not None:
        raise Conflict(
            f'cannot remove image "{text}": snapshot {snapshot.name} stands on it',
            origin=text,
            hint=f"remove the snapshot: cove snapshot rm {snapshot.name}; or only the image's "
            "names: --force",
        )


def _in_use(text: str, machine: MachineRecord) -> Conflict:
    name = machine.name or machine.id[:12]
    if machine.state in ACTIVE:
        return Conflict(
            f'cannot remove image "{text}": machine {name} runs it',
            origin=text,
            hint=f"stop and remove it: cove rm --force {name}",
        )
    return Conflict(
        f'cannot remove image "{text}": machine {name} is made of it',
        origin=text,
        hint=f"remove the machine: cove rm {name}; or only the image's names: --force",
    )


def _check_indexes(store: Store, record: ImageRecord, text: str) -> None:
    for name in store.names_of(record.id):
        index = store.index(name)
        if index is not None:
            raise Conflict(
                f"cannot remove image {catalog.short_id(record.id)}: it is one of "
                f"{len(index.images)} that {familiar(name)} means, one for each platform",
                origin=text,
                hint=f"remove all of them: cove rmi {familiar(name)}; or this one alone: --force",
            )


def _delete(store: Store, record: ImageRecord, names: Sequence[str]) -> Removed:
    """The record with its names first."""
    store.remove_image(record.id)
    return _collect(store, record, names)


def _collect(store: Store, record: ImageRecord, names: Sequence[str]) -> Removed:
    """The layers and blobs of an image without a record, as far as nothing else needs them; of its
    names those are told that mean nothing else.
    """
    untagged = tuple(familiar(name) for name in names if store.tagged(name) is None)
    blobs = Blobs(store.layout)
    with store.transaction():  # who needs them pins them first, and waits here
        images = store.images()
        needed = store.pins() | {image.id for image in images} | {i.manifest for i in images}
        for digest in (record.id, record.manifest):
            if digest and digest not in needed:
                blobs.remove(digest)
        if record.id not in {image.id for image in images}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(store.layout.disk(record.id))
    catalog.forget(record.id)
    gone = drop_unused(store, reversed(record.layers))
    plain = (layer.partition("+")[0] for layer in record.layers)
    chains = dict(zip(record.layers, accumulate(plain, chain_id), strict=True))
    return Removed(record, untagged, (record.id, *(chains[layer] for layer in gone)), gone)


# ---- pruning ----


@dataclass(frozen=True, slots=True)
class Pruned:
    images: tuple[Removed, ...]
    layers: tuple[str, ...]
    """Diff IDs of all layers that are gone, also those of pulls that nobody took up again."""
    partial: int
    """Bytes of blobs that had come in part."""


def prune(
    store: Store, *, everything: bool, wanted: Callable[[ImageRecord], bool], unfinished: bool
) -> Pruned:
    """Images without a name, or with ``everything`` those that no machine is made of, if they are
    ``wanted``; with ``unfinished`` also what broken-off pulls have kept.
    """
    removed = [
        gone
        for record in sorted(store.images(), key=lambda image: image.created)
        if record.id != HOST and not is_former(record) and wanted(record)
        if (gone := _prune_image(store, record.id, everything=everything)) is not None
    ]
    layers = [layer for gone in removed for layer in gone.layers]
    partial = 0
    if unfinished:
        kept, partial = leftovers.drop_all(store)
        layers += kept
        layers += drop_unused(store, [layer.diff_id for layer in store.layers()])
    return Pruned(tuple(removed), tuple(layers), partial)


def _prune_image(
    store: Store,
    image_id: str,
    *,
    everything: bool,
    wanted: Callable[[ImageRecord], bool] = lambda _: True,
) -> Removed | None:
    with store.transaction():  # nobody names it or makes a machine of it meanwhile
        record = store.image(image_id)
        if record is None or not wanted(record) or image_id in store.pins():
            return None
        names = references(store, record)
        tagged = any("@" not in name for name in names)
        if (tagged and not everything) or any(m.image == image_id for m in store.machines()):
            return None
        if store.snapshot_of_image(image_id) is not None:
            return None
        store.remove_image(image_id)
    return _collect(store, record, names)
