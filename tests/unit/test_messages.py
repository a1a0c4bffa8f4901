"""The messages are what the C side reads and writes: sizes and offsets come from its own header."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cove.errors import Bug
from cove.executor import messages as m
from cove.executor.forker import socket_pair
from tests.leaks import leaks

INIT = Path(__file__).resolve().parents[2] / "init"
STRUCTS = {
    "msg": m.HEADER.size,
    "start": m.START.size,
    "attach": m.ATTACH.size,
    "exit_record": m.EXIT_RECORD.size,
    "state": 2 * m.STATE.size + m.EXIT_RECORD.size,
    "report": m.REPORT.size,
}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with leaks():
        one, two = socket_pair()
        with one, two:
            yield one, two


def test_structs_are_as_long_as_in_c(tmp_path: Path) -> None:
    lines = [f"_Static_assert(sizeof(struct {n}) == {size}, #);" for n, size in STRUCTS.items()]
    text = "".join(line.replace("#", f'"{line.split()[1]}"') + "\n" for line in lines)
    source = tmp_path / "sizes.c"
    includes = "".join(f'#include "{INIT}/{name}"\n' for name in ("cove.h", "session.h"))
    source.write_text(includes + text)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-fsyntax-only", source], check=True)


def test_kinds_are_those_of_the_header() -> None:
    header = (INIT / "cove.h").read_text()
    found = {k: int(v) for k, v in re.findall(r"\bMSG_([A-Z_]+) = (\d+)", header)}
    assert found == {kind.name: kind.value for kind in m.Kind}


def test_limits_are_those_of_the_header() -> None:
    header = (INIT / "cove.h").read_text()
    found = dict(re.findall(r"#define (MSG_MAX|FDS_MAX|REG_NAME) (.*?)(?: /\*.*)?\n", header))
    assert found["MSG_MAX"].strip() == f"({m.MSG_MAX >> 10}u << 10)"
    assert int(found["FDS_MAX"]) == m.FDS_MAX
    assert int(found["REG_NAME"]) == m.NAME_MAX + 1


def test_a_message_with_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    m.send(one, m.Kind.STARTED, value=-7, payload=b"text", fds=(0, 1))
    found = m.receive(two)
    assert found is not None
    assert (found.kind, found.value, found.payload) == (m.Kind.STARTED, -7, b"text")
    assert [os.get_inheritable(fd) for fd in found.fds] == [False, False]
    found.close()


def test_the_largest_message(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    m.send(one, m.Kind.OUTPUT, payload=b"x" * m.MSG_MAX)
    found = m.receive(two)
    assert found is not None
    assert len(found.payload) == m.MSG_MAX
    with pytest.raises(Bug):
        m.send(one, m.Kind.OUTPUT, payload=b"x" * (m.MSG_MAX + 1))


def test_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    m.send(two, m.Kind.QUERY)
    one.close()  # with a message unread: ECONNRESET
    assert m.receive(two) is None
    assert m.receive(two) is None


@pytest.mark.parametrize(
    "data",
    [b"\0", b"\0" * 15, m.HEADER.pack(1, 0, 5, 0), m.HEADER.pack(1, 0, 0, 0) + b"x"],
)  # fmt: skip
def test_what_is_no_message(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    one, two = pair
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", 0))
    one.sendmsg([data], [rights])
    with pytest.raises(Bug, match="cannot be read"):  # and its descriptor is closed: see leaks
        m.receive(two)


def test_a_start(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    start = m.Start(
        m.StartFlag.TTY | m.StartFlag.LOG, 5, 6, b"host", b"machine", 24, 80, 99, b"\x10",
        m.Stream.STDOUT,
    )  # fmt: skip
    m.send_start(one, start, {"front": 0, "bind0": 1})
    found = m.receive(two)
    assert found is not None
    head = m.START.unpack_from(found.payload)
    assert head == (3, 5 | 2 << 9, 5, 6, 24, 80, 99, 2, 4, 7, 1, 1)
    assert found.payload[m.START.size :] == b"front\0bind0\0" + b"\x10" + b"host" + b"machine"
    assert len(found.fds) == 2
    found.close()


def test_a_start_too_large_for_a_datagram(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    start = m.Start(m.StartFlag(0), 0, 0, b"h" * 100_000, b"m" * 150_000)
    m.send_start(one, start, {"dir": 0})
    found = m.receive(two)
    assert found is not None
    assert found.payload[m.START.size :] == b"dir\0plan\0"
    assert os.pread(found.fds[1], 1 << 20, 0) == start.host + start.machine
    with pytest.raises(PermissionError):
        os.pwrite(found.fds[1], b"x", 0)
    found.close()


@pytest.mark.parametrize("name", ["", "x" * 24, "a\0b", "ä"])
def test_names_of_descriptors(pair: tuple[socket.socket, socket.socket], name: str) -> None:
    with pytest.raises(Bug, match="a descriptor is called"):
        m.send_start(pair[0], m.Start(m.StartFlag(0), 0, 0, b"", b""), {name: 0})


def test_an_attach(pair: tuple[socket.socket, socket.socket]) -> None:
    one, two = pair
    attach = m.Attach(m.StartFlag.SIG_PROXY, m.Stream.STDIN | m.Stream.STDOUT, 1, 2, b"\x11")
    m.send_attach(one, attach, 0, {m.Stream.STDERR: 2, m.Stream.STDIN: 0})
    found = m.receive(two)
    assert found is not None
    assert m.ATTACH.unpack_from(found.payload) == (64, 3, 1, 2, 1, 5)
    assert found.payload[m.ATTACH.size :] == b"\x11"
    assert len(found.fds) == 3
    found.close()


def test_exit_records() -> None:
    record = m.EXIT_RECORD.pack(m.EXIT_MAGIC, 137, 9, 1, 5, 7)
    assert record.startswith(b"cove")
    assert m.decode_exit(record) == m.ExitRecord(137, 9, True, 5, 7)
    assert m.decode_exit(record[:31]) is None
    assert m.decode_exit(b"\0" * 32) is None
    assert m.decode_state(struct.pack("<I", 2) + record).exit == m.decode_exit(record)
    assert m.decode_state(struct.pack("<I", 1) + b"\0" * 32) == m.State(1, None)


def test_reports() -> None:
    data = m.REPORT.pack(1, 12, 2, "naïve".encode() + b"\0junk")
    assert m.decode_report(data) == m.Report(1, 12, 2, "naïve")
    with pytest.raises(Bug):
        m.decode_report(data[:-1])


TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))


@given(st.lists(TEXT), st.lists(TEXT), TEXT)
def test_requests_come_back_as_they_were(argv: list[str], env: list[str], cwd: str) -> None:
    words = "".join(f"{w}\0" for w in (cwd, *argv, *env)).encode()
    data = m.REQUEST.pack(len(argv), len(env), 0o22, 5, 24, 80) + words
    assert m.decode_request(data) == m.Request(tuple(argv), tuple(env), cwd, 0o22, 5, 24, 80)


@given(st.binary(max_size=64))
def test_a_front_that_lies_is_refused(data: bytes) -> None:
    try:
        found = m.decode_request(data)
    except (ValueError, struct.error):
        return
    assert len(found.argv) + len(found.env) == data.count(b"\0", m.REQUEST.size) - 1


def test_threads_that_wait_for_messages_keep_no_buffers() -> None:
    with ExitStack() as stack, ThreadPoolExecutor(32) as pool:
        pairs = [socket_pair() for _ in range(32)]
        for each in pairs:
            stack.enter_context(each[0])
            stack.enter_context(each[1])
        heard = [pool.submit(m.receive, theirs) for _, theirs in pairs]
        for number, (ours, _) in enumerate(pairs):
            m.send(ours, m.Kind.OUTPUT, payload=b"%d" % number)
        for number, each_heard in enumerate(heard):
            message = each_heard.result(60)
            assert message is not None and message.payload == b"%d" % number
        assert len(m._spare) <= m.SPARE
