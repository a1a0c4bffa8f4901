"""A child process: reads a blob, decodes it, hashes both forms, writes the decoded one to a fd.

The daemon must not spend its interpreter on this: one busy thread there slows every start. Run by
``pipeline`` as ``python -I -S stream.py SYS_PATH OPTIONS``; says lines of JSON on stdout: while it
works ``{"read": n}``, at the end a ``Poured`` or ``{"error": kind, "text": ...}``.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

TELL_EVERY = 0.1
"""Seconds between two lines about progress."""


class Failure(Exception):
    """What ends the stream; ``kind`` is what the parent tells apart."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Blob:
    """The bytes as they come: from an offset of fd 0, or from where it stands."""

    def __init__(self, options: dict[str, object]) -> None:
        self.at = _number(options["offset"])
        self.left = _number(options["size"])
        self.hash = hashlib.new(str(options["blob_hash"]))
        self.count = 0
        self._told = 0.0
        self._first = b""

    def peek(self, size: int) -> bytes:
        while len(self._first) < size and (more := self._next(size - len(self._first))):
            self._first += more
        return self._first

    def read(self, size: int = -1) -> bytes:
        if self._first:
            data, self._first = self._first, b""
            return data
        return self._next(size)

    def _next(self, size: int) -> bytes:
        if self.at >= 0:
            data = os.pread(0, min(size, self.left), self.at)
            if self.left and not data:
                raise Failure("damaged", "truncated: the archive ends in the middle of it")
            self.at += len(data)
            self.left -= len(data)
        else:
            data = os.read(0, size)
        self.count += len(data)
        self.hash.update(data)
        self._tell()
        return data

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told > TELL_EVERY:
            self._told = now
            say({"read": self.count})


class Digest:
    """A hash in a thread of its own: hashlib lets go of the interpreter, so does the decoder."""

    def __init__(self, name: str) -> None:
        self._hash = hashlib.new(name)
        self._queue: queue.Queue[bytes] = queue.Queue(4)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def update(self, data: bytes) -> None:
        self._queue.put(data)

    def hexdigest(self) -> str:
        self._queue.put(b"")
        self._thread.join()
        return self._hash.hexdigest()

    def _work(self) -> None:
        while data := self._queue.get():
            self._hash.update(data)


def say(line: dict[str, object]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def pour(options: dict[str, object]) -> dict[str, object]:
    """Everything from the blob to ``out``; what was seen on the way."""
    from cove.image import compress  # after main() has set the path

    blob = Blob(options)
    kind = compress.detect(blob.peek(compress.MAGIC_LENGTH))
    same = kind == "none" and options["blob_hash"] == options["diff_hash"]
    diff = None if same else Digest(str(options["diff_hash"]))
    out, wrote = _number(options["out"]), 0
    for data in _decoded(kind, blob):
        wrote += len(data)
        if wrote > max(_number(options["free"]), _number(options["ratio"]) * blob.count):
            raise Failure("limit", f"{wrote >> 20} MiB come out of {blob.count >> 10} KiB")
        if wrote > _number(options["limit"]):
            raise Failure("limit", f"it is larger than {_number(options['limit']) >> 20} MiB")
        if diff is not None:
            diff.update(data)
        write_all(out, data)
    return {
        "blob": f"{options['blob_hash']}:{blob.hash.hexdigest()}",
        "diff": f"{options['diff_hash']}:{(diff or blob.hash).hexdigest()}",
        "read": blob.count,
        "wrote": wrote,
        "compression": kind,
    }


def _decoded(kind: str, blob: Blob) -> Iterator[bytes]:
    from cove.image import compress

    try:
        yield from compress.decode(kind, blob)
    except compress.Damaged as error:
        raise Failure("damaged", str(error)) from None


def write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BrokenPipeError:
            raise Failure("closed", "nobody reads it any more") from None


def main(argv: list[str]) -> int:
    sys.path += [path for path in argv[1].split(os.pathsep) if path not in sys.path]
    try:
        say(pour(json.loads(argv[2])))
    except Failure as failure:
        say({"error": failure.kind, "text": failure.text})
    except OSError as error:
        say(
            {
                "error": "system",
                "text": (error.strerror or str(error)).lower(),
                "errno": error.errno,
            }
        )
    except MemoryError:
        say({"error": "damaged", "text": "its decoder wants more memory than is allowed"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
