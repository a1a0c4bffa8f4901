"""``save``: images as archives, or as the flat tree that a machine of them would see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cove.engine.calls import Call
from cove.engine.calls.ship import ImageSave, ImagesSaved
from cove.engine.home import Home
from cove.engine.visits.visits import send_out
from cove.errors import HostError, UsageError
from cove.image import catalog, several

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
    texts = params.images
    if params.format == "rootfs" and not params.platform:  # of several the one that runs here
        texts = tuple(
            catalog.resolve(home.store, text).id if several.index_of(home.store, text) else text
            for text in texts
        )
    packed = params.format in saving.PACKED
    what = saving.chosen(home.store, texts, params.platform, joined=params.joined, packed=packed)
    images = what.images
    with home.store.pinned(*(layer for one in images for layer in one.record.layers)):
        for one in images:  # pinned now: nobody takes it away any more
            catalog.layer_keys(home.store, one.record)
        try:
            if params.format == "rootfs":
                _save_tree(home, params, images, call)
            else:
                docker = params.format == "docker-archive"
                saving.write(home.store, what, call.sink, gone, docker=docker)
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
    """The image's files alone, from inside walls of their own: a machine would add its own."""
    from cove.engine.builds import trees

    if len(images) != 1:
        raise UsageError(
            "cannot save several images as one root file system",
            origin=f"--format {params.format}",
        )
    what = f"save {params.images[0]}"
    with trees.writable(home) as upper:
        words = ("out", "/", "", "0")
        tree = trees.Tree(images[0].record)
        with trees.visit(home, tree, upper, words, what=what) as archiver:
            send_out(archiver, call)
