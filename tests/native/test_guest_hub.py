"""What a guest says is hostile data: an agent that lies, floods or falls silent harms nothing but
its own machine, whose stand-in and hub these are.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.native.guests import (
    CHANNELS_MAX,
    CLOSE,
    END,
    EXITED,
    FAILED,
    FRAME_MAX,
    HEAD,
    INPUT,
    INPUT_EOF,
    OUTPUT,
    OWN,
    PATIENCE,
    PLAN,
    REPORT,
    RUN,
    RUN_MACHINE,
    RUN_STDIN,
    RUN_TTY,
    SIGNAL,
    STARTED,
    TAKEN,
    WINDOW,
    PlayedGuest,
    children_of,
    datagram,
    end_record,
)
from tests.native.plans import Launcher

pytestmark = pytest.mark.usefixtures("no_leaks")

LOST = 137
"""How a machine ends whose guest broke the rules, or is gone."""


@pytest.fixture(params=["init_binary", "sanitized_binary"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    need_root()
    return Launcher(request.getfixturevalue(request.param), tmp_path)


# ---- an honest one ----


def test_the_plan_goes_by_the_window_and_the_end_is_the_guests(launcher: Launcher) -> None:
    host, machine = os.urandom(300_000), os.urandom(70_000)
    with PlayedGuest(launcher, plan=host, machine=machine) as guest:
        plan, order = guest.take_plan()
        assert plan == host + machine
        assert order.value == RUN_MACHINE
        assert order.data[:8] == len(host).to_bytes(4, "little") + len(machine).to_bytes(
            4, "little"
        )
        guest.say(STARTED, 7)
        guest.say(OUTPUT, 1, b"out")
        guest.say(OUTPUT, 2, b"err")
        record = end_record(42)
        guest.say(EXITED, 42, record)
        assert guest.wait() == 42
        assert guest.read_all() == b"out"
        assert guest.told() == "err"
        assert (guest.directory / "end").read_bytes() == record


def test_no_more_of_a_plan_than_the_window(launcher: Launcher) -> None:
    with PlayedGuest(launcher, plan=bytes(FRAME_MAX * (WINDOW + 5))) as guest:
        for _ in range(WINDOW):
            guest.expect(PLAN)
        assert guest.silent()
        guest.say(TAKEN, 2)
        guest.expect(PLAN)
        guest.expect(PLAN)
        assert guest.silent()


def test_input_reaches_the_guest_and_its_end_too(launcher: Launcher) -> None:
    with PlayedGuest(launcher, flags=RUN_STDIN, stdin=subprocess.PIPE) as guest:
        guest.start()
        assert guest.program.stdin is not None
        guest.program.stdin.write(b"words")
        guest.program.stdin.close()
        assert guest.expect(INPUT).data == b"words"
        guest.say(TAKEN, 1)
        guest.expect(INPUT_EOF)
        guest.end(3)
        assert guest.wait() == 3


def test_one_that_ended_before_it_was_seen_to_begin(launcher: Launcher) -> None:
    """Its channel is closed when its input ends: nobody is there to be told of that."""
    with PlayedGuest(launcher, flags=RUN_STDIN) as guest:
        guest.take_plan()
        (stand_in,) = children_of(guest.children()[0])
        os.kill(stand_in, signal.SIGSTOP)
        guest.say(STARTED, 7)
        guest.say(OUTPUT, 1, b"out")
        guest.end(3)
        guest.say(CLOSE)
        with guest.connect() as other:
            other.send(datagram(INPUT, 0, b"a sign"))
            channel = guest.expect_any(INPUT).channel
            guest.say(OUTPUT, 1, b"that all was read", channel=channel)
            assert other.recv(100).endswith(b"read")
        os.kill(stand_in, signal.SIGCONT)
        assert guest.wait() == 3
        assert guest.read_all() == b"out"


def test_a_lost_channel_is_told_of_with_its_cause(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        guest.say(TAKEN, WINDOW + 1)
        assert guest.wait() == LOST
        assert b" channel 1: left: Protocol error\n" in (guest.directory / "console").read_bytes()
    with PlayedGuest(launcher) as guest:
        guest.start()
        guest.expect_running()
        guest.say(CLOSE)
        assert guest.wait() == LOST
        said = (guest.directory / "console").read_text()
        assert re.fullmatch(
            r"cove: [0-9]+ channel 1: closed by the other side: Broken pipe\n", said
        )


def test_without_input_none_is_read(launcher: Launcher) -> None:
    with PlayedGuest(launcher, stdin=subprocess.PIPE) as guest:
        guest.start()
        assert guest.program.stdin is not None
        guest.program.stdin.write(b"words")
        guest.program.stdin.flush()
        assert guest.silent()
        guest.end()
        assert guest.wait() == 0


@pytest.mark.parametrize(
    ("sent", "heard"),
    [(signal.SIGTERM, 15), (signal.SIGUSR1, 10), (signal.SIGTSTP, 20), (64, 9), (63, 19)],
)
def test_a_signal_to_the_machine_is_one_in_the_guest(
    launcher: Launcher, sent: int, heard: int
) -> None:
    """The highest two stand for those that nobody can catch."""
    with PlayedGuest(launcher) as guest:
        guest.start()
        guest.expect_running()
        os.kill(guest.children()[0], sent)
        assert guest.expect(SIGNAL).value == heard
        guest.end()
        assert guest.wait() == 0


def test_a_terminal_is_raw_and_its_size_is_told(launcher: Launcher) -> None:
    ours, theirs = pty.openpty()
    try:
        termios.tcsetwinsize(theirs, (33, 99))
        with open(theirs, "rb", closefd=False) as terminal:
            guest = PlayedGuest(launcher, stdin=terminal, stdout=terminal, stderr=terminal)
        with guest:
            _, order = guest.take_plan()
            assert order.value == RUN_MACHINE | RUN_TTY
            assert order.data[8:] == bytes([33, 0, 99, 0])
            guest.say(STARTED, 7)
            os.write(ours, b"\x03\x04\r")
            assert guest.expect(INPUT).data == b"\x03\x04\r"
            guest.say(OUTPUT, 1, b"a\nb")
            assert os.read(ours, 100) == b"a\nb"
            guest.end()
            assert guest.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_reader_that_went_does_not_signal_the_guest(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        assert guest.program.stdout is not None
        guest.program.stdout.close()
        guest.say(OUTPUT, 1, b"nobody reads this")
        guest.expect(TAKEN)
        guest.say(OUTPUT, 2, b"but this")
        guest.expect(TAKEN)
        assert guest.silent()
        guest.end(5)
        assert guest.wait() == 5
        assert guest.told() == "but this"


# ---- one that lies ----


def frame(kind: int, value: int = 0, data: bytes = b"", channel: int = OWN) -> bytes:
    return HEAD.pack(kind, value, len(data), channel) + data


FATAL = {
    "oversized frame": HEAD.pack(OUTPUT, 1, FRAME_MAX + 1, OWN),
    "frame of four gigabytes": HEAD.pack(OUTPUT, 1, 0xFFFFFFFF, OWN),
    "oversized frame of a strange channel": HEAD.pack(OUTPUT, 1, 1 << 30, 4711),
    "unknown kind": frame(4711, 1, b"?"),
    "kind zero": frame(0),
    "started twice": frame(STARTED, 8),
    "failed after it started": frame(FAILED, 2, REPORT.pack(0, 0, 2, b"x")),
    "more taken than was sent": frame(TAKEN, 1),
    "taken without end": frame(TAKEN, 0x7FFFFFFF),
    "taken back": frame(TAKEN, -1),
    "a plan for the host": frame(PLAN, 0, b"cove-plan 1\0execve\0001\0/bin/sh\0"),
    "an order to run": frame(RUN, 0, bytes(12)),
    "a signal": frame(SIGNAL, 9),
    "a size": frame(112, 1, b"6.1"),
}


@pytest.mark.parametrize("lie", FATAL.values(), ids=FATAL.keys())
def test_who_breaks_the_rules_has_lost_its_machine(launcher: Launcher, lie: bytes) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        guest.say(OUTPUT, 1, b"before")
        guest.say_raw(lie)
        assert guest.wait() == LOST
        assert guest.read_all() == b"before"
        assert guest.told() == ""
        assert (guest.directory / "end").read_bytes() == b""


UNSTARTED = {
    "it ended before it began": frame(EXITED, 3, end_record(3)),
    "a report that is too short": frame(FAILED, 2, b"\0" * 119),
    "a report that is too long": frame(FAILED, 2, b"\0" * 121),
    "an unknown kind": frame(4711),
    "an oversized frame": HEAD.pack(STARTED, 1, FRAME_MAX + 1, OWN),
    "an end of file": b"",
    "half a header": b"\x10\0\0",
}


@pytest.mark.parametrize("lie", UNSTARTED.values(), ids=UNSTARTED.keys())
def test_a_machine_that_never_started_says_so(launcher: Launcher, lie: bytes) -> None:
    with PlayedGuest(launcher) as guest:
        guest.take_plan()
        guest.say_raw(lie)
        guest.serial.shutdown(socket.SHUT_WR)
        assert guest.wait() == 125
        assert guest.told().startswith("machine 1 guest ")
        assert guest.read_all() == b""


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (REPORT.pack(1, 3, 2, b"/etc"), "guest machine 3 - 2 /etc"),
        (REPORT.pack(0, 0, 13, b"x" * 108), "guest host 0 - 13 " + "x" * 107),
        (
            REPORT.pack(0xFFFFFFFF, 0xFFFFFFFF, 2, b"\xff" * 108),
            "guest machine 4294967295 - 2 \xff",
        ),
        (REPORT.pack(2, 1, 0, b""), "guest host 1 "),
        (REPORT.pack(2, 1, -5, b""), "guest host 1 "),
        (REPORT.pack(2, 1, 0x7FFFFFFF, b""), "guest host 1 "),
    ],
    ids=["whole", "no end of text", "nonsense", "no error", "negative", "huge"],
)
def test_a_report_is_taken_as_data(launcher: Launcher, report: bytes, told: str) -> None:
    with PlayedGuest(launcher, stderr=subprocess.PIPE) as guest:
        guest.take_plan()
        guest.say(FAILED, 2, report)
        assert guest.wait() == 125
        assert guest.program.stderr is not None
        assert guest.program.stderr.read().decode("latin-1").startswith(told)


@pytest.mark.parametrize("data", [b"", b"\0" * 16, os.urandom(104), b"x" * 105])
def test_an_end_record_is_kept_only_at_its_size(launcher: Launcher, data: bytes) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        guest.say(EXITED, 0x1234, data)
        assert guest.wait() == 0x34
        kept = (guest.directory / "end").read_bytes()
        assert kept == (data if len(data) == END.size else b"")


def test_strange_channels_are_nobodys(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        for channel in (0, 2, 99, 0xFFFFFFFF):
            for kind in (OUTPUT, EXITED, FAILED, STARTED, TAKEN, CLOSE, 112, 4711):
                guest.say(kind, 1, b"strange", channel)
        guest.say(OUTPUT, 1, b"own")
        guest.end(4)
        assert guest.wait() == 4
        assert guest.read_all() == b"own"


def test_a_channel_cannot_be_answered_by_another(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest, guest.connect() as first, guest.connect() as second:
        guest.start()
        for one in (first, second):
            one.send(datagram(PLAN, 0, b"plan"))
        channels = {guest.expect_any(PLAN).channel for _ in range(2)}
        assert channels == {2, 3}
        guest.say(OUTPUT, 1, b"for three", 3)
        assert second.recv(100)[HEAD.size :] == b"for three"
        assert not select.select([first], [], [], 0.05)[0]
        guest.say(CLOSE, 0, b"", 2)
        assert first.recv(100) == b""
        guest.end()
        assert guest.wait() == 0


def test_a_flood_that_ignores_the_window_ends_its_machine(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        sent, lost = 0, False
        while sent < 1000 and not lost:
            try:
                guest.say(OUTPUT, 1, bytes(FRAME_MAX))
                sent += 1
            except OSError:
                lost = True
        assert guest.program.stdout is not None
        held = len(guest.program.stdout.read())
        assert guest.wait() == LOST
        assert held <= (WINDOW + 1) * FRAME_MAX + (1 << 16)


def test_endless_output_is_endless_only_for_its_reader(launcher: Launcher) -> None:
    """As long as it keeps to the window; the hub holds no more than that of it."""
    with PlayedGuest(launcher) as guest:
        guest.start()
        assert guest.program.stdout is not None
        hub = guest.children()[0]
        output, got, room = guest.program.stdout.fileno(), 0, WINDOW
        while got < 8 << 20:
            while room:
                guest.say(OUTPUT, 1, bytes(FRAME_MAX))
                room -= 1
            select.select([output, guest.serial], [], [], PATIENCE)
            if select.select([output], [], [], 0)[0]:
                got += len(os.read(output, 1 << 20))
            while not guest.silent_now():
                room += guest.expect(TAKEN).value
        status = Path(f"/proc/{hub}/status").read_text()
        if "sanitized" not in str(launcher.binary):
            assert int(status.split("VmRSS:")[1].split()[0]) < 8192
        guest.program.stdout.close()
        guest.serial.close()
        assert guest.wait() == LOST


def test_half_a_header_and_silence_stops_only_the_guest(launcher: Launcher) -> None:
    """Who connects still gets a channel; what the guest does not say, nobody can make up."""
    with PlayedGuest(launcher) as guest, guest.connect() as other:
        guest.start()
        guest.expect_running()
        guest.say_raw(frame(OUTPUT, 1, b"abc")[:7])
        other.send(datagram(PLAN, 0, b"plan"))
        assert guest.expect_any(PLAN).data == b"plan"
        os.kill(guest.children()[0], signal.SIGTERM)
        assert guest.expect(SIGNAL).value == signal.SIGTERM
        guest.say_raw(frame(OUTPUT, 1, b"abc")[7:])
        guest.end(1)
        assert guest.wait() == 1
        assert guest.read_all() == b"abc"


def test_a_guest_that_reads_nothing_can_be_ended(launcher: Launcher) -> None:
    with PlayedGuest(launcher, flags=RUN_STDIN, stdin=subprocess.PIPE) as guest:
        guest.start()
        others = [guest.connect() for _ in range(8)]
        try:
            for other in others:
                other.setblocking(False)
                with pytest.raises(BlockingIOError):
                    while True:
                        other.send(datagram(INPUT, 0, bytes(FRAME_MAX)))
            guest.say(OUTPUT, 1, b"still here")
            assert guest.program.stdout is not None
            assert os.read(guest.program.stdout.fileno(), 100) == b"still here"
            os.kill(guest.children()[0], signal.SIGKILL)
            assert guest.wait() == LOST
        finally:
            for other in others:
                other.close()


@pytest.mark.parametrize("cut", [0, 5, HEAD.size, HEAD.size + 2])
def test_an_end_of_file_in_the_middle_is_the_end(launcher: Launcher, cut: int) -> None:
    with PlayedGuest(launcher) as guest, guest.connect() as other:
        guest.start()
        guest.say(OUTPUT, 1, b"whole")
        guest.say_raw(frame(OUTPUT, 1, b"never")[:cut])
        guest.serial.close()
        assert guest.wait() == LOST
        assert guest.read_all() == b"whole"
        assert other.recv(10) == b""


def test_as_many_channels_as_there_are_and_no_more(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        others = [guest.connect() for _ in range(CHANNELS_MAX + 20)]
        try:
            for number, other in enumerate(others):
                try:
                    other.send(datagram(PLAN, 0, str(number).encode()))
                except (BrokenPipeError, ConnectionResetError):
                    continue
            heard = {}
            for _ in range(CHANNELS_MAX - 1):
                found = guest.expect_any(PLAN)
                heard[found.channel] = int(found.data)
            assert len(set(heard.values())) == CHANNELS_MAX - 1
            for channel, number in heard.items():
                guest.say(OUTPUT, 1, str(number).encode(), channel)
            for number in heard.values():
                assert others[number].recv(100)[HEAD.size :] == str(number).encode()
            refused = [others[n] for n in range(len(others)) if n not in heard.values()]
            assert len(refused) == 21
            for other in refused:
                with pytest.raises((ConnectionResetError, AssertionError)):
                    assert other.recv(10)
        finally:
            for other in others:
                other.close()
        closed = {guest.expect_any(CLOSE).channel for _ in range(CHANNELS_MAX - 1)}
        assert closed == set(heard)
        with guest.connect() as again:
            again.send(datagram(PLAN, 0, b"again"))
            assert guest.expect_any(PLAN).data == b"again"
        guest.end(6)
        assert guest.wait() == 6


def test_a_late_word_for_a_closed_channel_reaches_nobody_else(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        with guest.connect() as first:
            first.send(datagram(PLAN, 0, b"first"))
            old = guest.expect_any(PLAN).channel
        assert guest.expect_any(CLOSE).channel == old
        with guest.connect() as second:
            second.send(datagram(PLAN, 0, b"second"))
            new = guest.expect_any(PLAN).channel
            assert new != old
            guest.say(OUTPUT, 1, b"late", old)
            guest.say(OUTPUT, 1, b"right", new)
            assert second.recv(100)[HEAD.size :] == b"right"
        guest.end()
        assert guest.wait() == 0


def test_endless_console_is_kept_up_to_a_size(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        for _ in range(64):
            os.write(guest.console, b"x" * (16 << 10))
        guest.end()
        assert guest.wait() == 0
        assert len((guest.directory / "console").read_bytes()) <= (64 << 10) + 4096


# ---- order, and much of it ----


def test_output_before_the_end_is_never_lost(launcher: Launcher) -> None:
    """The guest says all and goes, before anybody has read a byte."""
    for _ in range(20):
        with PlayedGuest(launcher) as guest:
            guest.start()
            for number in range(WINDOW):
                guest.say(OUTPUT, 1, bytes([number]) * FRAME_MAX)
            guest.end(9)
            guest.serial.close()
            assert guest.read_all() == b"".join(bytes([n]) * FRAME_MAX for n in range(WINDOW))
            assert guest.wait() == 9


def test_a_slow_caller_gets_everything_and_the_guest_waits(launcher: Launcher) -> None:
    with PlayedGuest(launcher) as guest:
        guest.start()
        for number in range(WINDOW):
            guest.say(OUTPUT, 1, bytes([number]) * FRAME_MAX)
        taken = 0
        while not guest.silent():
            taken += guest.expect(TAKEN).value
        assert taken < WINDOW, "the pipe holds no more"
        guest.say(OUTPUT, 2, b"the other stream")
        guest.expect(TAKEN)
        assert guest.program.stderr is not None
        assert os.read(guest.program.stderr.fileno(), 100) == b"the other stream"
        guest.end()
        assert len(guest.read_all()) == WINDOW * FRAME_MAX
        assert guest.wait() == 0


def _echo(guest: PlayedGuest) -> None:
    """A guest's ``cat``: everything comes back, by the rules."""
    room, held, ended = WINDOW, bytearray(), False
    while not ended or held:
        while held and room:
            part = bytes(held[:FRAME_MAX])
            del held[:FRAME_MAX]
            guest.say(OUTPUT, 1, part)
            room -= 1
        if ended and not held:
            break
        found = guest.hear()
        if found.kind == INPUT:
            held += found.data
            guest.say(TAKEN, 1)
        elif found.kind == TAKEN:
            room += found.value
        elif found.kind == INPUT_EOF:
            ended = True
    guest.end(0)


def test_a_hundred_megabytes_each_way(init_binary: Path, tmp_path: Path) -> None:
    need_root()
    size = 100 << 20
    block = os.urandom(1 << 20)
    launcher = Launcher(init_binary, tmp_path)
    with PlayedGuest(launcher, flags=RUN_STDIN, stdin=subprocess.PIPE) as guest:
        guest.start()

        def write() -> None:
            assert guest.program.stdin is not None
            for _ in range(size >> 20):
                guest.program.stdin.write(block)
            guest.program.stdin.close()

        threads = [_thread(write), _thread(lambda: _echo(guest))]
        assert guest.program.stdout is not None
        for _ in range(size >> 20):
            assert guest.program.stdout.read(1 << 20) == block
        assert guest.program.stdout.read() == b""
        assert guest.wait() == 0
        for thread in threads:
            thread.join()


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
