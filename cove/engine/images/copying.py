"""``image copy``: from one place to another, past the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cove.engine.calls import Call, Progress
from cove.engine.calls.ship import ImageCopied, ImageCopy
from cove.engine.home import Home
from cove.engine.images.credentials import credentials_of
from cove.engine.images.images import WIND_UP, as_steps
from cove.errors import CoveError
from cove.oci.places import Place, parse_place

if TYPE_CHECKING:
    from cove.image.copying.copying import Copied
    from cove.image.copying.opening import Copying
    from cove.image.copying.targets import Target


def image_copy(home: Home, params: ImageCopy, call: Call) -> Iterator[Progress]:
    """Into a registry."""
    stopped = threading.Event()

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        from cove.image.copying import opening

        source, target = parse_place(params.source), parse_place(params.target)
        going = opening.Copying(home.store, report, stopped)
        login = credentials_of(params.target_login)
        with (
            _named(params),
            opening.open_registry_target(going, target, login, source) as (place, stop),
        ):
            done = _copy(going, source, place, stop, params, call.body)
        yield Progress("done", total=done.size, tags=(target.name,), digest=done.digest)

    return as_steps(home, call, work, stopped, wind_up=WIND_UP)


def image_copy_out(home: Home, params: ImageCopy, call: Call) -> ImageCopied:
    """Into a tar."""
    from cove.image.copying import opening

    stopped = call.cancelled or threading.Event()
    going = opening.Copying(home.store, lambda step: None, stopped)
    source, target = parse_place(params.source), parse_place(params.target)
    with _named(params):
        place = opening.archive_target(target, call.sink, stopped.is_set)
        done = _copy(going, source, place, lambda: None, params, call.body)
    return ImageCopied(done.digest, done.size)


def _copy(
    going: Copying,
    source: Place,
    target: Target,
    stop_target: Callable[[], None],
    params: ImageCopy,
    body: int,
) -> Copied:
    from cove.image.copying import converting, copying, opening
    from cove.oci.manifest import host_platform_of, parse_platform

    wanted = parse_platform(params.platform) if params.platform else host_platform_of()
    login = credentials_of(params.source_login)
    with opening.open_source(going, source, login, body) as (origin, stop_source):
        items = copying.gather(origin, None if params.every else wanted)

        def stop() -> None:
            stop_source()
            stop_target()

        with ExitStack() as stack:
            form = converting.Form(params.form, params.compression)
            if form.asked:
                made = converting.Converted(
                    origin, going.store.layout.tmp, going.tell, going.stopped.is_set, stack,
                    origin.text,
                )  # fmt: skip
                items, origin = converting.convert(items, form, made), made
            return copying.copy(origin, target, items, going.tell, stop)


@contextmanager
def _named(params: ImageCopy) -> Iterator[None]:
    """Inside: errors show what was typed."""
    try:
        yield
    except CoveError as error:
        error.origin = error.origin or f"{params.source} {params.target}"
        raise
