"""Raw bytes out of the daemon, as frames in the body of an answer: a kind, a length of four bytes,
big-endian, and the bytes. ``DATA`` comes as often as it takes; the last frame is the ``ANSWER`` or
the ``ERROR``, so that what ended in the middle is never taken for whole.
"""

from __future__ import annotations

import json
import os
import select
import struct
from collections.abc import Callable, Iterator

from cove.engine.calls import Call
from cove.errors import CoveError, HostError

HEAD = struct.Struct(">BI")
DATA, ANSWER, ERROR = 0, 1, 2
FRAME_MAX = 16 << 20
LOOK = 250
PIPE_BUF = 4096


class Interrupted(CoveError):
    """The caller gave up."""

    exit_code = 130


def frame(kind: int, data: bytes) -> bytes:
    return HEAD.pack(kind, len(data)) + data


def read_frames(
    pieces: Iterator[bytes], call: Call, error_of: Callable[[object], CoveError]
) -> bytes:
    """The bytes to ``call.sink``; the answer. Raises the daemon's error, and BrokenPipeError when
    nobody reads the sink any more.
    """
    pending = bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) >= HEAD.size:
            kind, length = HEAD.unpack_from(pending)
            if length > FRAME_MAX:
                raise HostError("cannot read the daemon's answer: it is not in frames")
            if len(pending) < HEAD.size + length:
                break
            data = bytes(pending[HEAD.size : HEAD.size + length])
            del pending[: HEAD.size + length]
            if kind == ANSWER:
                return data
            if kind == ERROR:
                raise error_of(json.loads(data))
            _write(data, call)
    raise HostError("cannot read the daemon's answer: it ended in the middle")


def _write(data: bytes, call: Call) -> None:
    rest = memoryview(data)
    poll = select.poll()
    poll.register(call.sink, select.POLLOUT)
    while rest:
        while not poll.poll(LOOK):
            if call.cancelled is not None and call.cancelled.is_set():
                raise Interrupted("interrupted")
        rest = rest[os.write(call.sink, rest[:PIPE_BUF]) :]
