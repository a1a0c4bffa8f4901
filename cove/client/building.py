"""What ``build`` has to find out before it asks the daemon: the Dockerfile, what is left out of the
context, what the base images are, and which files are wanted at all.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from cove.build.dockerfile.file import Dockerfile, read_dockerfile
from cove.build.files.tars import Forward, Gone, Source, Tar
from cove.build.files.wanted import Wanted as Files
from cove.build.graph.data import IMAGE, NAMED, Build, Origin
from cove.build.graph.plan import Wanted, plan_build
from cove.build.graph.several import joined
from cove.build.ignore import NAME, Ignore, ignore_names, read_ignore
from cove.build.source import told_of
from cove.client.packing import Packer
from cove.errors import BadArchive, HostError, NotFound, UsageError, printable
from cove.linux.pump import write_all
from cove.oci.config import ImageConfig, config_from_json
from cove.oci.manifest import Platform, matches
from cove.store.records import ImageRecord

Writer = Callable[[int], object]
"""Is given where to."""
DOCKERFILES = ("Dockerfile", "dockerfile")
TEXT_MAX = 16 << 20
HEAD = 512


@dataclass(slots=True)
class Context:
    """Where the files come from, and what was found there."""

    name: str
    """Of the Dockerfile, for messages."""
    dockerfile: bytes
    directory: str = ""
    archive: int = -1
    """A file with an archive of the context."""
    ignore: bytes = b""
    ignore_name: str = ""
    sockets: list[str] = field(default_factory=list)
    write: Writer | None = None
    """Writes all of it, where that is no directory and no archive."""

    @property
    def kind(self) -> str:
        return "files" if self.directory else "tar" if self.archive >= 0 else "none"

    @property
    def rules(self) -> Ignore | None:
        return read_ignore(self.ignore, self.ignore_name) if self.ignore else None

    def read(self) -> Dockerfile:
        return read_dockerfile(self.dockerfile, self.name)

    def writer(self, patterns: tuple[str, ...], cancelled: threading.Event) -> Writer | None:
        """Writes the context, as far as the build needs it."""
        if self.archive >= 0 or self.write is not None:
            return self.write or self._copy
        if not self.directory:
            return None

        def write(out: int) -> None:
            root = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                wanted = Files(patterns, self.rules)
                packer = Packer(root, self.directory, wanted, out, cancelled)
                packer.pack()
                self.sockets = packer.sockets
            finally:
                os.close(root)

        return write

    def _copy(self, out: int) -> None:
        at, left = 0, os.fstat(self.archive).st_size
        while left:
            moved = os.sendfile(out, self.archive, at, min(left, 1 << 20))
            if not moved:
                return
            at, left = at + moved, left - moved


# ---- where the Dockerfile is ----


def from_directory(directory: str, file: str, shown: str, stdin: int, typed: str = "") -> Context:
    """``file`` is absolute, empty where none was named, or ``-``; ``typed`` is what was."""
    if not os.path.isdir(directory):
        raise NotFound(f"cannot build {shown}: no such directory", origin=shown)
    if file == "-":
        name, text, beside = "Dockerfile", _read_fd(stdin, "standard input"), ""
    else:
        name, text, beside = _dockerfile(directory, file, shown, typed)
    found = Context(name, text, directory)
    _find_ignore(found, ignore_names(beside)[:1] if beside else ())
    return found


def named_directory(directory: str, typed: str) -> Context:
    """A context with a name: no Dockerfile is looked for in it."""
    if not os.path.isdir(directory):
        raise NotFound(f"cannot build with {printable(directory)}: no such directory", origin=typed)
    found = Context("", b"", directory)
    _find_ignore(found, ())
    return found


def _find_ignore(found: Context, beside: tuple[str, ...]) -> None:
    for path in (*beside, os.path.join(found.directory, NAME)):
        data = _read_if_there(path)
        if data is not None:
            found.ignore, found.ignore_name = data, os.path.basename(path)
            break


def _dockerfile(directory: str, file: str, shown: str, typed: str) -> tuple[str, bytes, str]:
    """Name for messages, text and path."""
    paths = [file] if file else [os.path.join(directory, name) for name in DOCKERFILES]
    for path in paths:
        data = _read_if_there(path)
        if data is not None:
            inside = os.path.relpath(path, directory)
            name = os.path.basename(path) if inside.startswith("..") else inside
            return name, data, path
    if file:
        raise NotFound(
            f"cannot build {shown}: there is no {printable(typed or file)}",
            origin=f"-f {typed or file}",
            host="a path after -f begins in the working directory, not in the context",
        )
    raise NotFound(f"cannot build {shown}: there is no {DOCKERFILES[0]}", hint="name it: -f FILE")


def _read_if_there(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"cannot read {path}: it is no file", exit_code=1)
        return _read_fd(fd, path)
    finally:
        os.close(fd)


def _read_fd(fd: int, what: str) -> bytes:
    data = bytearray()
    try:
        while piece := os.read(fd, 1 << 16):
            data += piece
            if len(data) > TEXT_MAX:
                raise UsageError(
                    f"cannot read {what}: it has more than {TEXT_MAX >> 20} MiB", exit_code=1
                )
    except OSError as error:
        raise _cannot(what, error) from error
    return bytes(data)


def _cannot(path: str, error: OSError) -> HostError:
    reason = (error.strerror or "").lower()
    return HostError(f"cannot read {printable(path)}: {reason}", exit_code=1)


@contextmanager
def from_stdin(stdin: int, file: str, gone: Gone) -> Iterator[Context]:
    """A Dockerfile alone, or an archive with one."""
    first = bytearray()
    while len(first) < HEAD and (piece := os.read(stdin, HEAD - len(first))):
        first += piece
    if not is_archive(bytes(first)):
        rest = _read_fd(stdin, "standard input")
        yield Context("Dockerfile", bytes(first) + rest)
        return
    with tempfile.TemporaryFile() as kept:
        with os.fdopen(os.dup(stdin), "rb") as source:
            pieces = chain([bytes(first)], iter(lambda: source.read(1 << 20), b""))
            spool(pieces, kept.fileno(), "standard input", gone)
        yield in_archive(kept.fileno(), file or "Dockerfile", gone, "-")


def spool(pieces: Iterable[bytes], out: int, what: str, gone: Gone) -> None:
    """Somebody else's bytes, as many as there may be and as there is room for."""
    from cove.engine.builds.packs import room
    from cove.image.pipeline import BYTES_MAX

    what = f"cannot read {printable(what)}"
    left, size = room(out), 0
    for piece in pieces:
        gone()
        size += len(piece)
        if size > BYTES_MAX:
            raise UsageError(f"{what}: it has more than {BYTES_MAX >> 30} GiB", exit_code=1)
        try:
            if size > left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_all(out, piece)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise HostError(f"{what}: {tempfile.gettempdir()}: {reason}", exit_code=1) from error


