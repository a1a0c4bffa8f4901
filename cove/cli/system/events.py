"""``events``: what happens to machines and images, a line each as it happens."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.shown import filters, units
from cove.shown.events import KEYS, check_moment, parse_moment, record, render
from cove.shown.template import compile_template
from cove.spec.flags import Flag

INTERRUPTED = 130


def _missed(event: calls.Event) -> str:
    count = event.attributes.get("count", "")
    return f"cove: note: {count} events were missed: they came faster than they were read\n"


def events(typed: Typed, terminal: Terminal, client: Client) -> int:
    now, zone = time.time_ns(), units.time_zone(terminal.env)
    here = zone or datetime.now().astimezone().tzinfo or UTC
    since, until = (
        parse_moment(typed.text(name), now, here) if typed.text(name) else 0
        for name in ("since", "until")
    )
    wanted = filters.gather(typed.values.get("filter", ()), KEYS)
    form = typed.text("format").strip()
    plain = form in ("", "json")
    template = None if plain else compile_template(form.replace("\\t", "\t").replace("\\n", "\n"))
    if template is not None:
        template.render(record(calls.Event("", "", "", {}, 0)))  # a mistake is told at once
    found = client.events(calls.Events(since, until, wanted), terminal.cancelled)
    try:
        for event in found:
            if event.action == calls.MISSED:
                terminal.error(_missed(event))
            else:
                terminal.write(render(event, form, template, zone))
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        close = getattr(found, "close", None)
        if close:
            close()
    return INTERRUPTED if terminal.cancelled.is_set() else 0


COMMANDS = {
    "events": Command(
        "events",
        events,
        help="Show what happens to machines and images, as it happens",
        flags=(
            Flag("filter", "filter", "Only what matches: NAME=VALUE", "f", "FILTER",
                 filters.parse_filter, repeat=True),
            Flag("format", "format", "json, or a template: {{.Type}} {{.Action}}", "", "FORMAT"),
            Flag("since", "since", "Also what happened from this moment on: 10m, "
                 "2026-01-31T09:00, Unix seconds", "", "TIME", check_moment),
            Flag("until", "until", "Up to this moment; -10s lies ahead", "", "TIME",
                 check_moment),
        ),
        group="Look",
        about="Filters: container (or machine), daemon, event, image, label, network, scope, type, "
        "volume. Of the past the last 1024 events are remembered.",
    )
}  # fmt: skip
