"""``logs``: what a machine wrote, as bytes, to the stream it wrote it to."""

from __future__ import annotations

import re
import time

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.cli.units import stamp_ns
from cove.client.api import Client
from cove.engine import calls
from cove.errors import UsageError, printable
from cove.spec.flags import Flag
from cove.spec.values import parse_time

_DANGEROUS = re.compile(
    rb"\x1b\[[0-9;:]*m|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]",
)


def tame(data: bytes) -> bytes:
    """For a terminal: colours stay; what moves the cursor, sets titles or asks the terminal is
    shown instead of obeyed, since a log may be hostile.
    """
    return _DANGEROUS.sub(_tamed, data)


def _tamed(match: re.Match[bytes]) -> bytes:
    text = match[0]
    if len(text) > 2:
        return text
    if text == b"\x1b":
        return b"^["
    return b"".join(b"\\x%02x" % byte for byte in text)


class Stamped:
    """Output cut at lines, each behind its time."""

    def __init__(self) -> None:
        self.fresh = {1: True, 2: True}

    def lines(self, entry: calls.LogEntry) -> bytes:
        mark = stamp_ns(entry.time_ns).encode() + b" "
        out = []
        for line in entry.data.splitlines(keepends=True):
            out.append((mark if self.fresh[entry.stream] else b"") + line)
            self.fresh[entry.stream] = line.endswith(b"\n")
        return b"".join(out)


def logs(typed: Typed, terminal: Terminal, client: Client) -> int:
    now = time.time()
    since, until = typed.text("since"), typed.text("until")
    params = calls.Logs(
        typed.words[0],
        follow=typed.on("follow"),
        tail=int(typed.values.get("tail", -1)),
        since=parse_time(since, now) if since else 0.0,
        until=parse_time(until, now) if until else 0.0,
    )
    stamped = Stamped() if typed.on("timestamps") else None
    entries = client.logs(params, terminal.cancelled)
    try:
        for entry in entries:
            fd = 2 if entry.stream == 2 else 1
            if entry.stream not in (1, 2):
                terminal.error(f"cove: note: {printable(entry.data.decode(errors='replace'))}\n")
                continue
            data = stamped.lines(entry) if stamped else entry.data
            if terminal.is_terminal(fd) and not typed.on("raw"):
                data = tame(data)
            terminal.write(data, fd)
    finally:
        close = getattr(entries, "close", None)
        if close:
            close()
    return 130 if terminal.cancelled.is_set() else 0


def parse_tail(text: str) -> int:
    if text == "all":
        return -1
    if not re.fullmatch(r"-?\d+", text):
        raise UsageError(f'cannot read "{text}": it is a number of lines, or all')
    return max(-1, int(text))


def check_time(text: str) -> str:
    parse_time(text, 0.0)
    return text


COMMANDS = {
    "logs": Command(
        "logs",
        logs,
        help="Show what a machine wrote",
        flags=(
            Flag("follow", "follow", "Go on until it ends", "f"),
            Flag("tail", "tail", "Only the last lines", "n", "NUMBER", parse_tail, default="all"),
            Flag("since", "since", "From this moment on: 10m, 2026-01-31T09:00", "", "TIME",
                 check_time),
            Flag("until", "until", "Up to this moment", "", "TIME", check_time),
            Flag("timestamps", "timestamps", "Each line's time before it", "t"),
            Flag("raw", "raw", "Do not make control characters harmless on a terminal"),
        ),
        words="MACHINE",
        least=1,
        most=1,
        group="Look",
    )
}  # fmt: skip
