"""``manifest create annotate inspect push rm``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from cove.engine.calls import Call, Login, Progress
from cove.engine.calls.lists import (
    ManifestAnnotate,
    ManifestCreate,
    ManifestInspect,
    ManifestPush,
    ManifestRemove,
    ManifestShown,
)
from cove.engine.home import Home
from cove.engine.images.credentials import credentials_of
from cove.engine.images.images import WIND_UP, as_steps
from cove.errors import NotFound
from cove.oci.reference import familiar, parse_reference
from cove.store.lists import remove_list

if TYPE_CHECKING:
    from cove.image.distribution import Distributed
    from cove.image.layers import Progress as Report
    from cove.image.lists import Asking


def _asking(
    home: Home, logins: Mapping[str, Login], stopped: threading.Event, tell: Report
) -> Asking:
    from cove.image.lists import Asking

    known = {name: found for name, one in logins.items() if (found := credentials_of(one))}
    return Asking(home.store, known, tell, stopped)


def _silent(home: Home, logins: Mapping[str, Login], call: Call) -> Asking:
    return _asking(home, logins, call.cancelled or threading.Event(), lambda step: None)


def manifest_create(home: Home, params: ManifestCreate, call: Call) -> ManifestShown:
    from cove.image import lists

    asking = _silent(home, params.logins, call)
    made = lists.create(asking, params.name, params.members, amend=params.amend)
    return ManifestShown(made.name)


def manifest_annotate(home: Home, params: ManifestAnnotate, call: Call) -> ManifestShown:
    from cove.image import lists

    given: dict[str, object] = {
        "os": params.os,
        "architecture": params.architecture,
        "variant": params.variant,
        "os_version": params.os_version,
        "os_features": params.os_features,
    }
    return ManifestShown(lists.annotate(home.store, params.name, params.member, given).name)


def manifest_inspect(home: Home, params: ManifestInspect, call: Call) -> ManifestShown:
    from cove.image import lists

    if params.local:
        known = lists.known_list(home.store, params.name, "push")
        return ManifestShown(known.name, members=tuple(one.reference for one in known.members))
    asking = _silent(home, params.logins, call)
    data = lists.inspect(asking, params.name, params.member, remote=params.remote)
    return ManifestShown(str(parse_reference(params.name)), data.decode("utf-8", "replace"))


def image_distribution(home: Home, text: str, login: Login | None, call: Call) -> Distributed:
    """What a registry has under a name."""
    from cove.image.distribution import look

    logins = {parse_reference(text).domain: login} if login else {}
    return look(_silent(home, logins, call), text)


def manifest_push(home: Home, params: ManifestPush, call: Call) -> Iterator[Progress]:
    stopped = threading.Event()

    def work(report: Callable[[object], None]) -> Iterator[Progress]:
        from cove.image import lists

        asking = _asking(home, params.logins, stopped, report)
        if params.members:
            item = lists.push_together(asking, params.name, params.members)
        else:
            item = lists.push(asking, params.name, purge=params.purge)
        yield Progress("done", total=len(item.data), tags=(params.name,), digest=item.digest)

    return as_steps(home, call, work, stopped, wind_up=WIND_UP)


def manifest_remove(home: Home, params: ManifestRemove, call: Call) -> ManifestShown:
    name = str(parse_reference(params.name))
    if not remove_list(home.store.layout, name):
        raise NotFound(
            f"cannot remove manifest list {familiar(name)}: no such list", origin=params.name
        )
    return ManifestShown(name)
