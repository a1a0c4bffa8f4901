"""``plan_build``: a Dockerfile and what was asked for become a build. Pure.

The order: arguments, FROM lines, the stages that the target needs (ONBUILD of base images may add
some), then each of these from top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from cove.build.dockerfile import instructions as i
from cove.build.dockerfile.file import Dockerfile, Stage, read_trigger
from cove.build.graph.data import NAMED, SCRATCH, STAGE, Build, Origin, StagePlan, Step
from cove.build.graph.runs import run_step
from cove.build.graph.scope import Scope, check_given, expanded, global_scope, read_platform
from cove.build.graph.stages import Names, names_of, needs, target_of
from cove.build.graph.walk import Rules, State, Walk, state_of
from cove.build.ignore import Ignore
from cove.build.lint.checks import check_dockerfile, check_stage
from cove.build.lint.config import Config, parse_check
from cove.build.lint.rules import Warning
from cove.build.lint.warnings import Warnings
from cove.build.source import misfit, told_of
from cove.errors import CoveError, NoSuchImage, UsageError
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform, matches
from cove.oci.reference import parse_reference
from cove.spec.suggest import nearest, nearest_variable

Lookup = Callable[[Origin, Platform], ImageConfig | None]
"""The config of an image or a named context; None: it has none. For a check it may raise
NoSuchImage: what that image says is not known then."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says."""

    host: Platform
    """What the build runs on."""
    platform: Platform | None = None
    """What it is for, which the result then says of itself; None: the host's."""
    target: str = ""
    arguments: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    contexts: Collection[str] = ()
    ignore: Ignore | None = None
    check: bool = False
    """``--check``: also stages that the target does not need, and images that are not here."""
    patience: Callable[[], object] = bool
    """Called for each instruction; raises when it has taken long enough."""

    @property
    def goal(self) -> Platform:
        return self.platform or self.host


@dataclass(frozen=True, slots=True)
class _Planned:
    """A stage before its steps are made."""

    stage: Stage
    base: Origin
    platform: Platform
    config: ImageConfig | None
    """Of the base, where that is no stage."""
    known: bool
    """Not on an image that is not here."""
    triggers: tuple[i.Instruction, ...]


def plan_build(file: Dockerfile, wanted: Wanted, lookup: Lookup) -> Build:
    """Decide everything that does not need a file, a network or a machine."""
    warnings = Warnings(_check(file))
    build = _plan(file, wanted, lookup, warnings)
    warnings.check(file.name)
    return build


def check_build(
    file: Dockerfile, wanted: Wanted, lookup: Lookup
) -> tuple[tuple[Warning, ...], CoveError | None]:
    """For ``--check``: what there is to warn of, also where it ends in an error."""
    warnings = Warnings(_check(file))
    try:
        _plan(file, wanted, lookup, warnings)
        warnings.check(file.name)
    except CoveError as error:
        return warnings.found, error
    return warnings.found, None


def _plan(file: Dockerfile, wanted: Wanted, lookup: Lookup, warnings: Warnings) -> Build:
    given = dict(wanted.arguments or {})
    check_given(given)
    target = target_of(file, wanted.target)
    check_dockerfile(file, warnings)
    scope = global_scope(
        file.arguments,
        given=given,
        platform=wanted.goal,
        build_platform=wanted.host,
        target=wanted.target or file.stages[-1].name,
        escape=file.escape,
    )
    _check_defaults(file, scope, wanted, warnings)
    planned = _needed(file, wanted, scope, warnings, lookup, target)
    rules = Rules(scope, file.escape, warnings, wanted.ignore, wanted.patience)
    names = names_of(file, wanted.contexts)
    states: dict[int, State] = {}
    stages: list[StagePlan] = []
    for one in sorted(planned, key=lambda one: one.stage.number):
        stage = _walk(one, rules, names, states)
        stages.append(_finished(stage, wanted) if stage.number == target else stage)
    return Build(tuple(stages), target, warnings.found, scope.unused(_asked(file, planned)))


