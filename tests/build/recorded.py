"""The project's own Dockerfiles, each with what cove reads in it, or why not; ``make golden``
writes that anew.

A case is ``NAME.dockerfile``: what is read in it is ``NAME.parsed``, what a build of it would do is
``NAME.plan``. ``NAME.json`` has what the command line says.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from cove.build.dockerfile.file import read_dockerfile
from cove.build.dockerfile.instructions import Instruction
from cove.build.graph.data import Origin, Step
from cove.build.graph.plan import Wanted, plan_build
from cove.build.ignore import read_ignore
from cove.errors import CoveError
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform, parse_platform

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
        except CoveError as error:
            return error.render()
        lines = [f"# {name}={value}" for name, value in file.directives.items()]
        lines += [shown(argument) for argument in file.arguments]
        for stage in file.stages:
            lines += ["", f"stage {stage.number} {stage.name}".rstrip(), shown(stage.origin)]
            lines += [shown(instruction) for instruction in stage.instructions]
        return "\n".join(lines).lstrip("\n") + "\n"

    @property
    def planned(self) -> Path:
        return HERE / f"{self.name}.plan"

    def plan_text(self) -> str:
        """Empty where the file cannot even be read."""
        said = self.source.with_suffix(".json")
        words = json.loads(said.read_text()) if said.exists() else {}
        try:
            file = read_dockerfile(self.source.read_bytes(), "Dockerfile")
        except CoveError:
            return ""
        try:
            build = plan_build(file, wanted(**words), look_up)
        except CoveError as error:
            return error.render()
        lines = []
        for stage in build.stages:
            mark = "*" if stage.number == build.target else ""
            head = f"stage {stage.number}{mark} {stage.name or '-'}"
            lines += ["", f"{head} from {stage.base} for {stage.platform}"]
            lines += [planned_step(step) for step in stage.steps]
            lines.append(f"  config {changed(stage.config, ImageConfig())}")
        lines += ["", f"context {' '.join(build.context_paths)}".rstrip()]
        lines += [f"unused {name}" for name in build.unused]
        lines += map(str, build.warnings)
        return "\n".join(lines).lstrip("\n") + "\n"


def wanted(
    *, platform: str = "", host: str = "linux/amd64", ignore: str = "", **words: object
) -> Wanted:
    rules = read_ignore(ignore.encode()) if ignore else None
    goal = parse_platform(platform) if platform else None
    return Wanted(parse_platform(host), goal, ignore=rules, **words)  # type: ignore[arg-type]


IMAGES = {
    "docker.io/library/onbuild:latest": ImageConfig(
        onbuild=("COPY --from=tools /t /t", "RUN <<EOF\nmake\nEOF", "ARG DEPTH=1"),
        env=("PATH=/own",),
        workdir="/app",
        architecture="amd64",
        os="linux",
    ),
    "docker.io/library/badtrigger:latest": ImageConfig(onbuild=("COPY a",)),
    "docker.io/library/arm:latest": ImageConfig(architecture="arm64", os="linux", variant="v8"),
}


def look_up(origin: Origin, platform: Platform) -> ImageConfig | None:
    """Images say little: a command, a user, and what they are for."""
    plain = ImageConfig(cmd=("/bin/sh",), architecture=platform.architecture, os=platform.os)
    return IMAGES.get(origin.name, plain) if origin.kind == "image" else None


def planned_step(step: Step) -> str:
    default = type(step)(step.place, step.title, step.created_by)
    mark = " (ONBUILD)" if step.onbuild else ""
    kind = type(step).__name__.removesuffix("Step").lower() or "set"
    return f"  {step.place.line} {kind}{mark} {step.created_by!r} {changed(step, default)}".rstrip()


def changed(value: object, default: object) -> str:
    found = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        own = getattr(value, field.name)
        if field.name != "onbuild" and own != getattr(default, field.name):
            found[field.name] = plain(own)
    return json.dumps(found, ensure_ascii=False) if found else ""


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
        return {name: one for name, one in found.items() if one not in (False, None, "", -1)}
    return [plain(one) for one in value] if isinstance(value, tuple) else value


@dataclasses.dataclass(frozen=True)
class Planned:
    """The second golden of a case, for ``make golden``."""

    case: Case

    @property
    def golden(self) -> Path:
        return self.case.planned

    def text(self) -> str:
        return self.case.plan_text()


def plans() -> Iterator[Planned]:
    for case in cases():
        if case.plan_text():
            yield Planned(case)


def cases() -> Iterator[Case]:
    for path in sorted(HERE.glob("*.dockerfile")):
        yield Case(path.stem)


def goldens() -> set[Path]:
    return {*HERE.glob("*.parsed"), *HERE.glob("*.plan")}
