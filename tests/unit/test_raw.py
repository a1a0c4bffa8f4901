"""Raw bytes in frames, and where a copy goes by Docker's table."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from cove.client.files import Place, Target, choose_target
from cove.client.raw import ANSWER, DATA, ERROR, FRAME_MAX, HEAD, frame, read_frames
from cove.client.transport import error_from_json
from cove.engine.calls import Call
from cove.engine.visits.copying import base_name
from cove.errors import CoveError, HostError, NotFound, UsageError, error_to_json


def split(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, size: int = 3) -> tuple[bytes, bytes]:
    """The answer, and what went to the sink."""
    reader, writer = os.pipe()
    try:
        answer = read_frames(split(data, size), Call(sink=writer), error_from_json)
        os.close(writer)
        writer = -1
        return answer, os.read(reader, 1 << 16)
    finally:
        for fd in (reader, writer):
            if fd >= 0:
                os.close(fd)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_frames_however_they_arrive(size: int) -> None:
    data = frame(DATA, b"one") + frame(DATA, b"") + frame(DATA, b"two") + frame(ANSWER, b"{}")
    assert read(data, size) == (b"{}", b"onetwo")


def test_what_ends_in_the_middle_is_an_error() -> None:
    whole = frame(DATA, b"one") + frame(ANSWER, b"{}")
    for end in range(len(whole)):
        with pytest.raises(HostError, match="ended in the middle"):
            read(whole[:end])


def test_an_error_after_bytes_is_that_error() -> None:
    import json

    said = json.dumps(error_to_json(NotFound("cannot find it"))).encode()
    with pytest.raises(NotFound, match="cannot find it"):
        read(frame(DATA, b"x") + frame(ERROR, said))


def test_a_length_beyond_all_sense() -> None:
    with pytest.raises(HostError, match="not in frames"):
        read(HEAD.pack(DATA, FRAME_MAX + 1))


def test_a_caller_who_gave_up_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    gone = threading.Event()
    gone.set()
    data = frame(DATA, bytes(1 << 20)) + frame(ANSWER, b"{}")
    try:
        with pytest.raises(CoveError, match="interrupted"):
            read_frames(iter([data]), Call(sink=writer, cancelled=gone), error_from_json)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("place", "source_is_dir", "target"),
    [
        (Place(b"/d", True, True), False, Target(b"/d", b"")),
        (Place(b"/d", True, True), True, Target(b"/d", b"")),
        (Place(b"/d/f", True, False), False, Target(b"/d", b"f")),
        (Place(b"/d/new"), False, Target(b"/d", b"new")),
        (Place(b"/d/new/"), True, Target(b"/d", b"new")),
        (Place(b"/new"), True, Target(b"/", b"new")),
        (Place(b"/d/f", True, False), True, UsageError),
        (Place(b"/d/new/"), False, NotFound),
        (Place(b"/d/new/."), False, NotFound),
    ],
)
def test_dockers_table(place: Place, source_is_dir: bool, target: object) -> None:
    if isinstance(target, type):
        with pytest.raises(target):
            choose_target(place, source_is_dir=source_is_dir, shown="x")
    else:
        assert choose_target(place, source_is_dir=source_is_dir, shown="x") == target


def test_what_a_copy_is_called() -> None:
    for path, name in (
        (b"/a/b", b"b"), (b"a", b"a"), (b"/a/b/", b"b"), (b"/a/.", b"."), (b"/", b"."), (b"", b"."),
        (b".", b"."), (b"/a/b/..", b"a"), (b"/..", b"."), (b"/\xff", b"\xff"),
    ):  # fmt: skip
        assert base_name(path) == name, path