def is_archive(first: bytes) -> bool:
    from cove.image.compress import MAGIC_LENGTH, detect

    if detect(first[:MAGIC_LENGTH]) != "none":
        return True
    try:
        return len(first) == HEAD and bool(tarfile.TarInfo.frombuf(first, "utf-8", "strict"))
    except tarfile.HeaderError:
        return False


def in_archive(fd: int, file: str, gone: Gone, shown: str) -> Context:
    found = Context(file, b"", archive=fd)
    try:
        texts = _texts(fd, (file, f"{file}{NAME}", NAME), gone, shown)
    except BadArchive as error:
        raise UsageError(error.message, exit_code=1) from None
    if file not in texts:
        raise NotFound(f"cannot build {shown}: there is no {file} in it", hint="name it: -f")
    found.dockerfile = texts[file]
    for name in (f"{file}{NAME}", NAME):
        if name in texts:
            found.ignore, found.ignore_name = texts[name], name
            break
    return found


def _texts(fd: int, names: tuple[str, ...], gone: Gone, shown: str) -> dict[str, bytes]:
    """Read in the daemon: with bounds, whatever the archive says."""
    from cove.image.compress import MAGIC_LENGTH, Damaged, decode, detect

    found = {}
    what = "the archive on standard input" if shown == "-" else shown
    with open(fd, "rb", closefd=False) as stream:
        stream.seek(0)
        kind = detect(os.pread(fd, MAGIC_LENGTH, 0))
        source: Source = stream if kind == "none" else Forward(_asked(decode(kind, stream), gone))
        tar = Tar(source, what, gone)
        try:
            for member in tar:
                name = os.path.normpath(member.name)
                if name in names and member.isfile():
                    found[name] = tar.content(member, TEXT_MAX)
        except Damaged as error:
            raise BadArchive(f"cannot read {what}: {error}") from None
    return found


def _asked(pieces: Iterator[bytes], gone: Gone) -> Iterator[bytes]:
    for piece in pieces:
        gone()
        yield piece


# ---- which images ----


@dataclass(slots=True)
class Planned:
    build: Build
    images: dict[str, str]
    """``NAME PLATFORM`` to id."""


def fitting(
    record: ImageRecord, platform: Platform, *, asked: bool
) -> tuple[str, ImageConfig] | None:
    """An image that is here, if it is one for the platform. One that says nothing of itself is
    taken, and where nobody ``asked`` for a platform one that was made here for another CPU.
    """
    config = config_from_json(record.config)
    has = Platform(config.architecture, config.os or "linux", config.variant)
    if config.architecture and asked and not matches(platform, has):
        return None
    return record.id, config


Find = Callable[[Origin, Platform], tuple[str, ImageConfig] | None]
"""Gets an image: its id and its config; None: a named context that is none."""


def plan_all(file: Dockerfile, wanted: Sequence[Wanted], find: Find) -> Planned:
    """Of builds for several platforms, as one."""
    found = [plan(file, one, find) for one in wanted]
    if len(found) == 1:
        return found[0]
    images = {key: image for one in found for key, image in one.images.items()}
    return Planned(joined([one.build for one in found]).build, images)


def plan(file: Dockerfile, wanted: Wanted, find: Find) -> Planned:
    images: dict[str, str] = {}
    configs: dict[str, ImageConfig] = {}

    def lookup(origin: Origin, platform: Platform) -> ImageConfig | None:
        key = f"{origin.name} {platform}"
        if key not in configs:
            found = find(origin, platform)
            if found is None:
                return None
            images[key], configs[key] = found
        return configs[key]

    build = plan_build(file, wanted, lookup)
    for stage in build.stages:
        for step in stage.steps:
            for origin in step.origins:
                if origin.kind in (IMAGE, NAMED):
                    with told_of(step.place):
                        lookup(origin, stage.platform)
    return Planned(build, images)