def _check(file: Dockerfile) -> Config:
    try:
        return parse_check(file.directives.get("check", ""))
    except UsageError as error:
        raise UsageError(
            f"cannot read {file.name}: {error.message.partition(': ')[2]}",
            origin=f"# check={file.directives['check']}",
            hint=error.hint,
            exit_code=1,
        ) from None


def _asked(file: Dockerfile, planned: list[_Planned]) -> set[str]:
    """The names of every ARG, also of those in stages that are not needed."""
    steps = [*file.arguments, *(by for stage in file.stages for by in stage.instructions)]
    steps += [by for one in planned for by in one.triggers]
    return {a.name for by in steps if isinstance(by, i.Arg) for a in by.arguments}


def _finished(stage: StagePlan, wanted: Wanted) -> StagePlan:
    """The result has the labels of the command line, and the platform that was asked for, whatever
    its base image was made for."""
    config = stage.config
    if wanted.labels:
        config = replace(config, labels={**config.labels, **wanted.labels})
    return replace(stage, config=_for_platform(config, wanted.platform))


# ---- FROM ----


def _check_defaults(file: Dockerfile, scope: Scope, wanted: Wanted, warnings: Warnings) -> None:
    """Would the images have names if no build argument were given?"""
    try:
        bare = global_scope(
            file.arguments,
            given={},
            platform=wanted.goal,
            build_platform=wanted.host,
            target=wanted.target,
            escape=file.escape,
        )
        bases = [
            expanded(s.origin.image, bare.values, s.origin.place, file.escape) for s in file.stages
        ]
    except UsageError:
        return  # it is an error with arguments too, or ${name:?...} asks for one
    for stage, base in zip(file.stages, bases, strict=True):
        try:
            parse_reference(base.text.lower())
        except UsageError:
            origin = stage.origin
            warnings.add(
                "InvalidDefaultArgInFrom", origin.place, origin.image, comments=origin.comments
            )


def _from(
    stage: Stage, names: Names, wanted: Wanted, scope: Scope, warnings: Warnings
) -> tuple[Origin, Platform]:
    """The base of a stage and its platform."""
    origin, escape = stage.origin, names.file.escape
    image = expanded(origin.image, scope.values, origin.place, escape)
    _undeclared(image.missing, origin, scope, warnings)
    platform = wanted.goal
    if origin.platform:
        found = expanded(origin.platform, scope.values, origin.place, escape)
        _undeclared(found.missing, origin, scope, warnings)
        if not found.text:
            hint = _meant(found.missing, scope) or "give ARG a default in front of FROM"
            raise misfit(origin.place, f"the platform {origin.platform} is empty", hint=hint)
        platform = read_platform(found.text, origin.place)
        if not found.used | found.missing:
            if platform.os not in stage.name and platform.architecture not in stage.name:
                _warn(warnings, "FromPlatformFlagConstDisallowed", origin, found.text)
        elif found.used == {"TARGETPLATFORM"} and found.text == scope.values["TARGETPLATFORM"]:
            _warn(warnings, "RedundantTargetPlatform", origin, origin.platform)
    if stage.name in wanted.contexts:
        return Origin(NAMED, stage.name), platform
    if not image.text:
        hint = _meant(image.missing, scope) or "give ARG a default in front of FROM"
        raise misfit(origin.place, f"the image {origin.image} is empty", hint=hint)
    return names.base(image.text, stage), platform


def _meant(missing: frozenset[str], scope: Scope) -> str:
    """The variable that may have been meant by one that has no value."""
    for name in sorted(missing):
        near = nearest(name, scope.values)
        if near:
            return f"did you mean ${near}?"
    return ""


