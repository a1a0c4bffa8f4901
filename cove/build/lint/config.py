"""``# check=skip=A,B;error=true``: which warnings are wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cove.build.lint.rules import Rule
from cove.errors import UsageError
from cove.spec.suggest import did_you_mean
from cove.spec.values import parse_bool

OPTIONS = ("skip", "error", "experimental")
ALL = "all"


@dataclass(frozen=True, slots=True)
class Config:
    """``all`` in a set stands for every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: Rule) -> bool:
        """An experimental rule is asked for, and not skipped by ``all``."""
        if rule.experimental:
            return bool({ALL, rule.name} & self.experimental)
        return not {ALL, rule.name} & self.skip

    def within(self, comments: Iterable[str]) -> Config:
        """For one instruction: ``# check=skip=...`` in the comments right above it."""
        for comment in comments:
            name, equals, value = comment.partition("=")
            if equals and name.strip().lower() == "check":
                try:
                    own = parse_check(value)
                except UsageError:
                    return self
                return replace(
                    self,
                    skip=self.skip | own.skip,
                    experimental=self.experimental | own.experimental,
                )
        return self


def parse_check(text: str) -> Config:
    """What stands behind ``check=``, up to the first blank."""
    config = Config()
    words = text.split()
    for part in words[0].split(";", 2) if words else ():
        name, equals, value = part.partition("=")
        if name not in OPTIONS:
            raise UsageError(
                f'cannot read check "{text}": no option is called "{name}"',
                hint=did_you_mean(name, OPTIONS) or "write skip=RULE, error=true or both with ;",
                exit_code=1,
            )
        if not equals:
            raise UsageError(
                f'cannot read check "{text}": {name} has no value',
                hint=f"write {name}=...",
                exit_code=1,
            )
        if name == "error":
            config = replace(config, error=_truth(value, text))
        elif name == "skip":
            config = replace(config, skip=frozenset(value.split(",")))
        else:
            config = replace(config, experimental=frozenset(value.split(",")))
    return config


def _truth(value: str, text: str) -> bool:
    try:
        return parse_bool(value)
    except UsageError:
        raise UsageError(
            f'cannot read check "{text}": error is true or false', exit_code=1
        ) from None
