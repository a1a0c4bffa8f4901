"""What a running guest answers is hostile data: nobody waits for it, nothing of it is believed."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cove.engine.vms import guests, inside
from cove.engine.vms.inside import EXITED, FRAME_MAX, HEAD, OUTPUT, READ, TAKEN
from cove.errors import HostError
from cove.linux.processes import parse_process

KEY = 7
Play = Callable[[socket.socket], None]


class Hub:
    """Where a guest's hub listens; ``answer`` plays the guest."""

    def __init__(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="cove-i-", dir="/tmp")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(f"{self._scratch.name}/{KEY}.guest")
        self.listener.listen(8)
        self.run_fd = os.open(self._scratch.name, os.O_RDONLY)
        self.home: Any = SimpleNamespace(run_fd=self.run_fd)
        self.threads: list[threading.Thread] = []

    def answer(self, play: Play) -> None:
        def serve() -> None:
            guest, _ = self.listener.accept()
            with guest:
                try:
                    play(guest)
                    guest.recv(1)
                except OSError:
                    pass

        self.threads.append(threading.Thread(target=serve))
        self.threads[-1].start()

    def close(self) -> None:
        for thread in self.threads:
            thread.join()
        self.listener.close()
        os.close(self.run_fd)
        self._scratch.cleanup()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(inside, "PATIENCE", 0.3)
    made = Hub()
    yield made
    made.close()


def message(kind: int, value: int = 0, data: bytes = b"") -> bytes:
    return HEAD.pack(kind, value, len(data), 0) + data


def after_asked(*said: bytes) -> Play:
    def play(guest: socket.socket) -> None:
        guest.recv(1 << 16)
        for data in said:
            guest.send(data) if data else guest.shutdown(socket.SHUT_RDWR)

    return play


def test_files_come_in_order(hub: Hub) -> None:
    def play(guest: socket.socket) -> None:
        asked = guest.recv(1 << 16)
        assert HEAD.unpack_from(asked)[0] == READ
        for path in asked[HEAD.size :].split(b"\0")[:-1]:
            guest.send(message(OUTPUT, -2 if path == b"/no" else 1, path * 2))

    hub.answer(play)
    assert inside.read_files(hub.home, KEY, ("/a", "/no", "/b")) == [b"/a/a", b"", b"/b/b"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((), "it does not answer"),
        ((message(OUTPUT, 1, b"a"),), "it does not answer"),
        ((b"",), "it has ended"),
        ((b"abc",), "it has ended"),
        ((message(4711, 1, b"x" * FRAME_MAX),), "its answer makes no sense"),
    ],
    ids=["silent", "half", "gone", "short", "strange"],
)
def test_who_does_not_answer_is_not_waited_for(hub: Hub, said: tuple[bytes, ...], why: str) -> None:
    hub.answer(after_asked(*said))
    with pytest.raises(HostError, match=why):
        inside.read_files(hub.home, KEY, ("/a", "/b"), patience=0.3)


def test_a_value_is_written_by_a_plan(hub: Hub) -> None:
    heard: list[bytes] = []

    def play(guest: socket.socket) -> None:
        heard.extend((guest.recv(1 << 16), guest.recv(1 << 16)))
        guest.send(message(TAKEN, 1))
        guest.send(message(EXITED, 0, bytes(104)))

    hub.answer(play)
    inside.write_file(hub.home, KEY, "/sys/x", "1")
    assert heard[0][HEAD.size :] == b"cove-plan 1\0write\0002\0/sys/x\0001\0"


def test_taken_without_end_is_no_answer(hub: Hub) -> None:
    def play(guest: socket.socket) -> None:
        while True:
            guest.send(message(TAKEN, 1))

    hub.answer(play)
    with pytest.raises(HostError):
        inside.write_file(hub.home, KEY, "/sys/x", "1")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"12\n", 12),
        (b"", 0),
        (b"-5", 0),
        (b"max\n", 0),
        (b"9" * 100, 1 << 62),
        (b"1e9", 0),
        (b"\xff\xfe", 0),
    ],
)
def test_a_number_stays_one_to_reckon_with(text: bytes, number: int) -> None:
    assert inside.number(text) == number


STAT = b"5 (sh) S 1 5 5 34816 5 4194304 1 0 0 0 12 34 0 0 20 0 1 0 4100 1 1"
STATUS = b"Name:\tsh\nUid:\t1000\t1000\t1000\t1000\n"


def test_a_process_is_read() -> None:
    found = parse_process(5, STAT, STATUS, b"sh\0-c\0x\0", up=100.0)
    assert found is not None
    assert (found.uid, found.parent, found.started) == (1000, 1, 41.0)
    assert found.command == ("sh", "-c", "x")


@pytest.mark.parametrize(
    ("stat", "status"),
    [
        (b"", b""),
        (STAT, b""),
        (b"", STATUS),
        (b"5 (" + b"(" * 1000 + b") S", STATUS),
        (STAT.replace(b" 1 ", b" x ", 1), STATUS),
        (STAT, b"Uid:\t1\n"),
        (STAT, b"Uid:\tx\tx\tx\tx\n"),
        (STAT.replace(b"4100", b"9" * 5000), STATUS),
        (b"\xff" * 7680, b"\xff" * 7680),
    ],
)
def test_nonsense_is_no_process(stat: bytes, status: bytes) -> None:
    assert parse_process(5, stat, status, b"", up=10.0) is None


def test_numbers_of_a_process_stay_in_their_bounds() -> None:
    stat = STAT.replace(b"34816", b"9" * 30).replace(b"4100", b"9" * 30).replace(b"12 34", b"-5 -6")
    found = parse_process(5, stat, STATUS.replace(b"1000", b"9" * 20), b"", up=10.0)
    assert found is not None
    assert 0 <= found.terminal < 1 << 32
    assert (found.started, found.cpu) == (10.0, 0.0)
    assert 0 <= found.uid < 1 << 32


def test_an_end_record_is_believed_only_where_it_fits(tmp_path: Path) -> None:
    def written(code: int, signal: int, victim: bytes) -> guests.End:
        data = guests.END.pack(0, code, signal, 1, 0, 0, 0xFFFFFFFF, 5, victim)
        (tmp_path / "end").write_bytes(data)
        return guests.read_end(str(tmp_path))

    assert written(137, 9, b"7 sh 12").signal == 9
    assert written(3, 9, b"").signal == 0, "it did not end by it"
    assert written(128 + 4711, 4711, b"").signal == 0
    assert written(0, 0, b"7 a name 12").oom.process == "a name"
    assert written(0, 0, b"\xff" * 64).oom.process == ""
