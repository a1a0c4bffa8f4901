"""The built-in image ``host``: the running system's programs, read-only and copy-on-write.

One generated layer (``skeleton``) and *views*: directories of the host that the planner mounts each
as the lower side of an overlay of its own. On the start path: checks by a few stats, at most once a
second, whether the layer is still what the host would give, and makes a new one if not.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from dataclasses import dataclass

import msgspec

from cove.errors import HostError
from cove.image import skeleton
from cove.oci.manifest import host_platform_of
from cove.store.db import Store
from cove.store.records import ImageRecord, LayerRecord

HOST = "host"
VIEWS_KEY = "cove.views"
CHECK_EVERY = 1.0
"""Seconds; a change of /etc shows in machines started later than this."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACTIVE = ("running", "paused")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the last check saw."""

    at: float
    directories: tuple[str, ...]


_lock = threading.Lock()
_known: dict[str, _Known] = {}


def image_views(record: ImageRecord) -> tuple[str, ...]:
    """Directories of the host that an image shows; only the built-in one has any."""
    views = record.config.get(VIEWS_KEY) if record.id == HOST else None
    return tuple(str(view) for view in views) if isinstance(views, list) else ()


def is_former(record: ImageRecord) -> bool:
    """A record that only keeps a former layer of ``host`` for the machines that still use it."""
    return record.id.startswith(f"{HOST}@")


def host_image(store: Store, *, root: str = "/", clock: float | None = None) -> ImageRecord:
    """The record of ``host``, whose layer is made now if there is none or the host has changed."""
    now = time.monotonic() if clock is None else clock
    known = _known.get(store.layout.root)
    record = store.image(HOST)
    if record is not None and known is not None and now - known.at < CHECK_EVERY:
        return record
    with _lock:
        return _checked_image(store, root, now)


def _checked_image(store: Store, root: str, now: float) -> ImageRecord:
    known = _known.get(store.layout.root)
    record = store.image(HOST)
    if record is not None and known is not None and now - known.at < CHECK_EVERY:
        return record
    directories = known.directories if known else skeleton.etc_directories(root)
    diff_id = f"{HOST}:{skeleton.fingerprint(root, directories)}"
    if record is None or record.layers != (diff_id,) or not _there(store, diff_id):
        directories = skeleton.etc_directories(root)
        diff_id = f"{HOST}:{skeleton.fingerprint(root, directories)}"
        record = _renew(store, root, diff_id, record)
    elif known is None:
        _drop_former(store, keep="")
    _known[store.layout.root] = _Known(now, directories)
    return record


def _there(store: Store, diff_id: str) -> bool:
    layer = store.layer(diff_id)
    return layer is not None and store.is_whole(layer)


def _renew(store: Store, root: str, diff_id: str, old: ImageRecord | None) -> ImageRecord:
    """A new layer; when that fails (a full disk) a former one still serves."""
    try:
        layer = _make_layer(store, root, diff_id)
    except OSError as error:
        if old is not None and _there(store, old.layers[0]):
            return old
        reason = (error.strerror or str(error)).lower()
        raise HostError(
            f"cannot make image host: {reason}", origin=str(error.filename or "")
        ) from error
    record = _record(layer, skeleton.views(root))
    with store.transaction():
        former = ""
        if old is not None and old.layers != record.layers and store.layer(old.layers[0]):
            former = f"{HOST}@{old.layers[0].partition(':')[2]}"
            store.put_image(msgspec.structs.replace(old, id=former))
        store.put_image(record)
    _drop_former(store, keep=former)
    return record


def _make_layer(store: Store, root: str, diff_id: str) -> LayerRecord:
    key = store.new_key()
    staged = f"{store.layout.tmp}/host-{key}"
    os.mkdir(staged, 0o755)
    try:
        size = skeleton.make(root, staged)
        os.rename(staged, store.layout.layer(key))
    except BaseException:
        skeleton.remove(staged)
        raise
    layer = LayerRecord(key, diff_id, size, time.time())
    store.put_layer(layer)
    return layer


def _record(layer: LayerRecord, views: tuple[str, ...]) -> ImageRecord:
    target = host_platform_of(platform.machine())
    shell = "bash" if os.path.exists("/usr/bin/bash") or os.path.exists("/bin/bash") else "sh"
    config: dict[str, object] = {
        "architecture": target.architecture,
        **({"variant": target.variant} if target.variant else {}),
        "os": target.os,
        "config": {"Env": [f"PATH={PATH}"], "Cmd": [shell]},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        VIEWS_KEY: list(views),
    }
    return ImageRecord(HOST, config, (layer.diff_id,), layer.size, layer.created)


def _drop_former(store: Store, *, keep: str) -> None:
    """Layers that no machine can be using. The one just replaced stays: a start may have it."""
    former = [record for record in store.images() if is_former(record) and record.id != keep]
    active = any(m.image == HOST and m.state in ACTIVE for m in store.machines())
    if not former or active:
        return
    current = store.image(HOST)
    used = set(current.layers) if current else set()
    for record in former:
        store.remove_image(record.id)
        layer = store.layer(record.layers[0])
        if layer is not None and layer.diff_id not in used:
            store.remove_layer(layer.diff_id)
            skeleton.remove(store.layout.layer(layer.key))
