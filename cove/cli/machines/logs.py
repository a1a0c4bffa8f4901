"""``logs``: what a machine wrote, as bytes, to the stream it wrote it to."""

from __future__ import annotations

import re
import time
from datetime import UTC, tzinfo

from cove.cli.command import Command, Typed
from cove.cli.terminal import Terminal
from cove.client.api import Client
from cove.engine import calls
from cove.errors import UsageError, printable
from cove.shown.logs import Marked
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


def local_zone(env: dict[str, str]) -> tzinfo:
    """What a moment without a zone means to the caller, as to Docker."""
    from zoneinfo import ZoneInfo

    name = env.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with open("/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):  # no such zone, or no time zones on this host
        return UTC


def _params(typed: Typed, terminal: Terminal, position: str) -> calls.Logs:
    now, zone = time.time(), local_zone(terminal.env)
    since, until = typed.text("since"), typed.text("until")
    return calls.Logs(
        typed.words[0],
        follow=typed.on("follow"),
        tail=int(typed.values.get("tail", -1)),
        since=parse_time(since, now, zone) if since else 0.0,
        until=parse_time(until, now, zone) if until else 0.0,
        notes=True,
        merged=not typed.on("timestamps"),
        positions=typed.on("follow"),
        position=position,
    )


class Printer:
    """Writes entries, and keeps in ``terminal.resume`` where another daemon would go on: behind an
    entry, with the bytes of the next that were written already, and the streams that are at the
    beginning of a line.
    """

    RESUME = re.compile(r"(\d+:\d+:\d+)/(\d+)/([12]*)")

    def __init__(self, typed: Typed, terminal: Terminal) -> None:
        self._terminal, self._raw = terminal, typed.on("raw")
        self._marked = Marked(typed.on("timestamps"), typed.on("details"))
        self._position, self._skip = "", 0
        self._fresh, self._written = "12", 0

    def go_on(self) -> str:
        """The position that the daemon before this one left, if it did."""
        match = self.RESUME.fullmatch(self._terminal.env.get("COVE_RESUME", ""))
        if match is None:
            return ""
        self._position, self._skip, self._fresh = match[1], int(match[2]), match[3]
        self._marked.fresh = set(map(int, match[3]))
        return self._position

    def print(self, entry: calls.LogEntry) -> None:
        terminal, fd = self._terminal, 2 if entry.stream == 2 else 1
        data = self._marked.lines(entry) if entry.stream in (1, 2) else b""
        if terminal.is_terminal(fd) and not self._raw:
            data = tame(data)
        if data:
            rest = data[self._skip :]
            terminal.written += len(data) - len(rest)
            self._skip -= len(data) - len(rest)
            terminal.write(rest, fd)
        elif entry.data:
            text = printable(entry.data.decode(errors="replace").rstrip("\n"))
            terminal.error(f"cove: note: {text}\n")
        if entry.position:
            self._position, self._written = entry.position, terminal.written
            self._fresh = "".join(map(str, sorted(self._marked.fresh)))

    def leave(self) -> None:
        done = self._terminal.written - self._written + self._skip
        if self._position:
            self._terminal.resume = f"{self._position}/{done}/{self._fresh}"


def logs(typed: Typed, terminal: Terminal, client: Client) -> int:
    printer = Printer(typed, terminal)
    params = _params(typed, terminal, printer.go_on())
    entries = client.logs(params, terminal.cancelled)
    try:
        for entry in entries:
            printer.print(entry)
    finally:
        printer.leave()
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
            Flag("details", "details", "What was said of the log when the machine was made"),
            Flag("raw", "raw", "Do not make control characters harmless on a terminal"),
        ),
        words="MACHINE",
        group="Look",
    )
}  # fmt: skip
