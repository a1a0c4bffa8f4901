"""``save``: images as archives, or as the flat tree that a machine of them would see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cove.engine.calls import Call
from cove.engine.calls.ship import ImageSave, ImagesSaved
from cove.engine.home import Home
from cove.engine.machines import life, stopping
from cove.engine.visits import copying
from cove.errors import HostError, UsageError
from cove.image import catalog
from cove.spec.machine import MachineSpec

if TYPE_CHECKING:
    from cove.image.saving import Saved


def image_save(home: Home, params: ImageSave, call: Call) -> ImagesSaved:
    from cove.image import saving

    def gone() -> bool:
        return call.cancelled is not None and call.cancelled.is_set()

    if params.format not in saving.FORMATS:
        raise UsageError(
            f'cannot save as "{params.format}": no such format',
            origin=f"--format {params.format}",
            hint=f"choose one of {', '.join(saving.FORMATS)}",
        )
    images = saving.chosen(home.store, params.images, params.platform)
    with home.store.pinned(*(layer for one in images for layer in one.record.layers)):
        for one in images:  # pinned now: nobody takes it away any more
            catalog.layer_keys(home.store, one.record)
        try:
            if params.format == "rootfs":
                _save_tree(home, params, images, call)
            else:
                docker = params.format == "docker-archive"
                saving.write(home.store, images, call.sink, gone, docker=docker)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(
                f"cannot save {params.images[0]}: cannot write it: {reason}", exit_code=1
            ) from error
    for one in images:
        home.publish_image("save", one.record)
    return ImagesSaved(tuple(one.record.id for one in images))


def _save_tree(home: Home, params: ImageSave, images: tuple[Saved, ...], call: Call) -> None:
    """By a machine that is made of it and never started: a daemon that finds it removes it."""
    if len(images) != 1:
        raise UsageError(
            "cannot save several images as one root file system",
            origin=f"--format {params.format}",
        )
    labels = {"cove.save": images[0].record.id}
    record = life.create(home, MachineSpec(images[0].record.id, ("true",), remove=True,
                                           labels=labels))  # fmt: skip
    try:
        copying.export(home, record, call)
    finally:
        stopping.remove(home, record, force=True)
