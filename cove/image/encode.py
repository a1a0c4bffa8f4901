"""A child process: reads the archive of a layer, hashes it, writes it out, compressed on request,
and hashes what it writes.

Run by ``repacking`` as ``python -I -S encode.py SYS_PATH OPTIONS``; says lines of JSON on stdout as
``stream`` does: while it works ``{"read": n}``, at the end a ``Poured`` whose ``blob`` is what was
written. The same bytes in give the same bytes out, on the same machine.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator

CHUNK = 1 << 20
TELL_EVERY = 0.1
GZIP = 31
"""Window of 32 KiB, with gzip's header: no name, no time."""
GZIP_LEVEL, ZSTD_LEVEL = 2, 3


class _Out:
    def __init__(self, fd: int) -> None:
        from cove.image.stream import Digest  # after main() has set the path

        self.fd, self.size, self.hash = fd, 0, Digest("sha256")

    def write(self, data: bytes) -> None:
        if not data:
            return
        from cove.linux.ready import wait_writable

        self.hash.update(data)
        self.size += len(data)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.fd, rest) :]
            except BlockingIOError:  # the caller's own pipe
                wait_writable(self.fd)


def say(line: dict[str, object]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def _encoder(kind: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """What a piece becomes, and what ends it."""
    if kind == "gzip":
        from isal import isal_zlib

        gzip = isal_zlib.compressobj(GZIP_LEVEL, wbits=GZIP)
        return gzip.compress, gzip.flush
    if kind == "zstd":
        import zstandard

        zstd = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj()
        return zstd.compress, zstd.flush
    return (lambda data: data), (lambda: b"")


def _pieces() -> Iterator[bytes]:
    told = 0.0
    count = 0
    while data := os.read(0, CHUNK):
        yield data
        count += len(data)
        if time.monotonic() - told > TELL_EVERY:
            told = time.monotonic()
            say({"read": count})


def encode(options: dict[str, object]) -> dict[str, object]:
    out, kind = _Out(int(str(options["out"]))), str(options["kind"])
    name = str(options["diff_hash"])
    same = kind == "none" and name == "sha256"
    diff, count = hashlib.new(name), 0
    piece, end = _encoder(kind)
    for data in _pieces():
        count += len(data)
        if not same:
            diff.update(data)
        out.write(piece(data))
    out.write(end())
    blob = out.hash.hexdigest()
    return {
        "blob": f"sha256:{blob}",
        "diff": f"{name}:{blob if same else diff.hexdigest()}",
        "read": count,
        "wrote": out.size,
        "compression": kind,
    }


def main(argv: list[str]) -> int:
    sys.path += [path for path in argv[1].split(os.pathsep) if path not in sys.path]
    try:
        say(encode(json.loads(argv[2])))
    except BrokenPipeError:
        say({"error": "closed", "text": "nobody reads it any more"})
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else str(error)
        kind = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        say({"error": kind, "text": text.lower(), "errno": error.errno or 0})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
