"""The verbs on images: thin calls into ``cove.image``, whose heavy parts are loaded when used."""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from cove.engine.calls import (
    Call,
    History,
    HistoryEntry,
    Image,
    ImageBootstrap,
    ImageImport,
    ImageLoad,
    ImagePull,
    ImageRemove,
    ImageRemoved,
    Images,
    ImageTag,
    Named,
    Progress,
)
from cove.engine.home import Home
from cove.engine.images.credentials import credentials_of
from cove.engine.machines import stopping
from cove.engine.system import disk
from cove.errors import CoveError, NoSuchImage, UsageError
from cove.image import catalog, several
from cove.image.history import steps_of
from cove.image.host import HOST
from cove.linux.pump import Stopped, pump
from cove.oci.manifest import matches, parse_platform
from cove.oci.reference import familiar, parse_reference
from cove.store.records import ImageRecord

LOOK = 0.2
"""Seconds between two looks whether the caller is still there."""
WIND_UP = 1.0
"""Seconds that a caller who left waits for the work to end; what is stuck in a name server ends
later, and says nothing to anybody.
"""


def image_list(home: Home) -> Images:
    return Images(
        tuple(
            Image(found.record, found.tags, found.machines) for found in catalog.listed(home.store)
        )
    )


def _meant(home: Home, text: str, platform: str) -> ImageRecord:
    """Of several that a name means the one for the platform; one for another is refused."""
    record = catalog.resolve(home.store, text, platform)
    known = several.platform_of(record)
    if platform and not matches(parse_platform(platform), known):
        from cove.image.distributions import hint_for

        raise NoSuchImage(
            f'cannot find image "{text}" for {platform}: it is for {known}',
            origin=f"--platform {platform}",
            host=f"the image {text} that is here is for {known}",
            hint=hint_for(text, platform),
            exit_code=1,
        )
    return record


def image_inspect(home: Home, text: str, platform: str = "") -> Image:
    record = _meant(home, text, platform)
    for found in catalog.listed(home.store):
        if found.record.id == record.id:
            return Image(found.record, found.tags, found.machines)
    return Image(record)


def image_history(home: Home, text: str, platform: str = "") -> History:
    record = _meant(home, text, platform)
    layers = [home.store.layer(diff_id) for diff_id in record.layers]
    sizes = [layer.size if layer else 0 for layer in layers]
    steps = [
        HistoryEntry("", step.created, step.created_by, step.comment, step.size)
        for step in steps_of(record, sizes)
    ]
    if steps:
        steps[0] = msgspec.structs.replace(steps[0], id=record.id)
    return History(tuple(steps))


def image_tag(home: Home, params: ImageTag) -> Named:
    """Another name for an image; what it named before goes on without it."""
    from cove.image.importing import parse_name

    record, name = catalog.resolve(home.store, params.image), parse_name(params.name)
    if record.id == HOST:
        raise UsageError(
            f"cannot tag host as {name.familiar()}: it is built in, and made anew as the host is",
            origin=params.image,
            hint="keep a machine made of it: cove commit MACHINE NAME",
        )
    index = several.index_of(home.store, params.image)
    if index is not None:
        home.store.tag(str(name), record.id, index.images, index.document)
    else:
        home.store.tag(str(name), record.id)
    home.bases.clear()
    home.publish_image("tag", record, name.familiar())
    return Named(record.id, name.familiar())


def image_remove(home: Home, params: ImageRemove) -> ImageRemoved:
    stopping.settle(home, tuple(home.lives))
    from cove.image.holding import release
    from cove.image.removing import remove_name

    if params.holder:
        removed = release(home.store, params.holder)
    else:
        removed = remove_name(home.store, params.image, force=params.force)
    home.bases.clear()
    for one in removed:
        disk.publish_removed(home, one)
    untagged = dict.fromkeys(name for one in removed for name in one.untagged)
    return ImageRemoved(tuple(untagged), tuple(id for one in removed for id in one.deleted))


def image_load(home: Home, params: ImageLoad, call: Call) -> Iterator[Progress]:
    from cove.image.loading import load_archive

    def work(body: int, report: Callable[[object], None]) -> Iterator[Progress]:
        for loaded in load_archive(
            home.store, body, progress=report, origin=params.origin, holder=params.holder
        ):
            home.publish_image("load", loaded.id)
            yield Progress("done", image=loaded.id, tags=loaded.tags)

    return _stream(home, call, work)


def image_import(home: Home, params: ImageImport, call: Call) -> Iterator[Progress]:
    from cove.image.importing import import_rootfs

    def work(body: int, report: Callable[[object], None]) -> Iterator[Progress]:
        record = import_rootfs(
            home.store,
            body,
            params.reference,
            changes=params.changes,
            message=params.message,
            platform=params.platform,
            progress=report,
            origin=params.origin,
        )
        tags = (params.reference,) if params.reference else ()
        _publish_import(home, record, params.reference)
        yield Progress("done", image=record.id, tags=tags)

    return _stream(home, call, work)


