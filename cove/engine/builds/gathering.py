"""What a COPY, an ADD or a mount takes, gathered from where it is: the build context, another tree,
the Dockerfile itself, the web.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cove.build.files.entries import FILE, Entry, Files, joined
from cove.build.files.select import (
    Place,
    Placed,
    excluded,
    is_wild,
    literal,
    select,
    select_parents,
)
from cove.build.files.tars import Gone
from cove.build.graph.data import CONTEXT, GIT, HTTP, INLINE, NAMED, CopyStep, Origin, Source
from cove.build.ignore import Ignore
from cove.build.source import misfit
from cove.engine.builds import trees
from cove.engine.builds.packs import Pack, decode, is_archive, nameless, read_tar, write_all
from cove.engine.builds.trees import Tree
from cove.engine.events import Cancel
from cove.engine.home import Home
from cove.errors import NotFound, UsageError
from cove.linux.pump import pump
from cove.oci.archive import Span
from cove.oci.logins import redacted

HEAD = ".git/HEAD"
TOP = "top"
"""What the first entry of an archive is called that comes out of a tree."""


@dataclass(frozen=True, slots=True)
class Part:
    """One source, with the files that it is among."""

    source: Source
    pack: Pack
    path: str
    name: str
    """What a file alone in its tree is called; empty: as it is."""
    whole: bool = False
    """The pack is a whole context, not only what is at the source's path."""
    unpacked: bool = False
    """The files are those of an archive."""

    def placed(self, place: Place, ignore: Ignore | None) -> list[Placed]:
        """The files at their new places."""
        files = self.pack.files
        if self.unpacked:
            return select(files, "", Place(place.path, folder=True, exists=place.exists), ignore)
        if self.source.pattern:
            front = self.path if self.whole else ""
            return select_parents(files, front, self.source.pattern, place, ignore)
        return [_renamed(one, self.name, place) for one in select(files, self.path, place, ignore)]

    @property
    def may_be_nothing(self) -> bool:
        """An empty archive or folder; a wildcard, as BuildKit has it, if its folder is there."""
        files = self.pack.files
        if self.source.pattern:
            front = self.path if self.whole else ""
            return is_wild(self.source.pattern) and _is_folder(files, front)
        front, pattern = literal(self.path)
        return self.unpacked or _is_folder(files, front if pattern else self.path)


@dataclass(slots=True)
class Gathered:
    """Files of one step, each with the file that its content is in."""

    parts: list[tuple[int, list[Placed]]] = field(default_factory=list)

    @property
    def placed(self) -> list[Placed]:
        return [one for _, placed in self.parts for one in placed]


@contextlib.contextmanager
def tree_pack(home: Home, tree: Tree, path: str, what: str, gone: Gone) -> Iterator[Pack | None]:
    """What is at ``path`` of a tree, whose links lead where they lead inside; None: nothing."""
    with nameless(home.store) as fd, trees.writable(home) as upper:
        words = ("out", f"/{path}", TOP, "1")
        with trees.visit(home, tree, upper, words, what=what) as archiver:
            try:
                pump(archiver.stdout, fd, _stops(gone))
                archiver.finish()
            except NotFound:
                yield None
                return
        yield Pack(fd, read_tar(fd, what, gone, below=TOP))


def _stops(gone: Gone) -> Callable[[], bool]:
    """Asked whether to stop, it raises: who stops says why."""

    def stopped() -> bool:
        gone()
        return False

    return stopped


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a step's files may come from."""

    home: Home
    context: Pack
    trees: dict[str, Tree]
    """By ``str`` of their origin."""
    gone: Gone
    clock_ns: int
    stopped: Cancel
    loopback: bool = False
    """Steps see the host's network: so may ADD of a URL."""
    named: dict[str, Pack] = field(default_factory=dict)
    """Named contexts that are files."""
    agent: int | None = None
    """The caller's own, for git over ssh: a socket's descriptor."""
    known_hosts: bytes = b""

    def pack_of(self, origin: Origin) -> Pack | None:
        """Of a build context; None: it is no such thing."""
        if origin.kind == CONTEXT:
            return self.context
        return self.named.get(origin.name) if origin.kind == NAMED else None


def gather(sources: Sources, step: CopyStep, stack: contextlib.ExitStack) -> list[Part]:
    """All sources of a COPY; what they hold open is closed by ``stack``."""
    found = []
    for source in step.sources:
        pack, path, name = _opened(sources, step, source, stack)
        if pack is None:
            raise _missing(step, source)
        part = Part(source, pack, path, name, sources.pack_of(source.origin) is pack)
        if source.unpack and (inner := _archive(sources, step, pack, path, stack)) is not None:
            part = Part(source, inner, "", "", unpacked=True)
        found.append(part)
    return found


ANYWHERE = Place("", folder=True, exists=True)


def placed(parts: list[Part], step: CopyStep, place: Place = ANYWHERE) -> Gathered:
    """The files at ``place``. Where that is hangs on the step and the tree alone: for the cache any
    other will do.
    """
    found, ignore = Gathered(), excluded(step.exclude)
    for part in parts:
        mine = part.placed(place, ignore)
        if not mine and not part.may_be_nothing:
            raise _missing(step, part.source)
        found.parts.append((part.pack.fd, mine))
    return found


