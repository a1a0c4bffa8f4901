"""``/containers/{name}/logs``: what a machine wrote, raw or in Docker's frames."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from operator import add

from cove.daemon.docker.ask import MULTIPLEXED, RAW_STREAM, Ask, Stream
from cove.daemon.docker.hijack import FRAME, MULTIPLEXED_SINCE, framed
from cove.engine import calls
from cove.errors import UsageError
from cove.shown.logs import Marked
from cove.spec.values import parse_time
from cove.store.records import MachineRecord

COMMON = 1024
"""Lines up to this long have their heads kept."""
LINE = 16384
"""Docker's daemon cuts longer ones, too."""


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
    raw = raw or machine.spec.tty
    framing = Framing(at_once=params.follow)

    def each() -> Iterator[bytes]:
        try:
            for entry in entries:
                data = marked.lines(entry)
                if data := data if raw else framing.frames(entry.stream, data):
                    yield data
            if last := framing.rest():
                yield last
        finally:
            end = getattr(entries, "close", None)
            if end is not None:
                end()

    return each()


class Heads(dict[int, bytes]):
    """Of frames of one stream, by how long a line is without its end: those that come again."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self._stream = stream

    def __missing__(self, length: int) -> bytes:
        head = FRAME.pack(self._stream, length + 1)
        if length < COMMON:
            self[length] = head
        return head


HEADS = tuple(map(Heads, range(3)))


class Framing:
    """Each line is a frame, as Docker has it: clients take a frame for a line. One without an end
    waits for the rest of it, unless ``at_once`` or it is long.
    """

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._open: dict[int, bytes] = {}

    def frames(self, stream: int, data: bytes) -> bytes:
        """No Python for a line: a log has millions."""
        lines = (self._open.pop(stream, b"") + data).split(b"\n")
        rest = lines[-1]
        lines[-1] = b""
        heads = map(HEADS[stream].__getitem__, map(len, lines[:-1]))
        found = b"\n".join([*map(add, heads, lines), b""])
        if rest and (self._at_once or len(rest) > LINE):
            return found + framed(stream, rest)
        if rest:
            self._open[stream] = rest
        return found

    def rest(self) -> bytes:
        """Lines that never ended."""
        return b"".join(framed(stream, data) for stream, data in self._open.items())


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
