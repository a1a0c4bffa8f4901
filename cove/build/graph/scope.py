"""Arguments of a build: those of the command line, the predefined ones, ARG in front of FROM. Pure.

A name that ARG gives no value and the command line neither is declared all the same: it is no
unknown variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cove.build.dockerfile.instructions import Arg
from cove.build.expand.lexer import BadExpansion, Expansion, expand
from cove.build.source import Place, misfit
from cove.errors import Unsupported, UsageError
from cove.oci.manifest import Platform, parse_platform
from cove.spec.suggest import did_you_mean

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
"""Also in capitals: given to every RUN without an ARG, and not remembered."""
OWN = ("SOURCE_DATE_EPOCH",)
OWN_PREFIX = "BUILDKIT_"

_PLATFORM = re.compile(r"[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+){0,2}")


@dataclass(frozen=True, slots=True)
class Scope:
    """What FROM lines may use, and what ARG in a stage may ask for."""

    given: Mapping[str, str]
    """``--build-arg``."""
    values: dict[str, str] = field(default_factory=dict)
    declared: frozenset[str] = frozenset()

    @property
    def proxies(self) -> dict[str, str]:
        return {name: value for name, value in self.given.items() if name.lower() in PROXIES}

    def unused(self, asked: Iterable[str]) -> tuple[str, ...]:
        """What was given and nothing asks for."""
        names = set(asked)
        left = sorted(
            name
            for name in self.given
            if name not in names
            and name not in self.values
            and name not in OWN
            and name.lower() not in PROXIES
            and not name.startswith(OWN_PREFIX)
        )
        return tuple(f"{name}{_meant(name, names)}" for name in left)


def _meant(name: str, names: Iterable[str]) -> str:
    hint = did_you_mean(name, names)
    return f" ({hint})" if hint else ""


def global_scope(
    arguments: Iterable[Arg],
    *,
    given: Mapping[str, str],
    platform: Platform,
    build_platform: Platform,
    target: str,
    escape: str,
) -> Scope:
    """Each ARG sees those above it."""
    values = {
        name: given.get(name, value)
        for name, value in _predefined(platform, build_platform, target).items()
    }
    declared = set(values)
    for instruction in arguments:
        for argument in instruction.arguments:
            declared.add(argument.name)
            if argument.name in given:
                values[argument.name] = given[argument.name]
            elif argument.value is not None:
                found = expanded(argument.value, values, instruction.place, escape)
                values[argument.name] = found.text
    return Scope(given, values, frozenset(declared))


def _predefined(platform: Platform, build: Platform, target: str) -> dict[str, str]:
    found = {}
    for prefix, one in (("BUILD", build), ("TARGET", platform)):
        found[f"{prefix}PLATFORM"] = str(one)
        found[f"{prefix}OS"] = one.os
        found[f"{prefix}OSVERSION"] = ""
        found[f"{prefix}ARCH"] = one.architecture
        found[f"{prefix}VARIANT"] = one.variant
    return {**found, "TARGETSTAGE": target or "default"}


def expanded(text: str, env: Mapping[str, str], place: Place, escape: str) -> Expansion:
    """A word of an instruction; what is wrong with it names the instruction."""
    try:
        return expand(text, env, escape=escape)
    except BadExpansion as error:
        raise misfit(place, str(error), hint=error.hint) from None


def read_platform(text: str, place: Place) -> Platform:
    if not _PLATFORM.fullmatch(text):
        raise misfit(place, f'"{text}" is no platform', hint="write linux/amd64 or linux/arm64")
    found = parse_platform(text)
    if found.os != "linux":
        raise Unsupported(
            f"cannot build {place.file}: cove builds for Linux, not for {found.os}",
            origin=place.excerpt,
            exit_code=1,
        )
    return found


def check_given(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if not name or "=" in name or "\0" in name + value:
            raise UsageError(
                f'cannot use build argument "{name}": it has no name, or a NUL character in it',
                origin=f"--build-arg {name}={value[:40]}",
            )
