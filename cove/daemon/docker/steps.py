"""What a build tells, as Docker's classic builder tells it. Pure.

Stages are built at once, so lines of several may come between each other; each step has the number
that it would have if they were built one after the other.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import Any

from cove.build.graph.data import SCRATCH, STAGE, Build, RunStep, StagePlan, Step
from cove.engine.calls.build import BuildStep
from cove.oci.reference import familiar

Json = dict[str, Any]
STDERR = 2
CACHED: Json = {"stream": " ---> Using cache\n"}
RED, PLAIN = "\033[91m", "\033[0m"


def short(image: str) -> str:
    return image.partition(":")[2][:12]


class Classic:
    """Told of what happens, it says what a client is shown."""

    def __init__(self, build: Build, images: dict[str, str]) -> None:
        """``images``: ``NAME PLATFORM`` to the id."""
        self._stages = {stage.number: stage for stage in build.stages}
        self._images = images
        self._first: dict[int, int] = {}
        count = 1
        for stage in build.stages:
            self._first[stage.number] = count
            count += 1 + len(stage.steps)
        self._total = count - 1
        self._told: dict[int, int] = dict.fromkeys(self._stages, 0)
        """How many of a stage's instructions were told."""
        self._known: dict[int, bool] = {}
        """Whether all of a stage's layers so far were known, where it has one."""
        self._held: dict[int, list[Json | None]] = {}
        """By the number of a stage's first layer: what is told once it is known whether that was
        cached, with None where that is to be said of what stands before it.
        """
        self._running: dict[int, tuple[StagePlan, Step | None]] = {}
        self._text: dict[tuple[int, int], codecs.IncrementalDecoder] = {}
        self.failed: Json | None = None
        """Of the step that ended the build."""

    def lines(self, step: BuildStep) -> Iterator[Json]:
        if step.event == "begin":
            yield from self._begin(step)
            return
        yield from _released(self._held.pop(step.number, []), step)
        if step.event == "done":
            yield from self._done(step)
        elif step.event == "log":
            decoder = self._text.setdefault(
                (step.number, step.code), codecs.getincrementaldecoder("utf-8")("replace")
            )
            if text := decoder.decode(step.text):
                yield {"stream": f"{RED}{text}{PLAIN}" if step.code == STDERR else text}
        elif step.event == "end":
            stage, doing = self._running[step.number]
            if doing is not None:
                self._known[stage.number] = self._known.get(stage.number, True) and step.cached
                if step.cached:
                    yield CACHED
        elif step.event == "failed":
            self._fail(step)
        elif step.event == "warning":
            yield {"stream": f"[Warning] {step.text.decode('utf-8', 'replace')}\n"}

    # ---- steps ----

    def _begin(self, step: BuildStep) -> Iterator[Json]:
        stage = self._stages[step.stage]
        made = [at for at, one in enumerate(stage.steps, 1) if one.layer]
        at = made[step.place - 2] if step.place > 1 else 0
        self._running[step.number] = stage, stage.steps[at - 1] if at else None
        lines = list(self._until(stage, at + 1))
        if at and None in lines:
            self._held[step.number] = lines
        else:
            yield from filter(None, lines)

    def _until(self, stage: StagePlan, end: int) -> Iterator[Json | None]:
        """The instructions of a stage that were not told yet. Those that make no layer cost
        nothing: they are as well known as the layer that they stand on or, before the first,
        as that one (None).
        """
        for at in range(self._told[stage.number], end):
            first = self._first[stage.number]
            title = stage.steps[at - 1].title if at else _from(stage, self._stages)
            yield {"stream": f"Step {first + at}/{self._total} : {title}\n"}
            if not at:
                image = self._images.get(f"{stage.base.name} {stage.platform}")
                yield {"stream": f" ---> {short(image) if image else ''}\n"}
            elif not stage.steps[at - 1].layer and self._known.get(stage.number, True):
                yield CACHED if stage.number in self._known else None
        self._told[stage.number] = max(end, self._told[stage.number])

    def _fail(self, step: BuildStep) -> None:
        _, doing = self._running[step.number]
        if isinstance(doing, RunStep) and step.code:
            words = " ".join(doing.argv)
            text = f"The command '{words}' returned a non-zero code: {step.code}"
            self.failed = {"errorDetail": {"code": step.code, "message": text}, "error": text}

    def _done(self, step: BuildStep) -> Iterator[Json]:
        for stage in self._stages.values():
            yield from filter(None, self._until(stage, len(stage.steps) + 1))
        yield {"aux": {"ID": step.image}}
        yield {"stream": f"Successfully built {short(step.image)}\n"}
        for name in step.tags:
            yield {"stream": f"Successfully tagged {name}\n"}


def _released(held: list[Json | None], step: BuildStep) -> Iterator[Json]:
    cached = step.event == "end" and step.cached
    for line in held:
        if line is not None:
            yield line
        elif cached:
            yield CACHED


def _from(stage: StagePlan, stages: Mapping[int, StagePlan]) -> str:
    base = stage.base
    if base.kind == SCRATCH:
        name = SCRATCH
    else:
        name = stages[base.stage].name if base.kind == STAGE else familiar(base.name)
        name = name or str(base.stage)
    return f"FROM {name}" + (f" AS {stage.name}" if stage.name else "")
