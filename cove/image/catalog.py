"""What images there are: finding one by what people type, and listing. On the start path: imports
nothing heavy.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from cove.errors import Conflict, HostError, NoSuchImage, UsageError
from cove.image import host, several
from cove.image.host import HOST, image_views
from cove.oci.config import ImageConfig, config_from_json
from cove.oci.manifest import host_platform_of, parse_platform
from cove.oci.reference import familiar, parse_reference
from cove.spec.suggest import did_you_mean
from cove.store.db import Store
from cove.store.records import ImageRecord

__all__ = [
    "Listed",
    "forget",
    "image_config",
    "image_views",
    "layer_keys",
    "listed",
    "resolve",
]

ID_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})")
FULL_ID = re.compile(r"(?:sha256:)?[a-f0-9]{64}")
HOST_NAMES = (HOST, f"{HOST}:latest", f"{HOST}:built-in")
"""What may be typed for it; the last is how it is listed."""
_configs: dict[str, ImageConfig] = {}


@dataclass(frozen=True, slots=True)
class Listed:
    record: ImageRecord
    tags: tuple[str, ...]
    """As people write them, sorted."""
    machines: int


def resolve(store: Store, text: str, platform: str = "") -> ImageRecord:
    """The image that ``text`` means: ``host``, a name, an id, or the beginning of an id. Of a name
    that means several the one for ``platform``, if there is one.
    """
    if text in HOST_NAMES:
        return host.host_image(store)
    # A whole id is never a name: "sha256:…" as the name in a stranger's archive would be one, too.
    whole = FULL_ID.fullmatch(text) is not None
    record = None if whole else _by_name(store, text, platform)
    record = record or _by_id(store, text)
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


def forget(image_id: str) -> None:
    """The image is gone."""
    _configs.pop(image_id, None)


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
    tags: dict[str, set[str]] = {}
    for name, image_id in store.tags().items():
        tags.setdefault(image_id, set()).add(familiar(name))
    for index in store.indexes():
        for image_id in index.images:
            tags.setdefault(image_id, set()).add(familiar(index.name))
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


# ---- finding ----


def _name(text: str) -> str | None:
    try:
        return str(parse_reference(text))
    except UsageError:
        if ID_PREFIX.fullmatch(text):
            return None
        raise


def _by_name(store: Store, text: str, platform: str) -> ImageRecord | None:
    name = _name(text)
    image_id = store.tagged(name) if name else None
    if name and image_id is not None:
        index = store.index(name) if platform else None
        if index is None:
            return store.image(image_id)
        found = several.fitting(several.members(store, index), parse_platform(platform))
        return found or store.image(image_id)
    if name and "@" in name:
        return _by_digest(store, name, platform)
    return None


def _by_digest(store: Store, name: str, platform: str) -> ImageRecord | None:
    """``NAME[:TAG]@DIGEST``: the image that came with this digest under this name; of an index that
    may be several.
    """
    reference = parse_reference(name)
    wanted = f"{reference.name}@{reference.digest}"
    found = [record for record in store.images() if wanted in record.digests]
    best = parse_platform(platform) if platform else host_platform_of()
    return several.fitting(found, best) or (found[0] if found else None)


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
