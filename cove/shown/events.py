"""Events as Docker's API and templates have them, and the moments they are asked for by."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from cove.engine import calls
from cove.errors import one_line
from cove.shown.functions import to_json
from cove.shown.table import safe
from cove.shown.template import Record, Template
from cove.spec.values import parse_duration, parse_time

SECOND = 1_000_000_000
KEYS = (
    "config", "container", "daemon", "event", "image", "label", "machine", "network", "node",
    "plugin", "scope", "secret", "service", "type", "volume",
)  # fmt: skip
_NUMBER = re.compile(r"(\d+)(?:\.(\d{1,9}))?")
_FRACTION = re.compile(r"(.+:\d\d)\.(\d{1,9})(.*)")


def parse_moment(text: str, now_ns: int, zone: tzinfo) -> int:
    """Nanoseconds, and no fraction is lost: ``10m`` (ago), ``-10s`` (to come), a date, or Unix
    seconds.
    """
    number = _NUMBER.fullmatch(text)
    if number:
        return int(number[1]) * SECOND + _nanoseconds(number[2] or "")
    if text.startswith("-"):
        return now_ns + round(parse_duration(text[1:]) * SECOND)
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        whole = parse_time(fraction[1] + fraction[3], 0.0, zone)
        return int(whole) * SECOND + _nanoseconds(fraction[2])
    # what is relative is taken from 0, so that a float has room for it
    ago = parse_time(text, 0.0, zone)
    return now_ns + round(ago * SECOND) if ago <= 0 else int(ago) * SECOND


def _nanoseconds(digits: str) -> int:
    return int(digits.ljust(9, "0"))


def check_moment(text: str) -> str:
    parse_moment(text, 0, UTC)
    return text


def stamp(time_ns: int, zone: tzinfo | None) -> str:
    """RFC 3339 with nanoseconds in the caller's zone."""
    seconds, rest = divmod(time_ns, SECOND)
    moment = datetime.fromtimestamp(seconds, UTC).astimezone(zone)
    offset = moment.strftime("%z")
    shown = "Z" if offset in ("+0000", "") else f"{offset[:3]}:{offset[3:5]}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}{shown}"


def line(event: calls.Event, zone: tzinfo | None) -> str:
    """As Docker; what comes from images and machines cannot begin a line of its own."""
    pairs = ", ".join(f"{key}={value}" for key, value in sorted(event.attributes.items()))
    text = f"{event.type} {event.action} {event.id}" + (f" ({pairs})" if pairs else "")
    return f"{stamp(event.time_ns, zone)} {one_line(text)}\n"


class Shown(Record):
    """An event for templates, by Go's names; as JSON by those of Docker's API."""

    def items(self) -> list[tuple[str, object]]:  # type: ignore[override]
        told = ("Status", "status"), ("ID", "id"), ("From", "from")
        found = {name: self[key] for key, name in told if self[key]}
        found |= {key: self[key] for key in ("Type", "Action", "Actor")}
        last = ("Scope", "scope"), ("Time", "time"), ("TimeNano", "timeNano")
        return [*found.items(), *((name, self[key]) for key, name in last)]


def record(event: calls.Event) -> Shown:
    """Status, id and from are there as older clients know them: of machines and images only."""
    old = event.type in ("container", "image")
    image = event.attributes.get("image", "") if event.type == "container" else ""
    return Shown(
        Status=event.action if old else "",
        ID=event.id if old else "",
        From=image,
        Type=event.type,
        Action=event.action,
        Actor=Record(ID=event.id, Attributes=dict(event.attributes)),
        Scope="local",
        Time=event.time_ns // SECOND,
        TimeNano=event.time_ns,
    )


def render(event: calls.Event, form: str, template: Template | None, zone: tzinfo | None) -> str:
    if form == "json":
        return to_json(record(event)) + "\n"
    return line(event, zone) if template is None else safe(template.render(record(event))) + "\n"
