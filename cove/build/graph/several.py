"""Builds for several platforms as one: stages that are the same for all of them (those that run on
the build's own platform) are there once. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cove.build.graph.data import (
    STAGE,
    Build,
    CopyStep,
    Origin,
    RunStep,
    StagePlan,
    Step,
)


@dataclass(frozen=True, slots=True)
class Joined:
    build: Build
    """With stages numbered anew; its target is the first."""
    targets: tuple[int, ...]
    """Of each platform, in their order."""
    numbers: Mapping[int, int]
    """What the Dockerfile calls a stage, by its new number."""


def joined(builds: Sequence[Build]) -> Joined:
    """Stages stay in an order in which they can be built."""
    plans: list[StagePlan] = []
    targets: list[int] = []
    numbers: dict[int, int] = {}
    for build in builds:
        renamed: dict[int, int] = {}
        for stage in build.stages:
            plan = _renumbered(stage, renamed)
            number = _place(plan, plans)
            if number < 0:
                number = len(plans)
                plans.append(replace(plan, number=number))
                numbers[number] = stage.number
            renamed[stage.number] = number
        targets.append(renamed[build.target])
    warnings = tuple(dict.fromkeys(one for build in builds for one in build.warnings))
    unused = tuple(dict.fromkeys(name for build in builds for name in build.unused))
    return Joined(Build(tuple(plans), targets[0], warnings, unused), tuple(targets), numbers)


def _place(plan: StagePlan, plans: Sequence[StagePlan]) -> int:
    """Where the same stage is already; -1: nowhere."""
    for place, known in enumerate(plans):
        if replace(known, number=plan.number) == plan:
            return place
    return -1


def _renumbered(stage: StagePlan, renamed: Mapping[int, int]) -> StagePlan:
    """The same stage, standing on what others are called now."""
    steps = tuple(renamed_step(step, renamed) for step in stage.steps)
    return replace(stage, base=_renamed(stage.base, renamed), steps=steps)


def _renamed(origin: Origin, numbers: Mapping[int, int]) -> Origin:
    return replace(origin, stage=numbers[origin.stage]) if origin.kind == STAGE else origin


def renamed_step(step: Step, numbers: Mapping[int, int]) -> Step:
    """A step with other numbers for the stages that it takes files from."""
    if not numbers:
        return step
    if isinstance(step, CopyStep):
        sources = (replace(one, origin=_renamed(one.origin, numbers)) for one in step.sources)
        return replace(step, sources=tuple(sources))
    if isinstance(step, RunStep):
        mounts = (
            one if one.origin is None else replace(one, origin=_renamed(one.origin, numbers))
            for one in step.mounts
        )
        return replace(step, mounts=tuple(mounts))
    return step
