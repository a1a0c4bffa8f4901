"""Which stage, named context or image a name means, and which stages a target needs. Pure.

A stage sees only those above it, so there can be no circle.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cove.build.dockerfile import instructions as i
from cove.build.dockerfile.file import Dockerfile, Stage
from cove.build.dockerfile.mounts import check_mount
from cove.build.graph.data import CONTEXT, IMAGE, NAMED, SCRATCH, STAGE, Origin
from cove.build.source import Place, misfit
from cove.errors import UsageError
from cove.oci.reference import parse_reference
from cove.spec.suggest import did_you_mean


@dataclass(frozen=True, slots=True)
class Names:
    """The stages of a file and the contexts of the command line, by name."""

    file: Dockerfile
    contexts: Collection[str]
    stages: dict[str, tuple[int, ...]]
    """A name may be given more than once: the last one above counts."""

    def base(self, name: str, stage: Stage) -> Origin:
        """What FROM means."""
        return self._named(name, stage.number, stage.origin.place)

    def copied(self, name: str, by: i.Instruction, stage: Stage) -> Origin:
        """What ``COPY --from`` and ``from=`` mean; a number is a stage's, but not for a mount."""
        if not name:
            return Origin(CONTEXT)
        if "$" in name[:-1]:
            raise misfit(
                by.place,
                "variables are not expanded in --from",
                hint="name a stage: FROM image:$tag AS name, then --from=name",
            )
        digits = name.isascii() and name.isdigit()
        if digits and isinstance(by, i.Copy):
            return self._numbered(name, by.place, stage)
        found = self._named(name, stage.number, by.place)
        if found.kind == IMAGE:
            self._check_later(name, by.place, stage)
        return found

    def _numbered(self, name: str, place: Place, stage: Stage) -> Origin:
        number = int(name[:9])
        if len(name) > 9 or number >= len(self.file.stages):
            raise misfit(
                place, f"there is no stage {name}", hint=f"the last one is {stage.number - 1}"
            )
        if number >= stage.number:
            raise self._later(name, place, itself=number == stage.number)
        return self._stage(number)

    def _named(self, name: str, before: int, place: Place) -> Origin:
        low = name.lower()
        if context := same_name(name, self.contexts):
            return Origin(NAMED, context)
        above = [number for number in self.stages.get(low, ()) if number < before]
        if above:
            return self._stage(above[-1])
        if low == "scratch":
            return Origin(SCRATCH)
        try:
            return Origin(IMAGE, str(parse_reference(name)))
        except UsageError as error:
            known = [word for word, numbers in self.stages.items() if numbers[0] < before]
            hint = did_you_mean(low, known) or error.hint
            why = error.message.rpartition(": ")[2]
            raise misfit(place, f'"{name}" is no image: {why}', hint=hint) from None

    def _check_later(self, name: str, place: Place, stage: Stage) -> None:
        for number in self.stages.get(name.lower(), ()):
            raise self._later(name, place, itself=number == stage.number)

    def _later(self, name: str, place: Place, *, itself: bool) -> UsageError:
        if itself:
            return misfit(place, f"stage {name} copies from itself")
        return misfit(place, f"stage {name} stands further down", hint="write it above this stage")

    def _stage(self, number: int) -> Origin:
        return Origin(STAGE, self.file.stages[number].name, number)


def context_name(name: str) -> str:
    """The name of a context as it is compared: that of an image is the same with and without
    ``docker.io/`` and ``:latest``. Raises where no FROM could have it.
    """
    return parse_reference(name).familiar().removesuffix(":latest")


def same_name(name: str, known: Collection[str]) -> str:
    """The context that a word of FROM or ``--from`` means; empty: none."""
    if name in known:
        return name
    try:
        found = context_name(name)
    except UsageError:
        return ""
    return found if found in known else ""


def names_of(file: Dockerfile, contexts: Collection[str]) -> Names:
    found: dict[str, tuple[int, ...]] = {}
    for stage in file.stages:
        if stage.name:
            found[stage.name] = (*found.get(stage.name, ()), stage.number)
    return Names(file, contexts, found)


def target_of(file: Dockerfile, target: str) -> int:
    """The stage that ``--target`` names, or whose number it is; else the last one."""
    if not target:
        return len(file.stages) - 1
    for stage in reversed(file.stages):
        if stage.name == target.lower():
            return stage.number
    if target.isascii() and target.isdigit() and len(target) < 9 and int(target) < len(file.stages):
        return int(target)
    names = [stage.name for stage in file.stages if stage.name]
    hint = did_you_mean(target, names) or (f"there are {', '.join(names[:20])}" if names else "")
    raise UsageError(
        f'cannot build {file.name}: no stage is called "{target}"',
        origin=f"--target {target}",
        hint=hint,
        exit_code=1,
    )


def needs(instructions: Collection[i.Instruction], names: Names, stage: Stage) -> set[int]:
    """The stages that these instructions copy from or mount."""
    found = set()
    for by in instructions:
        wanted: list[str] = []
        if isinstance(by, i.Copy):
            wanted = [by.origin]
        elif isinstance(by, i.Run):
            wanted = [check_mount(mount, by.place) for mount in by.mounts]
        for name in filter(None, wanted):
            origin = names.copied(name, by, stage)
            if origin.kind == STAGE:
                found.add(origin.stage)
    return found
