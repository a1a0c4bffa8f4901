"""A build as data: stages in the order in which they can be built, steps, where files come from."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from cove.build.dockerfile.mounts import Mount
from cove.build.lint.rules import Warning
from cove.build.source import Place
from cove.oci.config import ImageConfig
from cove.oci.manifest import Platform

CONTEXT, NAMED, STAGE, IMAGE, SCRATCH, GIT, HTTP, INLINE = (
    "context", "named", "stage", "image", "scratch", "git", "http", "inline",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where files come from: the build context, a named context, a stage, an image, nothing, a git
    repository, a URL, or the Dockerfile itself."""

    kind: str
    name: str = ""
    stage: int = -1

    def __str__(self) -> str:
        return f"{self.kind} {self.stage if self.kind == STAGE else self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Git:
    """``https://host/repo.git#ref:folder``."""

    remote: str
    ref: str = ""
    folder: str = ""
    keep_git_dir: bool = False
    checksum: str = ""
    submodules: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """One source of COPY or ADD."""

    origin: Origin
    path: str
    """From the origin's root; ``*``, ``?`` and ``[]`` match, as in Go's ``filepath.Match``."""
    pattern: str = ""
    """``--parents``: what is kept of the path, from ``path`` on."""
    unpack: bool = False
    content: str = ""
    checksum: str = ""
    git: Git | None = None


@dataclass(frozen=True, slots=True)
class StepMount:
    """A mount with its place made absolute."""

    mount: Mount
    target: str
    origin: Origin | None = None
    """None: it has no files of a build (tmpfs, secret, ssh)."""


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A script that a here-document is, for the time of a step."""

    path: str
    content: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction. Alone it only changes the config: it makes no layer."""

    place: Place
    title: str
    created_by: str
    """For the image's history."""
    onbuild: bool = False
    """It comes from the base image."""

    @property
    def layer(self) -> bool:
        return type(self) is not Step

    @property
    def origins(self) -> tuple[Origin, ...]:
        """What has to be there first, beside the step before."""
        return ()


@dataclass(frozen=True, slots=True)
class RunStep(Step):
    argv: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    """Variables that are given to the program, but neither kept nor part of the cache key."""
    workdir: str = "/"
    user: str = ""
    mounts: tuple[StepMount, ...] = ()
    files: tuple[InlineFile, ...] = ()
    network: str = "default"
    security: str = "sandbox"

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(mount.origin for mount in self.mounts if mount.origin is not None)


@dataclass(frozen=True, slots=True)
class CopyStep(Step):
    sources: tuple[Source, ...] = ()
    target: str = "/"
    """Absolute; a slash at its end says that it is a folder."""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()

    @property
    def origins(self) -> tuple[Origin, ...]:
        return tuple(dict.fromkeys(source.origin for source in self.sources))


@dataclass(frozen=True, slots=True)
class WorkdirStep(Step):
    """Makes a folder, owned by ``user``, unless it is there."""

    path: str = "/"
    user: str = ""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage that is needed."""

    number: int
    name: str
    base: Origin
    platform: Platform
    steps: tuple[Step, ...]
    config: ImageConfig

    @property
    def origins(self) -> tuple[Origin, ...]:
        found = [self.base, *(origin for step in self.steps for origin in step.origins)]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Build:
    """All that a target needs; no stage needs a later one."""

    stages: tuple[StagePlan, ...]
    target: int
    warnings: tuple[Warning, ...] = ()
    unused: tuple[str, ...] = ()
    """Build arguments that no ARG asks for, each with what may have been meant."""

    @property
    def result(self) -> StagePlan:
        return self.stage(self.target)

    def stage(self, number: int) -> StagePlan:
        return next(stage for stage in self.stages if stage.number == number)

    @property
    def context_paths(self) -> tuple[str, ...]:
        """What is read of the build context, as patterns; ``/`` is all of it."""
        return self.paths_of(Origin(CONTEXT))

    @property
    def named(self) -> tuple[str, ...]:
        """The named contexts that are needed."""
        origins = (origin for stage in self.stages for origin in stage.origins)
        return tuple(dict.fromkeys(one.name for one in origins if one.kind == NAMED))

    def paths_of(self, origin: Origin) -> tuple[str, ...]:
        """What is read of a context; of one that a stage begins with all."""
        found = set()
        for stage in self.stages:
            if stage.base == origin:
                return ("/",)
            for step in stage.steps:
                if isinstance(step, CopyStep):
                    mine = (s for s in step.sources if s.origin == origin)
                    found |= {
                        posixpath.normpath(f"{s.path}/{s.pattern}").replace("//", "/") for s in mine
                    }
                elif isinstance(step, RunStep):
                    mounts = (m for m in step.mounts if m.origin == origin)
                    found |= {_as_pattern(posixpath.normpath(f"/{m.mount.source}")) for m in mounts}
        return ("/",) if "/" in found else tuple(sorted(found))


def _as_pattern(path: str) -> str:
    """The source of a mount is no pattern."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)
