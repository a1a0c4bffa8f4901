"""The project's own Dockerfiles, each with what cove reads in it, or why not; ``make golden``
writes that anew.

A case is ``NAME.dockerfile`` with ``NAME.parsed``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from cove.build.dockerfile.file import read_dockerfile
from cove.build.dockerfile.instructions import Instruction
from cove.build.lint.checks import check_dockerfile, check_stage
from cove.build.lint.config import parse_check
from cove.build.lint.warnings import Warnings
from cove.errors import CoveError

HERE = Path(__file__).resolve().parent / "corpus"


@dataclasses.dataclass(frozen=True)
class Case:
    name: str

    @property
    def source(self) -> Path:
        return HERE / f"{self.name}.dockerfile"

    @property
    def golden(self) -> Path:
        return HERE / f"{self.name}.parsed"

    def text(self) -> str:
        try:
            file = read_dockerfile(self.source.read_bytes(), "Dockerfile")
            warnings = Warnings(parse_check(file.directives.get("check", "")))
            check_dockerfile(file, warnings)
            for stage in file.stages:
                check_stage(stage, warnings)
        except CoveError as error:
            return error.render()
        lines = [f"# {name}={value}" for name, value in file.directives.items()]
        lines += [shown(argument) for argument in file.arguments]
        for stage in file.stages:
            lines += ["", f"stage {stage.number} {stage.name}".rstrip(), shown(stage.origin)]
            lines += [shown(instruction) for instruction in stage.instructions]
        lines += ["", *map(str, warnings.found)] if warnings.found else []
        return "\n".join(lines).lstrip("\n") + "\n"


def shown(instruction: Instruction) -> str:
    """The lines, the keyword, and the fields that are not as they are when nothing is said."""
    fields = {}
    for field in dataclasses.fields(instruction):
        value = getattr(instruction, field.name)
        if field.name not in ("place", "keyword", "code", "typed") and value not in ("", (), None):
            fields[field.name] = plain(value)
    place = instruction.place
    lines = f"{place.line}" if place.line == place.end else f"{place.line}-{place.end}"
    return f"{lines} {instruction.name} {json.dumps(fields, ensure_ascii=False)}"


def plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {name: one for name, one in found.items() if one not in (False, None)}
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def cases() -> Iterator[Case]:
    for path in sorted(HERE.glob("*.dockerfile")):
        yield Case(path.stem)
