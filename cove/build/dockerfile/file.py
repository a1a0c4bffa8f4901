"""A whole Dockerfile: its directives, the arguments in front, its stages. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cove.build.dockerfile import instructions as i
from cove.build.dockerfile import words
from cove.build.dockerfile.flags import parse_flags
from cove.build.dockerfile.heredoc import Heredoc
from cove.build.dockerfile.lines import Logical, read_lines
from cove.build.dockerfile.parsers import PARSERS, Request
from cove.build.source import Place, fault
from cove.errors import UsageError
from cove.spec.suggest import did_you_mean

INSTRUCTIONS = (*PARSERS, "ONBUILD")
INSTRUCTIONS_MAX = 20_000
_ONBUILD = re.compile(rf"ONBUILD[{words.SPACES}]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stage:
    """FROM and what follows it."""

    number: int
    origin: i.From
    instructions: tuple[i.Instruction, ...]

    @property
    def name(self) -> str:
        """In small letters; empty: it has none."""
        return self.origin.stage


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """What was read, with nothing decided."""

    name: str
    directives: dict[str, str]
    arguments: tuple[i.Arg, ...]
    """ARG in front of the first FROM: for FROM lines."""
    stages: tuple[Stage, ...]
    gaps: tuple[Place, ...] = ()
    """Continuations with empty lines in them."""

    @property
    def escape(self) -> str:
        return self.directives.get("escape", "\\")


def read_dockerfile(text: bytes, name: str) -> Dockerfile:
    """Read a Dockerfile, called ``name`` in messages."""
    lines = read_lines(text, name)
    if len(lines.logical) > INSTRUCTIONS_MAX:
        raise fault(lines.logical[-1].place, f"it has more than {INSTRUCTIONS_MAX} instructions")
    arguments: list[i.Arg] = []
    stages: list[tuple[i.From, list[i.Instruction]]] = []
    for line in lines.logical:
        parsed = parse_instruction(line, lines.escape)
        if isinstance(parsed, i.From):
            stages.append((parsed, []))
        elif stages:
            stages[-1][1].append(parsed)
        elif isinstance(parsed, i.Arg):
            arguments.append(parsed)
        else:
            raise fault(
                line.place,
                f"{parsed.name} stands in front of the first FROM",
                hint="begin with FROM image, or FROM scratch; only ARG may stand in front of it",
            )
    if not stages:
        raise UsageError(
            f"cannot read {name}: it has no FROM",
            hint="begin with FROM image, or FROM scratch",
            exit_code=1,
        )
    return Dockerfile(
        name,
        lines.directives,
        tuple(arguments),
        tuple(Stage(n, origin, tuple(steps)) for n, (origin, steps) in enumerate(stages)),
        tuple(line.place for line in lines.logical if line.gap),
    )


def parse_instruction(line: Logical, escape: str) -> i.Instruction:
    """One logical line."""
    return _parse(line.place, line.text, line.comments, line.heredocs, escape)


def read_trigger(trigger: str, place: Place) -> i.Instruction:
    """What a base image's ONBUILD holds; it counts as standing where FROM stands."""
    try:
        lines = read_lines(trigger.encode("utf-8", "surrogateescape"), place.file)
    except UsageError as error:
        raise fault(
            place, f'the base image\'s ONBUILD "{trigger}" is wrong: {_why(error)}'
        ) from None
    if len(lines.logical) != 1:
        raise fault(place, f'the base image\'s ONBUILD "{trigger}" is not one instruction')
    line = lines.logical[0]
    try:
        _check_trigger(line.text, place)
        return _parse(place, line.text, (), line.heredocs, "\\")
    except UsageError as error:
        raise fault(
            place, f'the base image\'s ONBUILD "{trigger}" is wrong: {_why(error)}'
        ) from None


def _why(error: UsageError) -> str:
    return error.message.partition(": ")[2]


def _parse(
    place: Place, text: str, comments: tuple[str, ...], heredocs: tuple[Heredoc, ...], escape: str
) -> i.Instruction:
    keyword, rest = words.split_keyword(text)
    name = keyword.upper()
    if name == "ONBUILD":
        return _onbuild(place, text, comments, heredocs, escape)
    parser = PARSERS.get(name)
    if parser is None:
        if not keyword:
            raise fault(place, "a continuation without an instruction")
        hint = did_you_mean(name, INSTRUCTIONS)
        if not hint and place.text[:1].isspace():
            hint = f"does the line above go on? then it ends with {escape}"
        raise fault(place, f'no instruction is called "{keyword}"', hint=hint)
    typed, args = words.take_flags(rest, escape)
    flags = parse_flags(name, typed, place)
    return parser(
        Request(place, keyword, text.strip(words.SPACES), comments, flags, args, heredocs, escape)
    )


def _onbuild(
    place: Place, text: str, comments: tuple[str, ...], heredocs: tuple[Heredoc, ...], escape: str
) -> i.Onbuild:
    """Its instruction is parsed now, so that a mistake shows where it was made; it stays text."""
    keyword, rest = words.split_keyword(text)
    if not rest:
        raise fault(place, "ONBUILD needs an instruction")
    typed, inner = words.take_flags(rest, escape)
    parse_flags("ONBUILD", typed, place)
    _check_trigger(inner, place)
    _parse(place, inner, (), heredocs, escape)
    code = text.strip(words.SPACES)
    trigger = _ONBUILD.sub("", code, count=1)
    trigger += "".join(f"\n{doc.content}{doc.name}" for doc in heredocs)
    return i.Onbuild(place, keyword, code, comments, trigger)


def _check_trigger(text: str, place: Place) -> None:
    name = words.split_keyword(text)[0].upper()
    if name == "ONBUILD":
        raise fault(place, "ONBUILD cannot hold another ONBUILD")
    if name in ("FROM", "MAINTAINER"):
        raise fault(place, f"ONBUILD cannot hold {name}")
