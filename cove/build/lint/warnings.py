"""Warnings being collected while a build is planned. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cove.build.lint.config import Config
from cove.build.lint.rules import RULES, Warning
from cove.build.source import Place
from cove.errors import Problems
from cove.oci.logins import redacted


class Warnings:
    """Those that are wanted, in the order in which they were found, none twice."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._found: dict[Warning, None] = {}

    def add(self, rule: str, place: Place, *words: str, comments: Iterable[str] = ()) -> None:
        known = RULES[rule]
        if self.config.within(comments).wants(known):
            said = redacted(known.message.format(*words))
            self._found[Warning(known, place, said)] = None

    @property
    def found(self) -> tuple[Warning, ...]:
        return tuple(sorted(self._found, key=lambda one: one.place.line))

    def check(self, name: str) -> None:
        """With ``error=true`` a warning is an error."""
        if self.config.error and self._found:
            lines = [f"cannot build {name}: # check=error=true, and there are warnings"]
            raise Problems("\n".join((*lines, *map(str, self.found))), exit_code=1)
