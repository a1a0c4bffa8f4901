"""``commit``: an image of what a machine wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from cove.engine.calls import Call, Commit
from cove.engine.home import Home
from cove.engine.machines.stopping import running
from cove.engine.visits.visits import check_awake, visit_layer
from cove.engine.vms import inside
from cove.errors import NotFound, Unsupported
from cove.oci.reference import familiar
from cove.planner import argv_of
from cove.store.records import ImageRecord, MachineRecord


def commit(home: Home, record: MachineRecord, params: Commit, call: Call) -> ImageRecord:
    from cove.image.committing import Wish, commit_layer, start_of
    from cove.image.importing import parse_name

    base = home.base_of_machine(record)
    if base.views:
        raise Unsupported(
            f"cannot commit {record.name}: image {record.spec.image} shows the host's own "
            "directories, which are no layer",
            hint=f"make an image of everything: cove export {record.name} | cove image import - "
            "NAME",
        )
    wish = Wish(
        name=parse_name(params.reference) if params.reference else None,
        author=params.author,
        message=params.message,
        command=record.argv or argv_of(record.spec, base.config),
        start=start_of(base.record, record.spec, params.changes),
    )
    visit = visit_layer(home, record, call, "layer", what=f"commit {record.name}")
    with frozen(home, record, params.pause), visit as archiver:
        image = commit_layer(
            home.store,
            base.record,
            archiver.stdout,
            wish,
            check=archiver.finish,
            blame=archiver.blame,
        )
    home.bases.clear()
    name = familiar(str(wish.name)) if wish.name else ""
    home.publish(
        "commit", record, {"comment": params.message, "imageID": image.id, "imageRef": name}
    )
    if name:
        home.publish_image("tag", image, name)
    return image


@contextmanager
def frozen(home: Home, record: MachineRecord, wanted: bool) -> Iterator[None]:
    """A machine that runs stands still meanwhile. Its record does not say so: the next daemon lets
    it go on if this one is killed.
    """
    live = running(home, record)
    group = live.group if live is not None and live.started else None
    if not wanted or live is None or group is None:
        yield
        return
    if record.spec.isolation == "vm":
        check_awake(home, record, f"commit {record.name}")
        with inside.frozen(home, record.key):
            yield
        return
    with live.changing:
        if home.record(record.key).state == "running":
            home.groups.freeze(group)
        live.copied += 1
    try:
        yield
    finally:
        with live.changing, contextlib.suppress(NotFound):  # removed meanwhile
            live.copied -= 1
            on = not live.copied and record.key in home.lives
            if on and home.record(record.key).state == "running":
                home.groups.thaw(group)
