"""``top`` and ``stats``: what machines do and use, in Docker's columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cove.cli.command import Command, Typed
from cove.cli.machines.ps import FORMAT
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import printable
from cove.shown import table, units
from cove.shown.template import LazyRecord, Record
from cove.spec.flags import Flag

INTERRUPTED = 130

LISTING = table.Listing(
    headings={
        "ID": "MACHINE ID",
        "Container": "MACHINE",
        "Name": "NAME",
        "CPUPerc": "CPU %",
        "MemUsage": "MEM USAGE / LIMIT",
        "MemPerc": "MEM %",
        "NetIO": "NET I/O",
        "BlockIO": "BLOCK I/O",
        "PIDs": "PIDS",
    },
    default="{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t"
    "{{.BlockIO}}\t{{.PIDs}}",
)


@dataclass(frozen=True, slots=True)
class Seen:
    stats: calls.Stats
    typed: str
    full: bool


def _both(first: int, second: int) -> str:
    """Not counted on this host: ``--``."""
    if first < 0 or second < 0:
        return "--"
    return f"{units.human_size(first)} / {units.human_size(second)}"


def _network(stats: calls.Stats) -> str:
    links = stats.networks.values()
    return _both(sum(link.received for link in links), sum(link.sent for link in links))


FIELDS: dict[str, Callable[[Seen], Any]] = {
    "ID": lambda s: s.stats.id if s.full else s.stats.id[:12],
    "Container": lambda s: s.typed or s.stats.id,
    "Name": lambda s: s.stats.name,
    "CPUPerc": lambda s: f"{s.stats.cpu_percent:.2f}%",
    "MemUsage": lambda s: (
        f"{units.binary_size(s.stats.memory_used)} / {units.binary_size(s.stats.memory_limit)}"
    ),
    "MemPerc": lambda s: f"{s.stats.memory_percent:.2f}%",
    "NetIO": lambda s: _network(s.stats),
    "BlockIO": lambda s: _both(s.stats.read, s.stats.written),
    "PIDs": lambda s: str(max(0, s.stats.pids)),
}


def rows(seen: calls.Round, typed: Sequence[str], *, full: bool) -> list[Record]:
    """``typed``: how machines were named, which templates may ask for."""

    def name_of(stats: calls.Stats) -> str:
        said = (t for t in typed if t.removeprefix("/") == stats.name or stats.id.startswith(t))
        return next(said, "")

    return [LazyRecord(FIELDS, Seen(one, name_of(one), full)) for one in seen.stats]


def stats(typed: Typed, terminal: Terminal, client: Client) -> int:
    form = typed.text("format")
    table.template_of(form, LISTING)  # a mistake is told before a second has passed
    live = not typed.on("no_stream")
    params = calls.StatsRequest(typed.words, all=typed.on("all"), stream=live)
    rounds = client.stats(params, terminal.cancelled)
    screen = Screen(terminal) if live and terminal.is_terminal(1) else None
    try:
        for seen in rounds:
            text = table.render(
                rows(seen, typed.words, full=typed.on("full")), LISTING, form.strip() or "table"
            )
            if screen is not None:
                screen.draw(text)
            else:
                terminal.write(text)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        close = getattr(rounds, "close", None)
        if close:
            close()
    return INTERRUPTED if terminal.cancelled.is_set() else 0


class Screen:
    """Frames drawn over each other from the top left, no larger than the terminal is now."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal, self._begun = terminal, False

    def draw(self, text: str) -> None:
        rows, columns = self._size()
        lines = [line[:columns] for line in text.splitlines()]
        if len(lines) > rows - 1:
            lines = [*lines[: max(1, rows - 2)], f"… and {len(lines) - max(1, rows - 2)} more"]
        begin = "\x1b[H" if self._begun else "\x1b[2J\x1b[H"
        self._begun = True
        self._terminal.write(begin + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._terminal.fds[1])
        except OSError:
            return self._terminal.rows or 24, self._terminal.columns or 80
        return size.lines or 24, size.columns or 80


TITLES = 20
"""As Docker's: columns of top are at least this wide."""


def top(typed: Typed, terminal: Terminal, client: Client) -> int:
    machine, *options = typed.words
    found = client.top(calls.Top(machine, tuple(options)))
    lines = [[printable(cell) for cell in cells] for cells in (found.titles, *found.rows)]
    terminal.write(table.align(lines, minimum=TITLES))
    return 0


COMMANDS = {
    "top": Command(
        "top",
        top,
        help="Show the processes of a machine",
        words="MACHINE [PS-OPTION...]",
        interspersed=False,
        group="Look",
        about="As the ps of this host shows them, under the host's process ids: cove top web aux; "
        "cove top web -o pid,comm.",
    ),
    "stats": Command(
        "stats",
        stats,
        help="Show what machines use, once a second",
        flags=(
            Flag("all", "all", "Also those that do not run", "a"),
            FORMAT,
            Flag("no-stream", "no_stream", "Only once"),
            Flag("no-trunc", "full", "Cut nothing off"),
        ),
        words="[MACHINE...]",
        group="Look",
        about="Memory is counted without the cache of files that the kernel gives up first; CPU "
        "is 100 % for one CPU.",
    ),
}
