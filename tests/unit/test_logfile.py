"""The files of a log: read forwards and from their end, across rotations, old records and torn
ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.engine.calls import Logs
from cove.engine.looking.logfile import LOST, Log
from cove.engine.looking.logs import read_logs
from cove.executor.messages import LOG_RECORD

Piece = tuple[int, int, bytes]


def record(time_ns: int, stream: int, data: bytes, *, old: bool = False) -> bytes:
    end = b"" if old else len(data).to_bytes(4, "little")
    return LOG_RECORD.pack(time_ns, len(data), stream, len(end)) + data + end


def write(directory: Path, files: list[list[Piece]], *, old: bool = False) -> None:
    """``files``: the oldest first."""
    for path in directory.glob("log*"):
        path.unlink()
    for number, pieces in enumerate(reversed(files)):
        name = f"log.{number}" if number else "log"
        (directory / name).write_bytes(b"".join(record(*p, old=old) for p in pieces))


def read(directory: Path, **words: object) -> bytes:
    params = Logs("m", **words)  # type: ignore[arg-type]
    return b"".join(entry.data for entry in read_logs(str(directory), params))


def turn(directory: Path, keep: int) -> None:
    """As a monitor does it."""
    for number in range(keep - 1, 0, -1):
        name = f"log.{number - 1}" if number > 1 else "log"
        if (directory / name).exists():
            os.rename(directory / name, directory / f"log.{number}")
    (directory / "log").touch()


def append(directory: Path, data: bytes) -> None:
    with open(directory / "log", "ab") as file:
        file.write(record(1, 1, data))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log")


pieces = st.lists(
    st.tuples(
        st.just(1),
        st.sampled_from((1, 2)),
        st.lists(st.sampled_from((b"a", b"\n", b"\xff\n", b"bc", b"\r")), max_size=6).map(b"".join),
    ),
    max_size=6,
)


@given(files=st.lists(pieces, max_size=4), count=st.integers(0, 9), old=st.booleans())
def test_the_last_lines(place: Path, files: list[list[Piece]], count: int, *, old: bool) -> None:
    write(place, files, old=old)
    whole = b"".join(data for file in files for _, _, data in file)
    lines = whole.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    assert read(place) == whole
    assert read(place, tail=count) == b"".join(lines[-count:] if count else [])


def test_the_last_lines_of_many_blocks(place: Path) -> None:
    line = b"x" * 1000 + b"\n"
    write(place, [[(1, 1, line)] * 700, [(1, 2, line * 60)] * 20])
    for count in (1, 61, 1199, 1200, 1201, 1890, 5000):
        assert read(place, tail=count) == line * min(count, 1900)


def test_a_torn_end_and_records_without_a_length(place: Path) -> None:
    whole = [(1, 1, b"one\n"), (1, 1, b"two\n")]
    write(place, [[*whole]], old=True)
    with open(place / "log", "ab") as file:
        file.write(record(1, 1, b"three\n") + record(1, 1, b"torn\n")[:-3])
    assert read(place) == b"one\ntwo\nthree\n"
    assert read(place, tail=2) == b"two\nthree\n"
    with open(place / "log", "ab") as file:
        file.write(b"\xff" * 100)
    # Now its length has come, as far as anybody can tell; what follows is no record.
    assert read(place, tail=1) == b"torn\n"


def test_moments(place: Path) -> None:
    second = 10**9
    write(
        place, [[(100 * second, 1, b"a\n")], [(200 * second, 1, b"b\n"), (300 * second, 2, b"c\n")]]
    )
    os.utime(place / "log.1", (100, 100))
    assert read(place, since=150.0) == b"b\nc\n"
    assert read(place, since=100.0) == b"a\nb\nc\n"
    assert read(place, until=200.0) == b"a\nb\n"
    assert read(place, since=200.0, until=299.0) == b"b\n"
    assert read(place, tail=1, since=250.0) == b"c\n"
    assert read(place, streams=("stderr",)) == b"c\n"


def test_neighbours_are_merged(place: Path) -> None:
    write(place, [[(1, 1, b"a"), (2, 1, b"b\n"), (3, 2, b"e"), (4, 1, b"c")]])
    found = list(read_logs(str(place), Logs("m", merged=True)))
    assert [(entry.stream, entry.data) for entry in found] == [(1, b"ab\n"), (2, b"e"), (1, b"c")]


def followed(log: Log) -> Iterator[bytes]:
    while True:
        yield b"".join(entry.data for batch in log.batches() for entry in batch)


def test_every_rotation_is_followed(place: Path) -> None:
    write(place, [[]])
    log = Log(str(place))
    more = followed(log)
    for number in range(40):
        append(place, b"%d\n" % number)
        if number % 3 == 0:
            turn(place, 3)
            append(place, b"new %d\n" % number)
            assert next(more) == b"%d\nnew %d\n" % (number, number)
        if number % 7 == 0:
            assert next(more) in (b"", b"%d\n" % number)
        if number % 3 and number % 7:
            assert next(more) == b"%d\n" % number
    log.close()


def test_a_reader_that_is_overtaken_is_told(place: Path) -> None:
    write(place, [[(1, 1, b"first\n")]])
    log = Log(str(place))
    more = followed(log)
    assert next(more) == b"first\n"
    for number in range(5):
        append(place, b"%d\n" % number)
        turn(place, 3)
    # What the open file got before it was turned away is not lost.
    assert next(more) == b"0\n" + LOST + b"3\n4\n"
    log.close()


def test_reading_goes_on_where_another_reader_was(place: Path) -> None:
    write(place, [[(1, 1, b"a\n")], [(1, 1, b"b\n")]])
    first = list(read_logs(str(place), Logs("m", positions=True)))
    append(place, b"c\n")
    turn(place, 5)
    append(place, b"d\n")
    assert read(place, position=first[-1].position) == b"c\nd\n"
    assert read(place, position=first[0].position) == b"b\nc\nd\n"
    (place / "log.2").unlink()
    assert read(place, position=first[0].position) == b"b\nc\nd\n"


def test_a_machine_without_a_log_said_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == read(tmp_path, tail=3) == read(tmp_path, since=1.0) == b""


def test_a_record_that_is_still_being_written_is_waited_for(place: Path) -> None:
    write(place, [[]])
    whole = record(1, 1, b"later\n")
    (place / "log").write_bytes(record(1, 1, b"now\n") + whole[:20])
    log = Log(str(place))
    more = followed(log)
    assert next(more) == b"now\n"
    with open(place / "log", "ab") as file:
        file.write(whole[20:])
    assert next(more) == b"later\n"
    log.close()


def test_a_torn_record_of_a_dead_host_ends_the_log(place: Path) -> None:
    write(place, [[(1, 1, b"good\n")]])
    with open(place / "log", "ab") as file:
        file.write(LOG_RECORD.pack(1, 1 << 31, 1, 4) + b"xx")
    assert read(place) == read(place, tail=1) == b"good\n"


def test_what_the_log_says_itself_is_told_to_those_who_ask(place: Path) -> None:
    write(place, [[(1, 1, b"a\n"), (1, 0, b"lost\n")]])
    assert read(place) == b"a\n"
    assert read(place, notes=True) == b"a\nlost\n"