def image_pull(home: Home, params: ImagePull, call: Call) -> Iterator[Progress]:
    from cove.image.pulling import pull, tags_of

    credentials = credentials_of(params.login)
    stopped = threading.Event()

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        common: dict[str, Any]
        common = {"credentials": credentials, "progress": report, "stopped": stopped}
        names: tuple[str, ...] = (params.image,)
        if params.all_tags:
            names = tags_of(home.store, params.image, **common)
        for text in names:
            pulled = pull(
                home.store, text, platform=params.platform, beside=params.beside, **common
            )
            tag = familiar(pulled.reference)
            name = parse_reference(pulled.reference, default_tag=False).familiar_name
            image = home.store.image(pulled.id)
            labels = dict(catalog.image_config(image).labels) if image else {}
            home.events.publish("pull", (tag, name, ""), labels)
            yield Progress(
                "done", image=pulled.id, tags=(tag,), digest=pulled.digest, fresh=pulled.fresh
            )

    return as_steps(home, call, work, stopped, wind_up=WIND_UP)


def image_bootstrap(home: Home, params: ImageBootstrap, call: Call) -> Iterator[Progress]:
    from cove.engine.images.bootstrap import bootstrap
    from cove.image.distributions import read_wish
    from cove.image.importing import parse_name

    wish = read_wish(
        params.distribution, params.variant, params.include, params.mirror, params.platform
    )
    name = parse_name(params.tag or str(wish))
    stopped = threading.Event()

    def gone() -> bool:
        return stopped.is_set() or (call.cancelled is not None and call.cancelled.is_set())

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        record = bootstrap(home, wish, str(name), params.env, progress=report, gone=gone)
        _publish_import(home, record, name.familiar())
        yield Progress("done", image=record.id, tags=(name.familiar(),))

    return as_steps(home, call, work, stopped)


def _publish_import(home: Home, record: ImageRecord, name: str) -> None:
    """As Docker tells of it: the name first."""
    if name:
        home.publish_image("tag", record, familiar(str(parse_reference(name))))
    home.publish_image("import", record)


class _Stopped(CoveError):
    """The caller left: the work ends at its next step."""


def _stream(
    home: Home,
    call: Call,
    work: Callable[[int, Callable[[object], None]], Iterator[Progress]],
) -> Iterator[Progress]:
    if call.body < 0:
        raise UsageError("cannot read an image: nothing was sent")
    stopped = threading.Event()

    def begin(report: Callable[[object], None]) -> Iterator[Progress]:
        with _ending(call.body, stopped) as body:
            yield from work(body, report)

    return as_steps(home, call, begin, stopped)


@contextmanager
def _ending(source: int, stopped: threading.Event) -> Iterator[int]:
    """The same bytes, but their end comes with ``stopped``: who reads a pipe or a terminal cannot
    be told otherwise that nobody wants it any more.
    """
    if stat.S_IFMT(os.fstat(source).st_mode) not in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR):
        yield source
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    over = threading.Event()

    def carry() -> None:
        with suppress(OSError, Stopped):
            pump(source, writer, lambda: over.is_set() or stopped.is_set())
        os.close(writer)

    thread = threading.Thread(target=carry, name="input", daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        over.set()
        os.close(reader)
        thread.join()


def as_steps(
    home: Home,
    call: Call,
    work: Callable[[Callable[[object], None]], Iterator[Progress]],
    stopped: threading.Event,
    *,
    wind_up: float | None = None,
) -> Iterator[Progress]:
    """Steps as they happen: the work has a thread of its own, because it reports by a callback.
    ``stopped`` is set once nobody wants it any more; then the work has ``wind_up`` seconds to end.
    """
    steps: queue.SimpleQueue[Progress | BaseException | None] = queue.SimpleQueue()

    def gone() -> bool:
        return call.cancelled is not None and call.cancelled.is_set()

    def report(step: object) -> None:
        if stopped.is_set() or gone():
            raise _Stopped("interrupted", exit_code=130)
        steps.put(
            Progress(
                getattr(step, "stage", ""),
                getattr(step, "id", ""),
                getattr(step, "current", 0),
                getattr(step, "total", 0),
                getattr(step, "unit", ""),
            )
        )

    def run() -> None:
        try:
            for done in work(report):
                home.bases.clear()  # before anybody knows of it
                steps.put(done)
            steps.put(None)
        except BaseException as error:
            steps.put(error)
        finally:
            home.bases.clear()

    thread = threading.Thread(target=run, name="image", daemon=True)
    thread.start()
    try:
        while True:
            try:
                step = steps.get(timeout=LOOK)
            except queue.Empty:
                if gone():
                    raise _Stopped("interrupted", exit_code=130) from None
                continue
            if step is None:
                return
            if isinstance(step, BaseException):
                raise step
            yield step
    finally:
        stopped.set()
        thread.join(wind_up)
