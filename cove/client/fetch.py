"""Getting an image that is not here, before a machine is made from it."""

from __future__ import annotations

import os
from collections.abc import Callable

from cove.client.steps import Item, Steps
from cove.client.talk import Daemon
from cove.engine import calls
from cove.errors import CoveError, UsageError
from cove.oci.reference import parse_reference

BUILT_IN = ("host", "host:latest", "host:built-in")


def may_be_pulled(image: str) -> bool:
    """What looks like an id, or is built in, is not looked for in a registry."""
    try:
        built_in = image in BUILT_IN or image.startswith("sha256:")
        return not built_in and bool(parse_reference(image))
    except UsageError:
        return False


def login_for(image: str) -> calls.Login | None:
    """The caller's login for the image's registry."""
    from cove.client.logins import keeper_of

    found = keeper_of(os.environ, os.getcwd()).find(parse_reference(image).domain)
    return calls.Login(found.username, found.password) if found else None


def fetch(
    daemon: Daemon,
    image: str,
    platform: str = "",
    progress: Callable[[calls.Progress], object] | None = None,
) -> Steps[calls.Progress]:
    """Pull; the last step."""
    params = calls.ImagePull(image, platform, login_for(image))
    return (yield from last_step(daemon.stream("image.pull", params), image, progress))


def last_step(
    steps: Steps[None],
    what: str,
    progress: Callable[[calls.Progress], object] | None = None,
) -> Steps[calls.Progress]:
    """Follow a long verb to its step ``done``, telling each to ``progress``."""
    done: calls.Progress | None = None
    try:
        want = next(steps)
        while True:
            if isinstance(want, Item):
                if progress is not None:
                    progress(want.value)
                if want.value.stage == "done":
                    done = want.value
                want = steps.send(None)
                continue
            try:
                answer = yield want
            except Exception as error:
                want = steps.throw(error)
            else:
                want = steps.send(answer)
    except StopIteration:
        pass
    finally:
        steps.close()
    if done is None:
        raise CoveError(f"cannot get {what}: it ended in the middle")
    return done
