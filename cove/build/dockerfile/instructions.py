"""The instructions of a Dockerfile as data, with every word as it was written. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cove.build.dockerfile.heredoc import Heredoc
from cove.build.source import Place


@dataclass(frozen=True, slots=True)
class Instruction:
    """What all instructions have: where they stand, and their line put together."""

    place: Place
    keyword: str
    """As it was typed."""
    code: str
    comments: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.keyword.upper()


@dataclass(frozen=True, slots=True)
class Pair:
    """``name=value``; ``legacy`` where a blank stood for the ``=``."""

    name: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """A name of ARG; without a default ``value`` is None."""

    name: str
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """A list of words to be executed (the JSON form), or one line for a shell."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class From(Instruction):
    image: str
    stage: str
    """In small letters; empty: it has no name."""
    platform: str
    typed: tuple[str, str] = ("", "")
    """``AS`` and the name as they were written."""


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    command: Command
    heredocs: tuple[Heredoc, ...]
    mounts: tuple[str, ...]
    """As written: their values are expanded, their keys are not."""
    network: str
    security: str


@dataclass(frozen=True, slots=True)
class Document:
    """A here-document as a source of COPY and ADD."""

    name: str
    content: str
    expand: bool


@dataclass(frozen=True, slots=True)
class Transfer(Instruction):
    """What COPY and ADD have in common."""

    sources: tuple[str, ...]
    documents: tuple[Document, ...]
    target: str
    chown: str
    chmod: str
    link: bool
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Copy(Transfer):
    origin: str
    """``--from``: a stage, its number, a named context or an image; empty: the build context."""
    parents: bool


@dataclass(frozen=True, slots=True)
class Add(Transfer):
    checksum: str
    keep_git_dir: bool | None
    unpack: bool | None


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    """Times in nanoseconds, 0: the default."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True, slots=True)
class User(Instruction):
    user: str


@dataclass(frozen=True, slots=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True, slots=True)
class Maintainer(Instruction):
    author: str


@dataclass(frozen=True, slots=True)
class Onbuild(Instruction):
    trigger: str
    """The instruction as text, with its here-documents."""