def known_by(parts: list[Part], step: CopyStep) -> list[Placed]:
    """The files that the cache knows a step by. What git wrote for itself (packs as a server made
    them, inode numbers) is another each time: HEAD, the commit, stands for it."""
    found: list[Placed] = []
    for part, (_, mine) in zip(parts, placed(parts, step).parts, strict=True):
        kept = part.source.git is not None and any(one.entry.path == HEAD for one in mine)
        found += [one for one in mine if not (kept and _is_gits(one.entry.path))]
    return found


def _is_gits(path: str) -> bool:
    return path.startswith(".git/") and path not in (HEAD, ".git/config")


def _renamed(one: Placed, name: str, place: Place) -> Placed:
    """A file alone in its tree is called as the source was."""
    if not name or one.entry.path or one.made or not place.folder:
        return one
    return Placed(one.entry, joined(place.path, name))


def _is_folder(files: Files, path: str) -> bool:
    real = files.resolve(path)
    return real is not None and files[real].kind != FILE


def _opened(
    sources: Sources, step: CopyStep, source: Source, stack: contextlib.ExitStack
) -> tuple[Pack | None, str, str]:
    """The files, the source's path among them, and what it is called where that says nothing."""
    kind, path = source.origin.kind, source.path.strip("/")
    if (pack := sources.pack_of(source.origin)) is not None:
        return pack, path, ""
    if kind == INLINE:
        return _inline(sources, source, stack), source.origin.name, ""
    if kind == HTTP:
        return _fetched(sources, step, source, stack), path, ""
    if kind == GIT:
        return _cloned(sources, step, source, stack), path, ""
    tree = sources.trees[str(source.origin)]
    front, rest = literal(path)
    what = f"copy /{front} of {source.origin}"
    opened = tree_pack(sources.home, tree, front, what, sources.gone)
    return stack.enter_context(opened), rest, posixpath.basename(front)


def _inline(sources: Sources, source: Source, stack: contextlib.ExitStack) -> Pack:
    data = source.content.encode("utf-8", "surrogateescape")
    fd = stack.enter_context(nameless(sources.home.store))
    write_all(fd, data)
    entry = Entry(
        source.origin.name,
        FILE,
        0o644,
        mtime_ns=sources.clock_ns,
        size=len(data),
        content=0,
        digest=hashlib.sha256(data).hexdigest(),
    )
    return Pack(fd, Files([entry]))


def _fetched(sources: Sources, step: CopyStep, source: Source, stack: contextlib.ExitStack) -> Pack:
    from cove.engine.builds.fetching import fetch

    fd = stack.enter_context(nameless(sources.home.store))
    got = fetch(source.origin.name, fd, step.place, sources.stopped, loopback=sources.loopback)
    if source.checksum and source.checksum != f"sha256:{got.digest}":
        raise misfit(
            step.place,
            f"{source.origin.name} has the digest sha256:{got.digest}, not {source.checksum}",
        )
    entry = Entry(
        source.path.strip("/"), FILE, 0o600, mtime_ns=got.mtime_ns, size=got.size, content=0,
        digest=got.digest,
    )  # fmt: skip
    return Pack(fd, Files([entry]))


def _cloned(sources: Sources, step: CopyStep, source: Source, stack: contextlib.ExitStack) -> Pack:
    from cove.engine.builds.cloning import clone, identity_of

    assert source.git is not None
    fd = stack.enter_context(nameless(sources.home.store))
    place = sources.home.store.layout.tmp
    clone(
        source.git, fd, step.place, sources.stopped, place=place, loopback=sources.loopback,
        identity=identity_of(sources.agent, sources.known_hosts), groups=sources.home.groups,
    )  # fmt: skip
    return Pack(fd, read_tar(fd, redacted(source.git.remote), sources.gone))


def _archive(
    sources: Sources, step: CopyStep, pack: Pack, path: str, stack: contextlib.ExitStack
) -> Pack | None:
    """The files in a source of ADD that is an archive."""
    real = pack.files.resolve(path)
    entry = pack.files[real] if real is not None else None
    if entry is None or entry.kind != FILE or not is_archive(pack.fd, entry):
        return None
    fd = stack.enter_context(nameless(sources.home.store))
    what = f"{posixpath.basename(path)} ({step.place})"
    decode(Span(pack.fd, entry.content, entry.size), fd, what)
    return Pack(fd, read_tar(fd, what, sources.gone))


def _missing(step: CopyStep, source: Source) -> UsageError:
    kind, name = source.origin.kind, source.origin.name
    where = {CONTEXT: "the build context", NAMED: f"the context {name}"}.get(
        kind, redacted(str(source.origin))
    )
    path = f"{source.path}/{source.pattern}" if source.pattern else source.path
    of_context = kind == CONTEXT
    hint = "paths begin at the context's root; .dockerignore may leave it out" * of_context
    return misfit(step.place, f'"{path}" is not in {where}', hint=hint)
