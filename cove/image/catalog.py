"""What images there are: finding one by what people type, listing, removing. On the start path:
imports nothing heavy.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass

from cove.errors import Conflict, HostError, NoSuchImage, UsageError
from cove.image import host
from cove.image.host import HOST, image_views
from cove.oci.config import ImageConfig, config_from_json
from cove.oci.reference import familiar, parse_reference
from cove.spec.suggest import did_you_mean
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import ImageRecord, MachineRecord

__all__ = [
    "Listed",
    "Removed",
    "image_config",
    "image_views",
    "layer_keys",
    "listed",
    "remove",
    "resolve",
]

ID_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})")
HOST_NAMES = (HOST, f"{HOST}:latest", f"{HOST}:built-in")
"""What may be typed for it; the last is how it is listed."""
ACTIVE = ("running", "paused")
LEAVING = 5.0
"""Seconds that a machine of ``--rm`` may take to go."""

_configs: dict[str, ImageConfig] = {}


@dataclass(frozen=True, slots=True)
class Listed:
    record: ImageRecord
    tags: tuple[str, ...]
    """As people write them, sorted."""
    machines: int


@dataclass(frozen=True, slots=True)
class Removed:
    """Names that mean nothing any more, and the ids of images and layers that are gone."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]


def resolve(store: Store, text: str) -> ImageRecord:
    """The image that ``text`` means: ``host``, a name, an id, or the beginning of an id."""
    if text in HOST_NAMES:
        return host.host_image(store)
    record = _by_name(store, text) or _by_id(store, text)
    if record is None:
        raise NoSuchImage(
            f'cannot find image "{text}": it is not in the local store',
            origin=text,
            hint=_near(store, text)
            or "`host` is built in, cove images lists the others; add one: cove image bootstrap "
            "debian:bookworm, cove load, cove image import",
        )
    return record


def _near(store: Store, text: str) -> str:
    """Did you mean, of the names as people write them."""
    return did_you_mean(text, (familiar(name).removesuffix(":latest") for name in store.tags()))


def image_config(record: ImageRecord) -> ImageConfig:
    """How its machines start; the same id has the same config, but for ``host``."""
    if record.id == HOST:
        return config_from_json(record.config)
    config = _configs.get(record.id)
    if config is None:
        config = _configs[record.id] = config_from_json(record.config)
    return config


def layer_keys(store: Store, record: ImageRecord) -> tuple[int, ...]:
    """The directories ``roots/l<key>`` of an image, lowest first."""
    keys = []
    for diff_id in record.layers:
        layer = store.layer(diff_id)
        if layer is None:
            raise HostError(
                f"cannot use image {short_id(record.id)}: its layer {diff_id} is missing",
                hint="load or import it again",
            )
        keys.append(layer.key)
    return tuple(keys)


def short_id(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def listed(store: Store) -> tuple[Listed, ...]:
    """All images, newest first, the built-in one last."""
    host.host_image(store)
    used = Counter(machine.image for machine in store.machines())
    tags: dict[str, list[str]] = {}
    for name, image_id in store.tags().items():
        tags.setdefault(image_id, []).append(familiar(name))
    found = [
        Listed(record, tuple(sorted(tags.get(record.id, ()))), used[record.id])
        for record in store.images()
        if not host.is_former(record)
    ]
    found.sort(key=lambda image: (image.record.id == HOST, -image.record.created))
    return tuple(
        Listed(image.record, (HOST,), image.machines) if image.record.id == HOST else image
        for image in found
    )


# ---- removing ----


def remove(store: Store, text: str, *, force: bool = False) -> Removed:
    """Take a name away, and the image with its last one; by id the image with all its names.

    As Docker: an image that machines are made of keeps its layers; ``force`` takes its names away
    unless one of the machines runs.
    """
    if text in HOST_NAMES:
        raise UsageError("cannot remove image host: it is built in", origin=text)
    record = resolve(store, text)
    name = _name(text)
    by_name = name is not None and store.tagged(name) == record.id
    names = sorted(tag for tag, image_id in store.tags().items() if image_id == record.id)
    if by_name and name is not None and len(names) > 1:
        store.untag(name)
        return Removed((familiar(name),), ())
    if not by_name and len(names) > 1 and not force:
        raise Conflict(
            f"cannot remove image {short_id(record.id)}: it has {len(names)} names: "
            + ", ".join(familiar(tag) for tag in names),
            origin=text,
            hint="remove it by name, or with --force",
        )
    users = _users(store, record)
    _check_unused(users, text, force=force)
    untagged = tuple(familiar(tag) for tag in names)
    if users:
        with store.transaction():
            for tag in names:
                store.untag(tag)
        return Removed(untagged, ())
    return Removed(untagged, _delete(store, record))


def _users(store: Store, record: ImageRecord) -> list[MachineRecord]:
    """Machines made of the image. One of ``--rm`` that has exited is on its way out: waited for."""
    until = time.monotonic() + LEAVING
    while True:
        users = [machine for machine in store.machines() if machine.image == record.id]
        leaving = [m for m in users if m.spec.remove and m.state in ("exited", "dead")]
        if not leaving or len(leaving) < len(users) or time.monotonic() > until:
            return users
        time.sleep(0.005)


def _check_unused(users: list[MachineRecord], text: str, *, force: bool) -> None:
    for machine in sorted(users, key=lambda user: user.state not in ACTIVE):
        name = machine.name or machine.id[:12]
        if machine.state in ACTIVE:
            raise Conflict(
                f'cannot remove image "{text}": machine {name} runs it',
                origin=text,
                hint=f"stop and remove it: cove rm --force {name}",
            )
        if not force:
            raise Conflict(
                f'cannot remove image "{text}": machine {name} is made of it',
                origin=text,
                hint=f"remove the machine: cove rm {name}; or only the image's names: --force",
            )


def _delete(store: Store, record: ImageRecord) -> tuple[str, ...]:
    """The record with its names first, then layers and blobs that nothing else needs."""
    from cove.image.layers import drop_unused

    store.remove_image(record.id)
    blobs = Blobs(store.layout)
    pins = store.pins()
    for digest in (record.id, record.manifest):
        if digest and digest not in pins:
            blobs.remove(digest)
    _configs.pop(record.id, None)
    return (record.id, *drop_unused(store, reversed(record.layers)))


# ---- finding ----


def _name(text: str) -> str | None:
    try:
        return str(parse_reference(text))
    except UsageError:
        if ID_PREFIX.fullmatch(text):
            return None
        raise


def _by_name(store: Store, text: str) -> ImageRecord | None:
    name = _name(text)
    image_id = store.tagged(name) if name else None
    if image_id is not None:
        return store.image(image_id)
    if name and "@" in name:
        return _by_digest(store, name)
    return None


def _by_digest(store: Store, name: str) -> ImageRecord | None:
    """``NAME[:TAG]@DIGEST``: the image that came with this digest under this name."""
    reference = parse_reference(name)
    wanted = f"{reference.name}@{reference.digest}"
    for record in store.images():
        if wanted in record.digests:
            return record
    return None


def _by_id(store: Store, text: str) -> ImageRecord | None:
    match = ID_PREFIX.fullmatch(text)
    if match is None:
        return None
    found = [record for record in store.images() if record.id.startswith(f"sha256:{match[1]}")]
    if len(found) > 1:
        raise Conflict(
            f'cannot find image "{text}": {len(found)} images have ids that begin with it',
            origin=text,
            hint="type more of the id, or a name",
        )
    return found[0] if found else None
