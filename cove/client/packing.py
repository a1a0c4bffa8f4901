"""A directory as a build context: what a build needs of it, as a stream, read with the caller's own
rights.

No link is followed: each name is opened in the directory that was opened before it. What cannot be
read, and what no image holds, is named.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from cove.build.files.entries import (
    ATTRIBUTES_MAX,
    FIFO,
    FILE,
    FOLDER,
    LINK,
    LINKS_MAX,
    Sent,
    is_attribute,
    joined,
)
from cove.build.files.select import literal
from cove.build.files.wanted import Wanted
from cove.build.ignore import NAME, SIZE_MAX, read_ignore
from cove.engine.calls.build import ImageBuild
from cove.errors import CoveError, HostError, Unsupported, printable

HEAD = struct.Struct(">I")
PIECE = 1 << 20
SMALL = 64 << 10
DEPTH_MAX = 250
"""Each level holds a descriptor, and calls of Python's."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
Attributes = tuple[tuple[bytes, bytes], ...]
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Packer:
    """Writes the stream to ``out``."""

    root: int
    """The context's directory, opened."""
    shown: str
    wanted: Wanted
    out: int
    cancelled: threading.Event
    sockets: list[str] = field(default_factory=list)
    """Left out, as every archive does."""
    _links: list[str] = field(default_factory=list)
    _unsaid: list[tuple[str, os.stat_result, Attributes]] = field(default_factory=list)
    """Folders on the way that are left out themselves, until something in them is not."""
    _buffer: bytearray = field(default_factory=bytearray)

    def pack(self) -> None:
        self._follow()
        for _ in range(LINKS_MAX):
            self._walk()
            led, self._links = self._links, []
            if not led:
                break
            self.wanted = Wanted(tuple(led), self.wanted.ignore)
        self._buffer += HEAD.pack(0)
        self._flush()

    # ---- links on the way ----

    def _follow(self) -> None:
        """A source may lead through links of the context: where they end is wanted too."""
        for pattern in self.wanted.patterns:
            front, rest = literal(pattern)
            real = self._resolve(front)
            if real is not None and real != front:
                self.wanted = self.wanted.more(joined(real, rest).strip("/") or "/")

    def _resolve(self, path: str) -> str | None:
        left = [part for part in reversed(path.split("/")) if part]
        at: list[str] = []
        links = 0
        while left:
            part = left.pop()
            if part in (".", ".."):
                del at[len(at) - (part == "..") :]
                continue
            try:
                link = os.readlink("/".join((*at, part)), dir_fd=self.root)
            except OSError:
                at.append(part)
                continue
            links += 1
            if links > LINKS_MAX:
                return None
            if link.startswith("/"):
                at = []
            left += [one for one in reversed(link.split("/")) if one]
        return "/".join(at)

    # ---- the walk ----

    def _walk(self) -> None:
        whole = self.wanted.everything
        with contextlib.ExitStack() as stack:
            top = os.open(".", _FOLDER, dir_fd=self.root)
            stack.callback(os.close, top)
            self._folder(top, "", inside=whole, depth=0)

    def _folder(self, fd: int, folder: str, *, inside: bool, depth: int) -> None:
        try:
            with os.scandir(fd) as found:
                names = sorted([(one.name, one.is_file(follow_symlinks=False)) for one in found])
        except OSError as error:
            raise self._cannot(folder, error) from error
        for name, is_file in names:
            if self.cancelled.is_set():
                raise CoveError("interrupted", exit_code=130)
            path = joined(folder, name)
            if not is_file:
                self._one(fd, name, path, inside=inside, depth=depth)
            elif self.wanted.takes(path, inside=inside) and self.wanted.kept(path):
                self._file(fd, name, path)

    def _one(self, parent: int, name: str, path: str, *, inside: bool, depth: int) -> None:
        """What is no file, as its folder says."""
        takes = self.wanted.takes(path, inside=inside)
        if not takes and not self.wanted.enters(path):
            return
        kept = self.wanted.kept(path)
        if not kept and not self.wanted.looks_into(path):
            return
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return  # it went meanwhile
        except OSError as error:
            raise self._cannot(path, error) from error
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            self._enter(parent, name, path, found, takes=takes, kept=kept, depth=depth)
        elif kept and kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=parent)
            self._say(path, LINK, found, link=os.fsencode(link))
            if takes and not inside and (real := self._resolve(path)) is not None:
                self._links.append(real or "/")
        elif kept and takes:
            self._leaf(parent, name, path, kind, found)

    def _enter(
        self,
        parent: int,
        name: str,
        path: str,
        found: os.stat_result,
        *,
        takes: bool,
        kept: bool,
        depth: int,
    ) -> None:
        if depth >= DEPTH_MAX:
            raise Unsupported(
                f"cannot read {self.shown}: {printable(path)[:80]}…: more than {DEPTH_MAX} "
                "directories in each other",
                exit_code=1,
            )
        try:
            fd = os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # something else took its name meanwhile
            raise self._cannot(path, error) from error
        try:
            self._unsaid.append((path, found, self._attributes(fd, path)))
            if kept:
                self._say_folders()
            self._folder(fd, path, inside=takes, depth=depth + 1)
            if self._unsaid:
                self._unsaid.pop()
        finally:
            os.close(fd)

    def _leaf(self, parent: int, name: str, path: str, kind: int, found: os.stat_result) -> None:
        if kind == stat.S_IFREG:
            self._file(parent, name, path)
        elif kind == stat.S_IFIFO:
            self._say(path, FIFO, found)
        elif kind == stat.S_IFSOCK:
            self.sockets.append(path)
        else:
            raise Unsupported(
                f"cannot read {self.shown}: {printable(path)} is a device, which no image holds",
                hint="leave it out: .dockerignore",
                exit_code=1,
            )

    def _file(self, parent: int, name: str, path: str) -> None:
        try:
            fd = os.open(name, _FILE, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return  # something else took its name meanwhile
            raise self._cannot(path, error) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return  # something else took its name meanwhile
            attributes = self._attributes(fd, path)
            self._say(path, FILE, found, size=found.st_size, xattrs=attributes)
            self._content(fd, path, found.st_size)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise self._cannot(path, error) from error
        finally:
            os.close(fd)

    def _attributes(self, fd: int, path: str) -> Attributes:
        """What file systems have none for has none."""
        found = []
        try:
            names = os.listxattr(fd)
            if not names:
                return ()
            for name in names:
                if is_attribute(name):
                    found.append((os.fsencode(name), os.getxattr(fd, name)))
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.E2BIG, errno.EPERM):
                raise self._cannot(path, error) from error
        if sum(len(name) + len(value) for name, value in found) > ATTRIBUTES_MAX:
            raise Unsupported(
                f"cannot read {self.shown}: {printable(path)} has over "
                f"{ATTRIBUTES_MAX >> 10} KiB of extended attributes",
                hint="leave it out: .dockerignore",
                exit_code=1,
            )
        return tuple(found)

    def _content(self, fd: int, path: str, size: int) -> None:
        if size <= SMALL:
            data = os.read(fd, size) if size else b""
            if len(data) < size:
                raise self._shrank(path)
            self._buffer += data
            return
        self._flush()
        at = 0
        while at < size:
            moved = os.sendfile(self.out, fd, at, min(PIECE, size - at))
            if not moved:
                raise self._shrank(path)
            at += moved
            if self.cancelled.is_set():
                raise CoveError("interrupted", exit_code=130)

    def _shrank(self, path: str) -> HostError:
        return HostError(
            f"cannot read {self.shown}: {printable(path)} shrank while it was read", exit_code=1
        )

    def _cannot(self, path: str, error: OSError) -> HostError:
        return HostError(
            f"cannot read {self.shown}: {printable(path)}: {(error.strerror or '').lower()}",
            hint="leave it out: .dockerignore",
            exit_code=1,
        )

    # ---- the stream ----

    def _say(
        self,
        path: str,
        kind: str,
        found: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        xattrs: Attributes = (),
    ) -> None:
        if self._unsaid:
            self._say_folders()
        mode = stat.S_IMODE(found.st_mode)
        head = _encode(Sent(os.fsencode(path), kind, mode, found.st_mtime_ns, size, link, xattrs))
        self._buffer += HEAD.pack(len(head)) + head
        if len(self._buffer) >= PIECE:
            self._flush()

    def _say_folders(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for path, found, xattrs in unsaid:
            self._say(path, FOLDER, found, xattrs=xattrs)

    def _flush(self) -> None:
        write_all(self.out, bytes(self._buffer))
        self._buffer.clear()


def send_archive(fd: int, what: str, out: int, gone: Callable[[], None]) -> None:
    """The files of an archive, less what its own ``.dockerignore`` leaves out."""
    import tempfile

    from cove.engine.builds.packs import decode, read_tar
    from cove.oci.archive import Span

    with tempfile.TemporaryFile() as spool:
        source = spool.fileno()
        decode(Span(fd, 0, os.fstat(fd).st_size), source, what)
        files = read_tar(source, what, gone)
        known = files.by_path.get(NAME)
        rules = None
        if known is not None and known.kind == FILE:
            size = min(known.size, SIZE_MAX + 1)  # which is refused
            rules = read_ignore(os.pread(source, size, known.content), NAME)
        for path, entry in files.by_path.items():
            gone()
            if not path or (rules is not None and not rules.kept(path)):
                continue
            name, link = os.fsencode(path), os.fsencode(entry.link)
            said = tuple((os.fsencode(key), os.fsencode(value)) for key, value in entry.xattrs)
            head = _encode(
                Sent(name, entry.kind, entry.mode, entry.mtime_ns, entry.size, link, said)
            )
            write_all(out, HEAD.pack(len(head)) + head)
            at, end = entry.content, entry.content + entry.size
            while at < end:
                gone()
                at += os.sendfile(out, source, at, min(PIECE, end - at))
        write_all(out, HEAD.pack(0))


@contextlib.contextmanager
def packed(
    params: ImageBuild, writers: Sequence[Callable[[int], object] | None]
) -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor to read what is asked for from, then the contexts that ``writers`` write; and
    what is called after its end, which raises why they are not whole.
    """
    from cove.image.pipeline import widen

    reader, writer = os.pipe2(os.O_CLOEXEC)
    widen(writer)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            head = _encode(params)
            write_all(writer, HEAD.pack(len(head)) + head)
            for write in filter(None, writers):
                write(writer)
        except BrokenPipeError:
            pass  # the reader says why
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=work, name="context", daemon=True)
    thread.start()

    def finish() -> None:
        thread.join()
        if failed:
            raise failed[0]

    try:
        yield reader, finish
    finally:
        os.close(reader)
        thread.join()


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
