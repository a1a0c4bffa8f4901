"""The stream of events: what is remembered, then what happens, as far as filters let it through.
The meaning of a filter is Docker's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from cove.engine import calls
from cove.engine.calls import MISSED, Event
from cove.engine.events import Cancel, Subscription
from cove.engine.home import Home
from cove.errors import UsageError
from cove.spec.suggest import did_you_mean

Test = Callable[[Event, str], bool]
FAMILIES = ("exec_create", "exec_start", "health_status")
"""Actions with words of their own behind a colon: a filter names how they begin."""
SCOPE = "local"
OF_SWARM = ("config", "node", "secret", "service")


def events(
    home: Home, params: calls.Events, cancelled: threading.Event | None
) -> Iterator[calls.Event]:
    """Until ``until_ns``, or until the caller leaves."""
    wanted = matcher(params.filters)
    since, until = params.since_ns, params.until_ns

    def chosen(event: Event) -> bool:
        return event.time_ns >= since and (event.action == MISSED or wanted(event))

    with home.events.follow() as (mine, past):
        if since or until:
            last = until or 1 << 63
            yield from (event for event in past if event.time_ns <= last and chosen(event))
        with woken(cancelled, mine):
            while not (cancelled is not None and cancelled.is_set()):
                left = (until - time.time_ns()) / 1e9 if until else None
                if left is not None and left <= 0:
                    return
                event = mine.get(left)
                if event is not None and until and event.time_ns > until:
                    return
                if event is not None and chosen(event):
                    yield event


def woken(
    cancelled: threading.Event | None, listener: Subscription
) -> AbstractContextManager[None]:
    """While inside, a cancel wakes the listener."""
    return cancelled.then(listener.wake) if isinstance(cancelled, Cancel) else nullcontext()


# ---- filters ----


def matcher(filters: Mapping[str, tuple[str, ...]]) -> Callable[[Event], bool]:
    """One value of every key has to match, and every label."""
    for key in filters:
        if key not in TESTS and key != "label":
            raise UsageError(
                f'cannot filter events by "{key}": no such filter',
                hint=did_you_mean(key, TESTS)
                or f"the filters are {', '.join(sorted((*TESTS, 'label')))}",
            )
    labels = filters.get("label", ())
    tests = [(TESTS[key], values) for key, values in filters.items() if key != "label"]

    def matches(event: Event) -> bool:
        return all(_labelled(event, label) for label in labels) and all(
            any(test(event, value) for value in values) for test, values in tests
        )

    return matches


def _labelled(event: Event, wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in event.attributes and (not equals or event.attributes[name] == value)


def _action(event: Event, wanted: str) -> bool:
    if event.action.partition(":")[0] in FAMILIES:
        return event.action.startswith(wanted)
    return event.action == wanted


def _called(kind: str) -> Test:
    """The beginning of an id or a name is enough."""

    def test(event: Event, wanted: str) -> bool:
        name = event.attributes.get("name", "")
        wanted = wanted.removeprefix("/")
        return event.type == kind and (event.id.startswith(wanted) or name.startswith(wanted))

    return test


def _image(event: Event, wanted: str) -> bool:
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return wanted in (event.id, name, _untagged(name))


def _untagged(name: str) -> str:
    return name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name


TESTS: dict[str, Test] = {
    "type": lambda e, v: e.type == ("container" if v == "machine" else v),
    "event": _action,
    "container": _called("container"),
    "machine": _called("container"),
    "image": _image,
    "scope": lambda e, v: v == SCOPE,
    **{kind: _called(kind) for kind in ("daemon", "network", "plugin", "volume", *OF_SWARM)},
}
