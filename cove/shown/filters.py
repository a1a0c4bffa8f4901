"""``--filter`` of ``ps`` and ``images``: Docker's keys and meanings. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from cove.engine.calls import Image
from cove.errors import UsageError
from cove.oci.reference import familiar
from cove.shown.ports import exposed_now, published_now
from cove.spec.machine import connections_of
from cove.spec.ports import exposes
from cove.spec.suggest import did_you_mean
from cove.store.records import MachineRecord

Filters = Mapping[str, tuple[str, ...]]

STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
HOST = "host"


def parse_filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(
            f'cannot read filter "{text}": not NAME=VALUE', hint="write status=running"
        )
    return key.strip().lower(), value.strip()


def gather(pairs: Sequence[tuple[str, str]], known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Key to all its values; an unknown key is an error."""
    filters: dict[str, tuple[str, ...]] = {}
    for key, value in pairs:
        if key not in known:
            raise UsageError(
                f'cannot filter by "{key}": no such filter',
                origin=f"--filter {key}={value}",
                hint=did_you_mean(key, known) or f"the filters are {', '.join(sorted(known))}",
            )
        filters[key] = (*filters.get(key, ()), value)
    return filters


def same_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def plain_reference(text: str) -> str:
    """A reference with its tag and without what goes without saying."""
    text = text.removeprefix("docker.io/").removeprefix("library/")
    if "@" in text or text == HOST:
        return text
    return text if ":" in text.rpartition("/")[2] else f"{text}:latest"


# ---- machines ----

Test = Callable[[MachineRecord, str], bool]


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error:
        return re.compile(re.escape(text))


def _check_exit_code(code: str) -> None:
    if not re.fullmatch(r"-?\d+", code):
        raise UsageError(f'cannot filter by "exited={code}": the value is an exit code')


def _exited(record: MachineRecord, code: str) -> bool:
    return record.state == "exited" and record.exit_code == int(code)


def _ancestor(record: MachineRecord, image: str) -> bool:
    bare = image.removeprefix("sha256:")
    if record.image.removeprefix("sha256:").startswith(bare) and len(bare) >= 4:
        return True
    return plain_reference(record.spec.image) == plain_reference(image)


def _volume(record: MachineRecord, wanted: str) -> bool:
    return any(wanted in (m.source, m.target) for m in record.spec.mounts if m.type != "tmpfs")


def _check_state(state: str) -> None:
    if state not in STATES:
        raise UsageError(
            f'cannot filter by "status={state}": no such state',
            hint=did_you_mean(state, STATES) or f"the states are {', '.join(STATES)}",
        )


def _networks(record: MachineRecord) -> list[str]:
    """Names as typed, and the ids of those that it is on."""
    wishes = [wish.network for wish in connections_of(record.spec)]
    return [*(wishes or [record.spec.network]), *(e.network for e in record.endpoints)]


def _is_one_of(ports: Iterable[str], value: str) -> bool:
    """``80``, ``53/udp``, ``8000-8010``."""
    return not set(exposes(value)).isdisjoint(ports)


def _publishes(record: MachineRecord, value: str) -> bool:
    """A port of the host, as in Docker."""
    return _is_one_of((f"{p.host}/{p.protocol}" for p in published_now(record)), value)


def _exposes(record: MachineRecord, value: str) -> bool:
    """The machine's own, while it serves."""
    published = (f"{p.port}/{p.protocol}" for p in published_now(record))
    return _is_one_of((*exposed_now(record), *published), value)


