"""Archives that somebody sent, member by member: ``tarfile`` believes what a header says of its own
length, and would read it into memory, or run in a circle. Pure: the bytes are an argument.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from cove.errors import BadArchive

EXTENDED_MAX = 1 << 20
"""Bytes of one extended header: names, and what pax says."""
HEAD_MAX = 4 << 20
"""Of all that stands in front of a member's content, the map of a file with holes included."""
STEP = 16 << 20
"""Bytes that are passed over before it is asked again whether anybody still wants this."""
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
Gone = Callable[[], None]
"""Raises once nobody wants it any more."""


class Refused(tarfile.TarError):
    """None of those that ``tarfile`` takes for the end of an archive."""


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def seek(self, to: int, /) -> int: ...
    def tell(self) -> int: ...


class Checked(tarfile.TarInfo):
    """A header whose numbers can be meant."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        _check_size(found)
        if found.type in _EXTENDED and found.size > EXTENDED_MAX:
            raise Refused(f"an extended header has more than {EXTENDED_MAX >> 20} MiB")
        return found

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Again, for what pax headers say."""
        found = super().fromtarfile(tarfile)
        _check_size(found)
        return found


def _check_size(found: tarfile.TarInfo) -> None:
    if found.size < 0:
        raise Refused("a file in it has a negative size")


class _Bounded:
    """Where ``tarfile`` reads from: not more than was allowed, nor beyond the end."""

    def __init__(self, source: Source, gone: Gone, end: int | None) -> None:
        self._source, self._gone, self._end = source, gone, end
        self.left = HEAD_MAX

    def read(self, size: int = -1) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise Refused(f"the headers of a file have more than {HEAD_MAX >> 20} MiB")
        if self._end is not None:
            size = max(0, min(size, self._end - self._source.tell()))
        return self._source.read(size)

    def seek(self, to: int) -> int:
        if self._end is not None:
            to = min(to, self._end)
        at = self._source.tell()
        if to < at:
            return self._source.seek(to)
        while at < to:
            self._gone()
            wanted = min(to, at + STEP)
            at = self._source.seek(wanted)
            if at < wanted:
                break  # its end
        return at

    def tell(self) -> int:
        return self._source.tell()


class Tar:
    """An archive without compression. Raises BadArchive, whatever is wrong with it."""

    def __init__(self, source: Source, what: str, gone: Gone, *, end: int | None = None) -> None:
        self._what, self._gone = what, gone
        self._file = _Bounded(source, gone, end)
        self._tar: tarfile.TarFile | None = None

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        while (member := self._next()) is not None:
            self._gone()
            yield member

    def _next(self) -> tarfile.TarInfo | None:
        self._file.left = HEAD_MAX
        with _Named(self._what):
            if self._tar is None:
                self._tar = tarfile.open(  # noqa: SIM115  # it holds nothing of its own
                    fileobj=self._file, mode="r:", tarinfo=Checked,  # type: ignore[call-overload]
                    encoding="utf-8", errors="surrogateescape",
                )  # fmt: skip
            assert self._tar is not None
            member = self._tar.next()
            self._tar.members = []  # type: ignore[union-attr]  # it would keep all of them
            said = self._tar.pax_headers
            if sum(len(name) + len(value) for name, value in said.items()) > EXTENDED_MAX:
                raise Refused(f"its global headers have more than {EXTENDED_MAX >> 20} MiB")
            return member

    def content(self, member: tarfile.TarInfo, most: int) -> bytes:
        """Of the file that came last."""
        with _Named(self._what):
            if member.size > most:
                raise Refused(f"{member.name[:200]} has more than {most >> 10} KiB")
            self._file.left = most + HEAD_MAX
            file = self._tar.extractfile(member) if self._tar is not None else None
            return file.read(most) if file is not None else b""


class _Named:
    """Inside: what senseless headers raise becomes BadArchive."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (tarfile.TarError, EOFError)):
            raise BadArchive(f"cannot read {self._what}: {str(error)[:200]}") from None
        if isinstance(error, (ValueError, OverflowError, IndexError, RecursionError)):
            raise BadArchive(f"cannot read {self._what}: its headers make no sense") from None


class Forward:
    """Pieces as they come, as a file that is only read forwards."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._at = 0

    def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size and self._more():
            found += self._take(size - len(found))
        return bytes(found)

    def seek(self, to: int) -> int:
        if to < self._at:
            raise Refused("its parts are in no order")
        while self._at < to and self._more():
            self._take(to - self._at)
        return self._at

    def tell(self) -> int:
        return self._at

    def _more(self) -> bool:
        while not self._piece:
            data = next(self._pieces, None)
            if data is None:
                return False
            self._piece = memoryview(data)
        return True

    def _take(self, size: int) -> memoryview:
        found, self._piece = self._piece[:size], self._piece[size:]
        self._at += len(found)
        return found
