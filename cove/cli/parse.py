"""Command lines as Docker's own parser (pflag) reads them; click's reads ``-e=A`` and
``--rm=false`` otherwise. Pure: no value is interpreted here before all flags are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cove.errors import CoveError, Unsupported, UsageError
from cove.spec.flags import Flag
from cove.spec.suggest import did_you_mean
from cove.spec.typed import Typed, read_values

__all__ = ["HelpWanted", "Spellings", "Typed", "read_values", "scan", "spellings"]


class HelpWanted(Exception):
    """``--help`` was typed."""


@dataclass(frozen=True, slots=True, eq=False)
class Spellings:
    """The flags of one command by what may be typed for them."""

    long: dict[str, Flag]
    short: dict[str, Flag]
    refused: Mapping[str, tuple[str, bool]]
    """Names of flags that are known and not supported: the reason, and whether a value follows."""
    refused_short: Mapping[str, str]


def spellings(
    flags: Sequence[Flag],
    refused: Mapping[str, tuple[str, bool]] = MappingProxyType({}),
    refused_short: Mapping[str, str] = MappingProxyType({}),
) -> Spellings:
    long = {name: flag for flag in flags for name in (flag.name, *flag.aliases)}
    short = {flag.short: flag for flag in flags if flag.short}
    return Spellings(long, short, refused, refused_short)


def scan(
    args: Sequence[str], known: Spellings, *, interspersed: bool
) -> tuple[Typed, tuple[str, ...]]:
    """Flags and the other words. Without ``interspersed`` the first other word ends the flags."""
    typed: list[tuple[Flag, str]] = []
    words: list[str] = []
    index = 0
    while index < len(args):
        arg = args[index]
        index += 1
        if arg == "--":
            words += args[index:]
            break
        if len(arg) < 2 or arg[0] != "-":
            words.append(arg)
            if not interspersed:
                words += args[index:]
                break
            continue
        read = _long if arg.startswith("--") else _short
        index = read(arg, args, index, known, typed)
    return tuple(typed), tuple(words)


def _long(
    arg: str, args: Sequence[str], index: int, known: Spellings, typed: list[tuple[Flag, str]]
) -> int:
    name, equals, value = arg[2:].partition("=")
    flag = known.long.get(name)
    if flag is None:
        raise _unknown(f"--{name}", name, known)
    if equals:
        typed.append((flag, value))
    elif flag.switch:
        typed.append((flag, "true"))
    else:
        typed.append((flag, _next(args, index, f"--{name}", flag)))
        return index + 1
    return index


def _short(
    arg: str, args: Sequence[str], index: int, known: Spellings, typed: list[tuple[Flag, str]]
) -> int:
    for place, letter in enumerate(arg[1:], 1):
        flag = known.short.get(letter)
        if flag is None:
            raise _unknown(f"-{letter}", known.refused_short.get(letter, ""), known, arg)
        rest = arg[place + 1 :]
        if rest.startswith("="):
            typed.append((flag, rest[1:]))
            return index
        if flag.switch:
            typed.append((flag, "true"))
            continue
        if rest:
            typed.append((flag, rest))
            return index
        typed.append((flag, _next(args, index, f"-{letter}", flag)))
        return index + 1
    return index


def _next(args: Sequence[str], index: int, spelling: str, flag: Flag) -> str:
    if index >= len(args):
        hint = f"write {spelling} {flag.metavar}"
        if spelling == "-h":
            hint += "; --help lists all flags"
        raise UsageError(f"cannot read {spelling}: it wants a value", hint=hint)
    return args[index]


def _unknown(spelling: str, name: str, known: Spellings, arg: str = "") -> CoveError:
    if spelling == "--help":
        raise HelpWanted
    if name in known.refused:
        return Unsupported(f"cannot use --{name}: {known.refused[name][0]}", origin=arg or spelling)
    origin = f"{spelling} in {arg}" if arg and arg != spelling else ""
    hint = did_you_mean(name, known.long) if name else ""
    if arg.startswith("-") and len(arg) > 3:
        hint = did_you_mean(arg[1:].split("=")[0], known.long)
    return UsageError(
        f"cannot read {spelling}: unknown flag",
        origin=origin,
        hint=hint.replace("did you mean ", "did you mean --"),
    )