MACHINE_TESTS: dict[str, Test] = {
    "id": lambda r, v: v != "" and _pattern(v).search(r.id) is not None,
    "name": lambda r, v: (
        _pattern(v.removeprefix("/")).search(r.name) is not None
        or _pattern(v).search("/" + r.name) is not None
    ),
    "status": lambda r, v: r.state == v,
    "exited": _exited,
    "ancestor": _ancestor,
    "volume": _volume,
    "network": lambda r, v: v in _networks(r),
    "isolation": lambda r, v: r.spec.isolation == v,
    "health": lambda r, v: v == (r.health.status if r.check and r.health else "none"),
    "is-task": lambda r, v: v in ("false", "0"),
    "publish": _publishes,
    "expose": _exposes,
}
CHECKS = {"status": _check_state, "exited": _check_exit_code}
"""Values that are wrong whatever there is to list."""
MACHINE_KEYS = (*MACHINE_TESTS, "label", "before", "since")


def keep_machines(machines: Sequence[MachineRecord], filters: Filters) -> list[MachineRecord]:
    """Those that match one value of every key, and every label."""
    kept = list(machines)
    for key, values in filters.items():
        for value in values if key in CHECKS else ():
            CHECKS[key](value)
        if key == "label":
            kept = [r for r in kept if all(same_label(r.spec.labels, v) for v in values)]
        elif key in ("before", "since"):
            for value in values:
                kept = _relative(kept, machines, key, value)
        else:
            test = MACHINE_TESTS[key]
            kept = [r for r in kept if any(test(r, v) for v in values)]
    return kept


def _relative(
    kept: list[MachineRecord], machines: Sequence[MachineRecord], key: str, name: str
) -> list[MachineRecord]:
    found = [r for r in machines if r.name == name.removeprefix("/") or r.id.startswith(name)]
    if not found:
        raise UsageError(f'cannot filter by "{key}={name}": no such machine')
    edge = (found[0].created, found[0].key)
    if key == "before":
        return [r for r in kept if (r.created, r.key) < edge]
    return [r for r in kept if (r.created, r.key) > edge]


# ---- images ----

IMAGE_KEYS = ("reference", "label", "dangling", "before", "since", "until")


def keep_images(images: Sequence[Image], filters: Filters, now: float) -> list[Image]:
    kept = list(images)
    for key, values in filters.items():
        for value in values if key != "reference" else ():
            kept = _image_test(kept, images, key, value, now)
    if "reference" in filters:
        called = (_called(image, filters["reference"]) for image in kept)
        kept = [image for image in called if image.tags or image.record.digests]
    return kept


def _image_test(
    kept: list[Image], images: Sequence[Image], key: str, value: str, now: float
) -> list[Image]:
    from cove.spec.values import parse_bool, parse_time

    if key == "label":
        return [i for i in kept if same_label(image_labels(i), value)]
    if key == "dangling":
        return [i for i in kept if (not i.tags) == parse_bool(value)]
    if key == "until":
        return [i for i in kept if i.record.created < parse_time(value, now)]
    found = [
        i
        for i in images
        if plain_reference(value) in i.tags or i.record.id.removeprefix("sha256:").startswith(value)
    ]
    if not found:
        raise UsageError(f'cannot filter by "{key}={value}": no such image')
    edge = found[0].record.created
    return [i for i in kept if (i.record.created < edge) == (key == "before") and i is not found[0]]


def image_labels(image: Image) -> dict[str, str]:
    inner = image.record.config.get("config")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def _called(image: Image, patterns: tuple[str, ...]) -> Image:
    """The image with those of its names that were asked for."""

    def asked(name: str) -> bool:
        return any(_matches(name, pattern) for pattern in patterns)

    record = image.record
    digests = tuple(d for d in record.digests if asked(familiar(d).partition("@")[0]))
    return msgspec.structs.replace(
        image,
        tags=tuple(tag for tag in image.tags if asked(tag)),
        record=msgspec.structs.replace(record, digests=digests),
    )


def _matches(tag: str, pattern: str) -> bool:
    """As Docker: a shell pattern over the familiar name, with or without the tag."""
    name = tag.rpartition(":")[0] if ":" in tag.rpartition("/")[2] else tag
    return any(_glob(pattern).fullmatch(text) for text in (tag, name))


def _glob(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` stop at a slash."""
    parts = {"*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(parts.get(c, re.escape(c)) for c in pattern))
