"""What can be seen in a Dockerfile without knowing a variable. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cove.build.dockerfile import instructions as i
from cove.build.dockerfile.file import Dockerfile, Stage
from cove.build.lint.warnings import Warnings

RESERVED = ("context", "scratch")

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)


def check_dockerfile(file: Dockerfile, warnings: Warnings) -> None:
    """Rules about the whole file, and about each stage's names and descriptions."""
    for place in file.gaps:
        warnings.add("NoEmptyContinuation", place)
    for argument in file.arguments:
        _described(argument, tuple(one.name for one in argument.arguments), warnings)
    seen: set[str] = set()
    for stage in file.stages:
        _check_from(stage.origin, seen, warnings)
        for instruction in stage.instructions:
            if isinstance(instruction, i.Arg):
                _described(instruction, tuple(a.name for a in instruction.arguments), warnings)
            elif isinstance(instruction, i.Maintainer):
                _warn(warnings, "MaintainerDeprecated", instruction)
    _check_casing(file, warnings)


def check_stage(stage: Stage, warnings: Warnings) -> None:
    """Rules about the instructions of a stage that is built."""
    last: dict[str, i.Instruction] = {}
    for instruction in stage.instructions:
        check_instruction(instruction, warnings)
        if isinstance(instruction, i.Cmd | i.Entrypoint | i.Healthcheck):
            if before := last.get(instruction.name):
                # The one before is the one that is lost.
                _warn(warnings, "MultipleInstructionsDisallowed", before, instruction.name)
            last[instruction.name] = instruction


def check_instruction(instruction: i.Instruction, warnings: Warnings) -> None:
    """Rules about one instruction alone."""
    pairs = instruction.pairs if isinstance(instruction, i.Env | i.Label) else ()
    if any(pair.legacy for pair in pairs):
        _warn(warnings, "LegacyKeyValueFormat", instruction, instruction.name)
    for name in _names(instruction):
        if _SECRET.search(name) and not _HARMLESS.search(name):
            _warn(warnings, "SecretsUsedInArgOrEnv", instruction, instruction.name, name)


def _names(instruction: i.Instruction) -> tuple[str, ...]:
    if isinstance(instruction, i.Env):
        return tuple(pair.name for pair in instruction.pairs)
    if isinstance(instruction, i.Arg):
        return tuple(argument.name for argument in instruction.arguments)
    return ()


def _warn(warnings: Warnings, rule: str, instruction: i.Instruction, *words: str) -> None:
    warnings.add(rule, instruction.place, *words, comments=instruction.comments)


def _check_from(origin: i.From, seen: set[str], warnings: Warnings) -> None:
    word, name = origin.typed
    if name != name.lower():
        _warn(warnings, "StageNameCasing", origin, name)
    casings = [
        casing for casing in (str.lower, str.upper) if casing(origin.keyword) == origin.keyword
    ]
    if casings and casings[0](word) != word:
        _warn(warnings, "FromAsCasing", origin, word, origin.keyword)
    if not origin.stage:
        return
    if origin.stage in RESERVED:
        _warn(warnings, "ReservedStageName", origin, origin.stage)
    if origin.stage in seen:
        _warn(warnings, "DuplicateStageName", origin, origin.stage)
    seen.add(origin.stage)
    _described(origin, (origin.stage,), warnings)


def _described(instruction: i.Instruction, names: tuple[str, ...], warnings: Warnings) -> None:
    """The last comment above ARG or FROM describes one of its names."""
    if instruction.comments and instruction.comments[-1].split(" ")[0] not in names:
        shown = names[0] if len(names) == 1 else "<arg_key>"
        _warn(warnings, "InvalidDefinitionDescription", instruction, instruction.name, shown)


def _check_casing(file: Dockerfile, warnings: Warnings) -> None:
    """The casing of most keywords is that of all; upper where as many are lower."""
    instructions = tuple(_all(file))
    lower = sum(one.keyword == one.keyword.lower() for one in instructions)
    upper = sum(one.keyword == one.keyword.upper() for one in instructions)
    casing, kind = (str.lower, "lowercase") if lower > upper else (str.upper, "uppercase")
    for one in instructions:
        if one.keyword != casing(one.keyword):
            _warn(warnings, "ConsistentInstructionCasing", one, one.keyword, kind)


def _all(file: Dockerfile) -> Iterator[i.Instruction]:
    for stage in file.stages:
        yield stage.origin
        yield from stage.instructions
