"""What a stream is compressed with, seen from its first bytes, and decoding with bounded memory.

Runs in the child process of ``stream``: a decoder is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Protocol, cast

MAGIC_LENGTH = 6
CHUNK = 1 << 20
"""Bytes at a time, coded and decoded, whatever the input says."""

XZ_MEMORY = 256 << 20
ZSTD_WINDOW = 128 << 20

MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    *((bytes([0x50 + n]) + b"\x2a\x4d\x18", "zstd") for n in range(16)),
)
"""The last ones are frames of notes, with which seekable zstd files begin."""


class Damaged(Exception):
    """The stream is not what its first bytes promised."""


class Reader(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class Decoder(Protocol):
    """As ``bz2.BZ2Decompressor``."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def detect(first: bytes) -> str:
    """``none`` for what is not known; whether that is a tar is seen later."""
    for magic, name in MAGICS:
        if first.startswith(magic):
            return name
    return "none"


def decode(name: str, source: Reader) -> Iterator[bytes]:
    """The decoded stream in pieces of at most a chunk."""
    if name == "none":
        return _plain(source)
    if name == "zstd":
        return _zstd(source)
    return _members(name, source)


def _plain(source: Reader) -> Iterator[bytes]:
    while data := source.read(CHUNK):
        yield data


def _zstd(source: Reader) -> Iterator[bytes]:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    reader = decoder.stream_reader(
        cast("IO[bytes]", source), read_size=CHUNK, read_across_frames=True
    )
    some = False
    try:
        while data := reader.read(CHUNK):
            some = True
            yield data
    except zstandard.ZstdError as error:
        raise Damaged(f"its zstd stream is damaged: {error}") from None
    # The reader takes a cut frame for its end: the tar's end mark and the digest tell in the end.
    if not some:
        raise Damaged("truncated: its zstd stream has no end")


def _members(name: str, source: Reader) -> Iterator[bytes]:
    """Members one after the other, as gzip, bzip2 and xz files may have them; zeros may follow."""
    new, errors = _decoder(name)
    data, first = source.read(CHUNK), True
    while data := (data if first else data.lstrip(b"\0")) or source.read(CHUNK):
        if not first and not data.strip(b"\0"):
            data = b""
            continue
        decoder, first = new(), False
        try:
            while not decoder.eof:
                if decoder.needs_input and not data:
                    data = source.read(CHUNK)
                    if not data:
                        raise Damaged(f"truncated: its {name} stream has no end")
                out = decoder.decompress(data, CHUNK)
                data = b""
                if out:
                    yield out
        except errors as error:
            raise Damaged(f"its {name} stream is damaged: {error}") from None
        data = decoder.unused_data


def _decoder(name: str) -> tuple[Callable[[], Decoder], tuple[type[Exception], ...]]:
    """How a decoder is made, and what it raises on damaged input."""
    errors: tuple[type[Exception], ...] = (OSError, EOFError, ValueError)
    if name == "gzip":
        from isal import igzip_lib

        flag = igzip_lib.DECOMP_GZIP
        return (lambda: igzip_lib.IgzipDecompressor(flag=flag)), (
            *errors,
            cast("type[Exception]", igzip_lib.error),
        )
    if name == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, errors
    import lzma

    xz = lzma.FORMAT_XZ
    return (lambda: lzma.LZMADecompressor(xz, memlimit=XZ_MEMORY)), (*errors, lzma.LZMAError)
