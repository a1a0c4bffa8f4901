"""What goes to registries, and who may: ``login``, ``push``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from cove.engine.calls import Call, Nothing, Progress
from cove.engine.calls.ship import ImagePush, RegistryLogin
from cove.engine.home import Home
from cove.engine.images.credentials import credentials_of
from cove.engine.images.images import WIND_UP, as_steps
from cove.oci.reference import familiar


def registry_login(home: Home, params: RegistryLogin, call: Call) -> Nothing:
    from cove.image.registries import open_for

    credentials = credentials_of(params.login)
    stopped = call.cancelled or threading.Event()
    with open_for(
        home.store, f"{params.domain}/login", credentials, lambda step: None, stopped,
        verb="log in to",
    ) as (_, registry):  # fmt: skip
        registry.try_login()
    return Nothing()


def image_push(home: Home, params: ImagePush, call: Call) -> Iterator[Progress]:
    from cove.image.pushing import push, tags_of

    credentials = credentials_of(params.login)
    stopped = threading.Event()

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        names = tags_of(home.store, params.image) if params.all_tags else (params.image,)
        for text in names:
            pushed = push(
                home.store,
                text,
                platform=params.platform,
                kind=params.compression,
                credentials=credentials,
                progress=report,
                stopped=stopped,
            )
            image, name = home.store.image(pushed.id), familiar(pushed.reference)
            if image is not None:
                home.publish_image("push", image, name)
            yield Progress(
                "done", total=pushed.size, image=pushed.id, tags=(name,), digest=pushed.digest,
                kind=pushed.kind,
            )  # fmt: skip

    return as_steps(home, call, work, stopped, wind_up=WIND_UP)