def _undeclared(missing: frozenset[str], origin: i.From, scope: Scope, warnings: Warnings) -> None:
    for name in sorted(missing - scope.declared):
        near = nearest_variable(name, scope.declared)
        _warn(
            warnings, "UndefinedArgInFrom", origin, name, f" (did you mean {near}?)" if near else ""
        )


def _warn(warnings: Warnings, rule: str, by: i.Instruction, *words: str) -> None:
    warnings.add(rule, by.place, *words, comments=by.comments)


# ---- which stages ----


def _needed(
    file: Dockerfile,
    wanted: Wanted,
    scope: Scope,
    warnings: Warnings,
    lookup: Lookup,
    target: int,
) -> list[_Planned]:
    """From the target upwards: a stage needs only those above it."""
    names = names_of(file, wanted.contexts)
    left = set(range(len(file.stages))) if wanted.check else {target}
    found = []
    for stage in reversed(file.stages):
        if stage.number not in left:
            continue
        base, platform = _from(stage, names, wanted, scope, warnings)
        if base.kind == STAGE:
            left.add(base.stage)
            below = file.stages[base.stage].instructions
            config, known = None, True
            texts = tuple(by.trigger for by in below if isinstance(by, i.Onbuild))
        else:
            with told_of(stage.origin.place):
                config, known = _config_of(base, platform, wanted, lookup)
            texts = config.onbuild
            _check_platform(config, platform, stage, warnings)
        if base.kind == NAMED and base.name == stage.name:
            stage, texts = replace(stage, instructions=()), ()
        triggers = tuple(read_trigger(text, stage.origin.place) for text in texts)
        left |= needs((*triggers, *stage.instructions), names, stage)
        found.append(_Planned(stage, base, platform, config, known, triggers))
    return found


def _config_of(
    base: Origin, platform: Platform, wanted: Wanted, lookup: Lookup
) -> tuple[ImageConfig, bool]:
    """And whether it is known."""
    if base.kind == SCRATCH:
        return ImageConfig(), True
    try:
        return lookup(base, platform) or ImageConfig(), True
    except NoSuchImage:
        if not wanted.check:
            raise
        return ImageConfig(), False


def _check_platform(
    config: ImageConfig, platform: Platform, stage: Stage, warnings: Warnings
) -> None:
    has = Platform(config.architecture, config.os, config.variant)
    if config.architecture and not matches(platform, has):
        origin = stage.origin
        _warn(warnings, "InvalidBaseImagePlatform", origin, origin.image, str(has), str(platform))


# ---- steps ----


def _walk(one: _Planned, rules: Rules, names: Names, states: dict[int, State]) -> StagePlan:
    stage, platform = one.stage, one.platform
    if one.base.kind == STAGE:
        state = states[one.base.stage].copy()
        config = state.config
        platform = Platform(config.architecture, config.os, config.variant)
    else:
        base = one.config or ImageConfig()
        base = base if base.architecture else _for_platform(base, platform)
        state = state_of(base, known=one.known)
    walk = Walk(rules, state, lambda name, by: names.copied(name, by, stage))
    steps: list[Step] = []
    check_stage(stage, rules.warnings)
    for by, onbuild in (
        *((by, True) for by in one.triggers),
        *((by, False) for by in stage.instructions),
    ):
        step = _step(walk, by)
        if step is not None:
            steps.append(replace(step, onbuild=onbuild))
    states[stage.number] = state
    return StagePlan(stage.number, stage.name, one.base, platform, tuple(steps), state.config)


def _step(walk: Walk, by: i.Instruction) -> Step | None:
    """What is wrong with words that only an image knows which is not here, is nobody's error."""
    walk.guessed = False
    try:
        return run_step(walk, by) if isinstance(by, i.Run) else walk.step(by)
    except UsageError:
        if walk.guessed:
            return None
        raise


def _for_platform(config: ImageConfig, platform: Platform | None) -> ImageConfig:
    if platform is None:
        return config
    return replace(
        config, os=platform.os, architecture=platform.architecture, variant=platform.variant
    )
