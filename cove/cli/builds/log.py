"""How a build is shown while it goes on: rows that are drawn anew on a terminal, plain lines, or
JSON. On stderr, as Docker does: stdout carries the result.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cove.cli.terminal import Gone, Terminal
from cove.engine.calls.build import BuildStep
from cove.errors import printable

TICK = 0.1
TAIL = 6
"""Lines of a step that runs which are shown below it."""
KEPT = 20
"""Lines of a step that failed which are shown again at the end."""


@dataclass(slots=True)
class Row:
    """One step."""

    number: int
    title: str
    began: float
    ended: float = -1.0
    cached: bool = False
    failed: bool = False
    rest: bytes = b""
    """A line that has not ended yet."""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))

    def hear(self, data: bytes) -> list[str]:
        """Whole lines, with what rewrites a line taken for another one."""
        *whole, self.rest = (self.rest + data).replace(b"\r\n", b"\n").split(b"\n")
        if len(self.rest) > 1 << 16:
            whole.append(self.rest)
            self.rest = b""
        found = [shown(line) for line in whole]
        self.lines.extend(found)
        return found

    def finish(self) -> list[str]:
        return self.hear(b"\n") if self.rest else []


def shown(line: bytes) -> str:
    text = line.rpartition(b"\r")[2] if not line.endswith(b"\r") else line[:-1]
    return printable(text.decode("utf-8", "backslashreplace").replace("\t", "    "))


class Quiet:
    """Nothing, but why a build failed."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.rows: dict[int, Row] = {}
        self.warnings: list[str] = []

    def show(self, step: BuildStep) -> None:
        if step.event == "warning":
            self.warnings.append(printable(step.text.decode("utf-8", "replace")))
        elif step.event == "begin":
            self.rows[step.number] = Row(step.number, printable(step.title), step.time)
            self.began(self.rows[step.number])
        elif (row := self.rows.get(step.number)) is not None:
            self._change(row, step)

    def _change(self, row: Row, step: BuildStep) -> None:
        if step.event == "log":
            self.said(row, row.hear(step.text), step.time)
            return
        self.said(row, row.finish(), step.time)
        row.ended, row.cached, row.failed = step.time, step.cached, step.event == "failed"
        self.ended(row, step)

    def began(self, row: Row) -> None: ...

    def said(self, row: Row, lines: list[str], now: float) -> None: ...

    def ended(self, row: Row, step: BuildStep) -> None: ...

    def finish(self, *, well: bool) -> None:
        self.say_failed()

    def say_failed(self) -> None:
        """The last words of a step that failed, below all that other steps have said since."""
        for row in self.rows.values():
            if row.failed and row.lines:
                lines = "".join(f"   {line}\n" for line in row.lines)
                self.terminal.error(f" > {row.title}:\n{lines}")


class Lines(Quiet):
    """``#3 0.121 text``, as ``docker build --progress=plain`` has it."""

    def began(self, row: Row) -> None:
        self.terminal.error(f"#{row.number} {row.title}\n")

    def said(self, row: Row, lines: list[str], now: float) -> None:
        since = now - row.began
        text = "".join(f"#{row.number} {since:.3f} {line}\n" for line in lines)
        if text:
            self.terminal.error(text)

    def ended(self, row: Row, step: BuildStep) -> None:
        if row.failed:
            reason = printable(step.text.decode("utf-8", "replace"))
            self.terminal.error(f"#{row.number} ERROR: {reason}\n\n")
        elif row.cached:
            self.terminal.error(f"#{row.number} CACHED\n\n")
        else:
            self.terminal.error(f"#{row.number} DONE {row.ended - row.began:.1f}s\n\n")

    def finish(self, *, well: bool) -> None:
        self.say_failed()
        _say_warnings(self)


class Json(Quiet):
    """One object a line."""

    def show(self, step: BuildStep) -> None:
        found: dict[str, object] = {"event": step.event, "time": round(step.time, 6)}
        if step.number:
            found["number"] = step.number
        if step.title:
            found["title"] = step.title
        if step.event == "log":
            found["data"] = base64.b64encode(step.text).decode()
        elif step.text:
            found["text"] = step.text.decode("utf-8", "replace")
        if step.cached:
            found["cached"] = True
        if step.image:
            found |= {"image": step.image, "tags": list(step.tags)}
        self.terminal.error(json.dumps(found) + "\n")

    def finish(self, *, well: bool) -> None: ...


class Rows(Quiet):
    """Drawn in place: what has ended stays above, what runs moves below it."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal)
        self._clock = time.monotonic()
        self._drawn = 0
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._told: set[int] = set()

    @contextmanager
    def ticking(self) -> Iterator[None]:
        def tick() -> None:
            try:
                while not self._over.wait(TICK):
                    with self._lock:
                        if not self._over.is_set():
                            self._draw()
            except Gone:
                pass  # whoever looked at it left

        thread = threading.Thread(target=tick, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def show(self, step: BuildStep) -> None:
        with self._lock:
            super().show(step)
            if step.event != "log":
                self._draw()

    def _draw(self, *, last: bool = False) -> None:
        columns = max(20, (self.terminal.columns or 80) - 1)
        now = time.monotonic() - self._clock
        text = f"\x1b[{self._drawn}A" if self._drawn else ""
        for row in self.rows.values():
            if row.ended >= 0 and row.number not in self._told:
                self._told.add(row.number)
                text += _line(_head(row, row.ended), columns)
        room = 0 if last else max(2, self.terminal.rows - 3)
        below: list[str] = []
        for row in (row for row in self.rows.values() if row.ended < 0):
            below.append(_head(row, now))
            below += [f"   {line}" for line in list(row.lines)[-TAIL:]]
        below = below[-room:] if room else []
        text += "".join(_line(line, columns) for line in below)
        self.terminal.error(f"{text}\x1b[J")
        self._drawn = len(below)

    def finish(self, *, well: bool) -> None:
        with self._lock:
            self._draw(last=True)
            self._over.set()
        self.say_failed()
        _say_warnings(self)


def _head(row: Row, now: float) -> str:
    mark = "ERROR" if row.failed else "CACHED" if row.cached else ""
    return f" => {mark + ' ' if mark else ''}{row.title}  {max(0.0, now - row.began):.1f}s"


def _line(text: str, columns: int) -> str:
    return f"\r\x1b[K{text[:columns]}\n"


def _say_warnings(log: Quiet) -> None:
    if log.warnings:
        count = len(log.warnings)
        text = "".join(f" - {warning}\n" for warning in log.warnings)
        log.terminal.error(f"{count} warning{'s' * (count > 1)} found:\n{text}")


def log_for(terminal: Terminal, kind: str, *, quiet: bool) -> Quiet:
    if quiet or kind == "quiet":
        return Quiet(terminal)
    if kind in ("json", "rawjson"):
        return Json(terminal)
    if kind == "tty" or (kind == "auto" and terminal.is_terminal(2)):
        return Rows(terminal)
    return Lines(terminal)
