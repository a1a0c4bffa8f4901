"""``/containers/{name}/logs``: what a machine wrote, raw or in Docker's frames."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from cove.daemon.docker.ask import MULTIPLEXED, RAW_STREAM, Ask, Stream
from cove.daemon.docker.hijack import MULTIPLEXED_SINCE, framed
from cove.engine import calls
from cove.errors import UsageError
from cove.shown.logs import Marked
from cove.spec.values import parse_time
from cove.store.records import MachineRecord


def logs(ask: Ask) -> Stream:
    machine = ask.machine()
    streams = streams_of(ask)
    if not streams:
        raise UsageError("Bad parameters: you must choose at least one stream")
    params = calls.Logs(
        machine.id,
        follow=ask.on("follow"),
        tail=parse_tail(ask.text("tail")),
        since=parse_moment(ask.text("since")),
        until=parse_moment(ask.text("until")),
        streams=streams,
        merged=not ask.on("timestamps"),
        fresh=True,
    )
    marked = Marked(ask.on("timestamps"), ask.on("details"))
    several = ask.version >= MULTIPLEXED_SINCE and not machine.spec.tty
    return Stream(
        pieces(ask, machine, params, marked), MULTIPLEXED if several else RAW_STREAM, early=True
    )


def pieces(
    ask: Ask, machine: MachineRecord, params: calls.Logs, marked: Marked, *, raw: bool = False
) -> Iterator[bytes]:
    entries = ask.engine.logs(params, calls.Call(cancelled=ask.cancel))

    def each() -> Iterator[bytes]:
        try:
            for entry in entries:
                data = marked.lines(entry)
                if data:
                    yield data if raw or machine.spec.tty else by_lines(entry.stream, data)
        finally:
            end = getattr(entries, "close", None)
            if end is not None:
                end()

    return each()


def by_lines(stream: int, data: bytes) -> bytes:
    """Each line is a frame, as Docker has it: clients take a frame for a line."""
    *lines, rest = data.split(b"\n")
    found = [framed(stream, line + b"\n") for line in lines]
    return b"".join(found) + (framed(stream, rest) if rest else b"")


def streams_of(ask: Ask) -> calls.Streams:
    return tuple(name for name in ("stdout", "stderr") if ask.on(name))


def parse_tail(text: str) -> int:
    """``all``, or what is no number: all of it."""
    return int(text) if re.fullmatch(r"\d{1,18}", text) else -1


def parse_moment(text: str) -> float:
    """Unix seconds with a fraction, or what a command line may say; 0: not asked for."""
    if text in ("", "0"):
        return 0.0
    return parse_time(text, time.time())
