"""Content-addressed files: configs and manifests under ``blobs/sha256``. What it returns is what
the digest says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from cove.errors import BadArchive, HostError, NotFound
from cove.linux.pump import write_all
from cove.store.layout import Layout
from cove.store.lock import state_error

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
READ_MAX = 16 << 20
"""Configs and manifests are small; nothing larger is read into memory."""


@dataclass
class BlobFile:
    """A blob being written: ``write`` until ``Blobs.writer`` ends; then ``digest`` and ``size``
    hold.
    """

    fd: int
    size: int = 0
    digest: str = ""
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def write(self, data: bytes | memoryview) -> None:
        self.hash.update(data)
        write_all(self.fd, data)
        self.size += len(data)


@dataclass(frozen=True, slots=True)
class Blobs:
    """The blobs of one state directory. Renames make them appear whole; readers check them
    again.
    """

    layout: Layout

    @contextlib.contextmanager
    def writer(self, expected: str = "") -> Iterator[BlobFile]:
        """A new blob; it is there when the block ends without an exception and has the
        ``expected`` digest.
        """
        if expected:
            _hex(expected)
        try:
            fd, path = tempfile.mkstemp(prefix="blob-", dir=self.layout.tmp)
        except OSError as error:
            raise state_error(self.layout.root, error) from error
        file = BlobFile(fd)
        try:
            yield file
            file.digest = f"sha256:{file.hash.hexdigest()}"
            if expected and file.digest != expected:
                raise BadArchive(f"cannot store blob {expected}: its content is {file.digest}")
            os.rename(path, self.path(file.digest))
        except OSError as error:
            raise state_error(self.layout.root, error) from error
        finally:
            os.close(fd)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def put(self, data: bytes, expected: str = "") -> str:
        """Store ``data``; its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if (not expected or expected == digest) and self.has(digest):
            return digest
        with self.writer(expected) as file:
            file.write(data)
        return file.digest

    def read(self, digest: str) -> bytes:
        """A blob, verified: a disk that lost its content is named, not believed."""
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read(READ_MAX + 1)
        except FileNotFoundError:
            raise NotFound(f"cannot read blob {digest}: no such blob") from None
        except OSError as error:
            raise state_error(self.layout.root, error) from error
        if len(data) > READ_MAX or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise HostError(
                f"cannot read blob {digest}: {self.path(digest)} is damaged",
                hint="load the image again",
            )
        return data

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def remove(self, digest: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(digest))

    def digests(self) -> list[str]:
        return [
            f"sha256:{name}" for name in sorted(os.listdir(self.layout.blobs)) if len(name) == 64
        ]

    def path(self, digest: str) -> str:
        return f"{self.layout.blobs}/{_hex(digest)}"


def _hex(digest: str) -> str:
    """The file's name; a digest comes from archives, so it is checked before it becomes a path."""
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise BadArchive(
            f'cannot use digest "{digest}": it is not sha256: and 64 hexadecimal digits'
        )
    return match[1]
