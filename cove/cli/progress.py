"""How far a long verb is: a bar a layer on a terminal, a line a step otherwise. On stderr: stdout
carries the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cove.cli.terminal import Terminal
from cove.engine.calls import Progress
from cove.errors import printable
from cove.shown.units import human_size

BAR = 24


def follow(steps: Iterable[Progress], terminal: Terminal, *, quiet: bool) -> Iterator[Progress]:
    """Show each step; pass on those that end something (``done``)."""
    shown = _Quiet() if quiet else _Bars(terminal) if terminal.is_terminal(2) else _Lines(terminal)
    for step in steps:
        if step.stage == "done":
            shown.finish()
            yield step
        else:
            shown.show(step)
    shown.finish()


class _Quiet:
    def show(self, step: Progress) -> None:
        pass

    def finish(self) -> None:
        pass


class _Lines(_Quiet):
    """One line when a layer enters a stage."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.stages: dict[str, str] = {}

    def show(self, step: Progress) -> None:
        if self.stages.get(step.id) != step.stage:
            self.stages[step.id] = step.stage
            self.terminal.error(printable(f"{step.id}: {step.stage}".removeprefix(": ")) + "\n")


class _Bars(_Quiet):
    """All layers below each other, drawn anew in place."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.rows: dict[str, Progress] = {}
        self.drawn = 0

    def show(self, step: Progress) -> None:
        before = self.rows.get(step.id)
        self.rows[step.id] = step
        if before and before.stage == step.stage and _share(before) == _share(step):
            return
        self._draw()

    def _draw(self) -> None:
        room = max(3, self.terminal.rows - 2)
        rows = list(self.rows.values())[-room:]
        up = f"\x1b[{self.drawn}A" if self.drawn else ""
        lines = "".join(f"\r\x1b[K{bar(step, self.terminal.columns)}\n" for step in rows)
        self.terminal.error(up + lines)
        self.drawn = len(rows)

    def finish(self) -> None:
        self.rows, self.drawn = {}, 0


def _share(step: Progress) -> int:
    return step.current * BAR // step.total if step.total > 0 else step.current >> 22


def _amounts(step: Progress) -> str:
    if step.unit:
        return f"{step.current}/{step.total} {step.unit}"
    return f"{human_size(step.current)}/{human_size(step.total)}"


def bar(step: Progress, columns: int) -> str:
    """``3f2a…: unpacking [=====>     ] 12.3MB/45MB``, cut to the terminal's width."""
    text = f"{step.id}: {step.stage}".removeprefix(": ")
    if step.total > 0:
        full = min(BAR, _share(step))
        drawn = ("=" * full + ">")[:BAR].ljust(BAR)
        text += f" [{drawn}] {_amounts(step)}"
    elif step.current:
        text += f" {human_size(step.current)}"
    return printable(text)[: max(20, (columns or 80) - 1)]
