"""``system check``: the records against the disk, and what the disk has beside them.

It reads while machines run and disturbs none of them. What is repaired is only what no record
names, or what is not what its record names; the rest is said.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator

import msgspec

from cove.engine.calls.check import Check, Checked, Finding
from cove.engine.home import Home
from cove.engine.images.trees import UNREADABLE, record_tree, tree_of
from cove.engine.machines import stopping
from cove.errors import CoveError
from cove.image.catalog import short_id
from cove.image.host import HOST, is_former
from cove.linux.mounts import lower_layers
from cove.oci.reference import familiar
from cove.store.blobs import Blobs
from cove.store.gc import KEY_NAME, ROOT_NAME, partial_name
from cove.store.layout import SOCKETS, VIEWS
from cove.store.records import ImageRecord, LayerRecord, MachineRecord
from cove.vm import moments

LOOK_AGAIN = 0.5
"""Seconds between two looks for strays: what is being made now has its record by the second."""
CHUNK = 1 << 20

Mend = Callable[[], str]
"""Does it, and says what was done."""


def check(home: Home, params: Check) -> Iterator[Checked]:
    """Everything, in order; the last step is ``done``."""
    for part in (_database, _images, _blobs, _layers, _machines, _strata, _moments, _strays):
        for step, mend in part(home):
            finding = step.finding
            if finding is not None and params.repair and mend is not None:
                try:
                    mended = mend()
                except (OSError, CoveError) as error:
                    mended = ""
                    hint = f"it could not be mended: {error}"
                    finding = msgspec.structs.replace(finding, hint=hint)
                finding = msgspec.structs.replace(finding, mended=mended)
                step = msgspec.structs.replace(step, finding=finding)
            yield step
    yield Checked("done")


Steps = Iterator[tuple[Checked, Mend | None]]


def _found(
    stage: str, kind: str, name: str, problem: str, *, means: str = "", hint: str = "",
    mend: Mend | None = None,
) -> tuple[Checked, Mend | None]:  # fmt: skip
    return Checked(stage, finding=Finding(kind, name, problem, means, hint=hint)), mend


def _database(home: Home) -> Steps:
    yield Checked("database"), None
    path = home.store.layout.database
    for problem in home.store.damage():
        yield _found("database", "database", path, problem,
                     means="records may be lost", hint="restore it from a backup")  # fmt: skip


# ---- images ----


def _name_of(home: Home, record: ImageRecord) -> str:
    names = [familiar(name) for name in home.store.names_of(record.id)]
    return names[0] if names else short_id(record.id)


def _again(home: Home, record: ImageRecord) -> str:
    return f"cove pull {_name_of(home, record)}, or load or import it again"


def _images(home: Home) -> Steps:
    store = home.store
    yield Checked("images"), None
    for image in store.images():
        for diff_id in image.layers:
            if store.layer(diff_id) is None:
                yield _found(
                    "images", "image", _name_of(home, image), f"its layer {diff_id} has no record",
                    means="no machine can be made of it", hint=_again(home, image),
                )  # fmt: skip
    several = ((one.name, image) for one in store.indexes() for image in one.images)
    for reference, image_id in (*store.tags().items(), *several):
        if store.image(image_id) is None:
            yield _found(
                "images", "tag", familiar(reference), f"image {short_id(image_id)} is not there",
                mend=lambda name=reference: _untag(home, name),  # type: ignore[misc]
            )  # fmt: skip


def _untag(home: Home, reference: str) -> str:
    home.store.untag(reference)
    home.bases.clear()
    return "the name was taken away"


def _blobs(home: Home) -> Steps:
    """Configs and manifests by their digests. Layers are not kept as blobs."""
    blobs = Blobs(home.store.layout)
    users: dict[str, ImageRecord] = {}
    for image in home.store.images():
        if image.id != HOST and not is_former(image):
            users |= {digest: image for digest in (image.id, image.manifest) if digest}
    there = blobs.digests()
    total = len(there)
    for number, digest in enumerate(there):
        yield Checked("blobs", number, total), None
        user = users.pop(digest, None)
        if user is None:
            if digest not in home.store.pins():
                yield _found("blobs", "blob", digest, "no image needs it",
                             mend=lambda digest=digest: _drop_blob(home, digest))  # type: ignore[misc]  # fmt: skip
        elif not _is(blobs.path(digest), digest):
            name = _name_of(home, user)
            yield _found(
                "blobs", "blob", digest, "its content is not what its digest says",
                means=f"image {name} runs, but is not what was pulled", hint=_again(home, user),
                mend=lambda digest=digest: _drop_blob(home, digest),  # type: ignore[misc]
            )  # fmt: skip
    for digest, image in users.items():
        if home.store.image(image.id) == image and not blobs.has(digest):
            problem = f"missing; image {_name_of(home, image)} needs it"
            yield _found("blobs", "blob", digest, problem, hint=_again(home, image))


def _drop_blob(home: Home, digest: str) -> str:
    Blobs(home.store.layout).remove(digest)
    return "removed"


def _is(path: str, digest: str) -> bool:
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(CHUNK):
                found.update(data)
    except OSError:
        return False
    return f"sha256:{found.hexdigest()}" == digest


# ---- layers ----


def _layers(home: Home) -> Steps:
    layers = home.store.layers()
    for number, layer in enumerate(layers):
        yield Checked("layers", number, len(layers)), None
        if home.store.layer(layer.diff_id) != layer:
            continue  # removed or replaced meanwhile
        problem = _layer_problem(home, layer)
        if not problem:
            continue
        images = [image for image in home.store.images() if layer.diff_id in image.layers]
        names = ", ".join(_name_of(home, image) for image in images)
        yield _found(
            "layers", "layer", layer.diff_id, f"{problem} (roots/l{layer.key})",
            means=f"it is of {names}" if names else "no image has it",
            hint=_again(home, images[0]) if images else "",
            mend=None if layer.broken else lambda layer=layer: _mark(home, layer),  # type: ignore[misc]
        )  # fmt: skip


def _layer_problem(home: Home, layer: LayerRecord) -> str:
    path = home.store.layout.layer(layer.key)
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return "its directory is not one"
        if status.st_uid != os.geteuid() and layer.diff_id.startswith(HOST):
            return f"its directory belongs to uid {status.st_uid}"
        tree = tree_of(path)
    except FileNotFoundError:
        return "its directory is missing"
    except OSError as error:
        return f"it cannot be read: {(error.strerror or str(error)).lower()}"
    if layer.tar and not os.path.exists(home.store.layout.recipe(layer.key)):
        return "its recipe is missing, so it cannot be saved"
    if not layer.tree:
        record_tree(home, layer, tree)  # nobody knows better: from now on it is to stay so
    elif UNREADABLE not in (layer.tree, tree) and layer.tree != tree:
        return _difference(layer.tree, tree)
    return "it is marked as broken" if layer.broken else ""


def _difference(recorded: str, found: str) -> str:
    entries, size, _ = recorded.split()
    now, now_size, _ = found.split()
    if entries != now:
        return f"it has {now} entries, not {entries}"
    if size != now_size:
        return f"its files have {now_size} bytes, not {size}"
    return "an entry was changed since it was unpacked"


def _mark(home: Home, layer: LayerRecord) -> str:
    """Machines may run on it, and what is whole of it is of use: the next pull replaces it."""
    with home.store.transaction():
        now = home.store.layer(layer.diff_id)
        if now is None or now.key != layer.key:
            return "it was replaced meanwhile"
        home.store.put_layer(msgspec.structs.replace(now, broken=True))
    return "marked: the next pull, load or import unpacks it anew"


# ---- machines ----


def _machines(home: Home) -> Steps:
    store = home.store
    stopping.settle(home, tuple(home.lives))
    records = store.machines()
    for number, record in enumerate(records):
        yield Checked("machines", number, len(records)), None
        if record.image not in (HOST, "") and store.image(record.image) is None:
            yield _found("machines", "machine", record.name, "its image is not there",
                         means="it cannot be started again")  # fmt: skip
        if _lost_upper(home, record):
            yield _found(
                "machines", "machine", record.name,
                f"its writable layer is missing (roots/u{record.upper})",
                means="what it wrote is lost", hint=f"cove rm {record.name}",
            )  # fmt: skip


def _strata(home: Home) -> Steps:
    """What snapshots and forks stand on."""
    yield Checked("snapshots"), None
    for stratum in home.store.strata():
        if os.path.isdir(f"{home.store.layout.upper(stratum.key)}/fs"):
            continue
        snapshots = [s.name for s in home.store.snapshots() if stratum.key in s.strata]
        machines = [m.name for m in home.store.machines() if stratum.key in m.strata]
        if snapshots or machines:
            yield _found(
                "snapshots", "snapshot", ", ".join(snapshots) or ", ".join(machines),
                f"a layer that it stands on is missing (roots/u{stratum.key})",
                means="what was written to it is lost: "
                + ", ".join((*snapshots, *machines)) + " cannot be started",
            )  # fmt: skip


def _moments(home: Home) -> Steps:
    """What snapshots of virtual machines are, byte by byte."""
    for snapshot in home.store.snapshots():
        if snapshot.kind == "file system":
            continue
        yield Checked("snapshots"), None
        try:
            moments.check(home.store.layout.snapshot(snapshot.id), "go on from it")
        except CoveError as error:
            if home.store.has_snapshot(snapshot.id):
                yield _found(
                    "snapshots", "snapshot", snapshot.name, error.message,
                    means="no machine can go on from it", hint=f"cove snapshot rm {snapshot.name}",
                )  # fmt: skip


def _lost_upper(home: Home, record: MachineRecord) -> bool:
    """Not of one that is being removed: that loses its layer first, and then its record."""
    upper = f"{home.store.layout.upper(record.upper)}/fs"
    if not record.started or record.spec.remove or os.path.isdir(upper):
        return False
    time.sleep(LOOK_AGAIN)
    return home.store.has_machine(record.key)


# ---- what nobody records ----


def _strays(home: Home) -> Steps:
    """Seen in two looks, or it may be something that is being made."""
    yield Checked("strays"), None
    first = _unrecorded(home)
    if not first:
        return
    time.sleep(LOOK_AGAIN)
    second = _unrecorded(home)
    used = lower_layers(live.pid for live in list(home.lives.values()))
    for path, problem in first.items():
        if path not in second:
            continue
        name = path.removeprefix(f"{home.store.layout.root}/")
        kind = problem[0]
        mend: Mend | None = lambda path=path, kind=kind: _sweep(home, path, kind)  # noqa: E731
        hint = ""
        if kind == "file":
            mend, hint = None, "cove did not make it: remove it, if you did"
        elif os.path.basename(path) in used:
            mend, hint = None, "a running machine stands on it: check again when it has ended"
        yield _found("strays", kind, name, problem[1], hint=hint, mend=mend)


def _unrecorded(home: Home) -> dict[str, tuple[str, str]]:
    """Path (or name) to kind and problem."""
    store, layout = home.store, home.store.layout
    visitors = list(home.visits.slots.values())
    slots = [*home.slots.waiting(), *home.pool.waiting(), *visitors]
    machines = {m.key for m in store.machines()} | {slot.key for slot in slots} | set(home.lives)
    layers = {layer.key for layer in store.layers()}
    uppers = machines | store.uppers()
    found: dict[str, tuple[str, str]] = {}
    for name in os.listdir(layout.roots):
        match = ROOT_NAME.fullmatch(name)
        if match and match[1] == "l" and int(match[2]) not in layers and not store.pins():
            found[f"{layout.roots}/{name}"] = ("directory", "no record names this layer")
        elif match and match[1] == "u" and int(match[2]) not in uppers and not store.pins():
            found[f"{layout.roots}/{name}"] = ("directory", "no machine has this writable layer")
        elif not match and name not in ("p", "m", *(f"v{i}" for i in range(VIEWS))):
            found[f"{layout.roots}/{name}"] = ("file", "it is not of a state directory")
    for place, kind in ((layout.recipes, "recipe"), (layout.packed, "archive")):
        for name in os.listdir(place):
            if not KEY_NAME.fullmatch(name):
                found[f"{place}/{name}"] = ("file", "it is not of a state directory")
            elif int(name) not in layers and not store.pins():
                found[f"{place}/{name}"] = (kind, "no layer has it")
    for name in os.listdir(layout.machines):
        if not KEY_NAME.fullmatch(name):
            found[f"{layout.machines}/{name}"] = ("file", "it is not of a state directory")
        elif int(name) not in machines:
            found[f"{layout.machines}/{name}"] = ("directory", "no machine has it")
    for name in os.listdir(layout.run):
        key, _, kind = name.partition(".")
        if kind in SOCKETS and KEY_NAME.fullmatch(key) and int(key) not in machines:
            found[f"{layout.run}/{name}"] = ("socket", "no machine listens there")
    found |= _unrecorded_downloads(home)
    groups = {m.group for m in store.machines()} | {slot.group.name for slot in slots}
    groups |= {live.group.name for live in list(home.lives.values()) if live.group is not None}
    for name in home.groups.names() - groups - home.groups.pooled():
        found[name] = ("group", "no machine is in this control group")
    for index, holder in store.ranges().items():
        if holder not in machines:
            found[str(index)] = ("range", f"machine key {holder} holds these ids, and is not there")
    return found


def _unrecorded_downloads(home: Home) -> dict[str, tuple[str, str]]:
    store = home.store
    if store.pins() or not os.path.isdir(store.layout.partial):
        return {}
    kept = {partial_name(blob) for record in store.leftovers() for blob in record.blobs}
    return {
        f"{store.layout.partial}/{name}": ("partial", "no pull will go on with it")
        for name in os.listdir(store.layout.partial)
        if name not in kept
    }


def _sweep(home: Home, path: str, kind: str) -> str:
    if kind == "group":
        home.groups.drop(path)
    elif kind == "range":
        home.store.free_range(home.store.ranges()[int(path)])
    elif kind in ("socket", "partial", "recipe", "archive"):
        os.unlink(path)
    else:
        home.remover.remove(path)
    return "removed"
