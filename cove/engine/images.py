"""The verbs on images: thin calls into ``cove.image``, whose heavy parts are loaded when used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

from cove.engine.calls import Call, Image, ImageImport, ImageLoad, ImageRemoved, Images, Progress
from cove.engine.home import Home
from cove.errors import CoveError, UsageError
from cove.image import catalog


def image_list(home: Home) -> Images:
    return Images(
        tuple(
            Image(found.record, found.tags, found.machines) for found in catalog.listed(home.store)
        )
    )


def image_inspect(home: Home, text: str) -> Image:
    record = catalog.resolve(home.store, text)
    for found in catalog.listed(home.store):
        if found.record.id == record.id:
            return Image(found.record, found.tags, found.machines)
    return Image(record)


def image_remove(home: Home, text: str, *, force: bool) -> ImageRemoved:
    removed = catalog.remove(home.store, text, force=force)
    home.bases.clear()
    home.events.publish("delete" if removed.deleted else "untag", (text, text, text))
    return ImageRemoved(removed.untagged, removed.deleted)


def image_load(home: Home, params: ImageLoad, call: Call) -> Iterator[Progress]:
    from cove.image.loading import load_archive

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        for loaded in load_archive(home.store, call.body, progress=report, origin=params.origin):
            yield Progress("done", image=loaded.id, tags=loaded.tags)

    return _stream(home, call, work)


def image_import(home: Home, params: ImageImport, call: Call) -> Iterator[Progress]:
    from cove.image.importing import import_rootfs

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        record = import_rootfs(
            home.store,
            call.body,
            params.reference,
            changes=params.changes,
            message=params.message,
            platform=params.platform,
            progress=report,
            origin=params.origin,
        )
        tags = (params.reference,) if params.reference else ()
        yield Progress("done", image=record.id, tags=tags)

    return _stream(home, call, work)


class _Stopped(CoveError):
    """The caller left: the work ends at its next step."""


def _stream(
    home: Home,
    call: Call,
    work: Callable[[Callable[[object], None]], Iterator[Progress]],
) -> Iterator[Progress]:
    """Steps as they happen: the work has a thread of its own, because it reports by a callback."""
    if call.body < 0:
        raise UsageError("cannot read an image: nothing was sent")
    steps: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def report(step: object) -> None:
        if stopped.is_set() or (call.cancelled is not None and call.cancelled.is_set()):
            raise _Stopped("interrupted", exit_code=130)
        steps.put(
            Progress(
                getattr(step, "stage", ""),
                getattr(step, "id", ""),
                getattr(step, "current", 0),
                getattr(step, "total", 0),
            )
        )

    def run() -> None:
        try:
            for done in work(report):
                steps.put(done)
            steps.put(None)
        except BaseException as error:
            steps.put(error)
        finally:
            home.bases.clear()

    thread = threading.Thread(target=run, name="image", daemon=True)
    thread.start()
    try:
        while (step := steps.get()) is not None:
            if isinstance(step, BaseException):
                raise step
            yield step
    finally:
        stopped.set()
        thread.join()
