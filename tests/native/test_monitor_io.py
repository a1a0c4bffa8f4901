"""What a monitor carries: back-pressure, logs, terminals, sessions that come and go."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.monitors import (
    DETACH,
    EXEC,
    EXIT,
    EXITED,
    GONE,
    INPUT,
    INPUT_EOF,
    KEEP_STDIN,
    LOG,
    OUTPUT,
    PATIENCE,
    QUERY,
    RAW,
    RELAY_STDIN,
    RELAY_STDOUT,
    RESIZE,
    SESSION,
    SIGNAL,
    STATE,
    STDIN,
    TTY,
    Monitors,
    gone,
    wait_until,
)
from tests.native.plans import MS_SLAVE, NEWNS, NEWPID, PDEATHSIG, SIGKILL, Op, sh

SIZE = 100 << 20
MAKE = f"head -c {SIZE} /dev/zero | tr '\\0' a"


def count_to_the_end(fd: int) -> int:
    total = 0
    while data := os.read(fd, 1 << 20):
        assert data == b"a" * len(data)
        total += len(data)
    return total


def wait_full(fd: int) -> None:
    """Until the pipe takes no more: its reader has stopped, and the writer has noticed."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    wait_until(lambda: not poll.poll(0))


@pytest.mark.parametrize("flags", [0, LOG], ids=["spliced", "logged"])
def test_stopped_reader_loses_nothing(monitors: Monitors, flags: int) -> None:
    read, write = os.pipe()
    machine = monitors.start(MAKE, stdio={"out": write}, flags=flags, log_max=1 << 20).started()
    machine.session.expect(SESSION)
    wait_full(write)
    os.close(write)
    # the monitor serves others meanwhile
    machine.ctl.send(QUERY)
    os.close(machine.ctl.expect(STATE).fds[0])
    assert not gone(machine.pid)
    end = []
    total = 0
    while total < SIZE:
        data = os.read(read, 1 << 20)
        assert data
        total += len(data)
    end.append(machine.session.expect(EXIT).value)
    assert os.read(read, 10) == b""
    os.close(read)
    assert (total, end) == (SIZE, [0])


def test_stopped_front_loses_nothing(monitors: Monitors) -> None:
    machine = monitors.start(MAKE, stdio={}, flags=LOG, log_max=1 << 20).started()
    machine.session.expect(SESSION)
    poll = select.poll()
    poll.register(machine.session.sock, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)
    machine.ctl.send(QUERY)
    os.close(machine.ctl.expect(STATE).fds[0])
    total = 0
    while (got := machine.session.receive()) is not None and got.kind == OUTPUT:
        total += len(got.payload)
    assert got is not None and got.kind == EXIT
    assert total == SIZE


@pytest.mark.parametrize("kind", ["file", "socket", "fifo"])
def test_output_to_what_the_caller_has(monitors: Monitors, tmp_path: Path, kind: str) -> None:
    size = 3 << 20
    script = f"head -c {size} /dev/zero | tr '\\0' a"
    if kind == "file":
        out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(out, b"before")
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        out = theirs.detach()
    else:
        os.mkfifo(tmp_path / "out")
        reader = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
        out = os.open(tmp_path / "out", os.O_WRONLY)
        os.set_blocking(reader, True)
    machine = monitors.start(script, stdio={"out": out}).started()
    flags = os.get_blocking(out)
    os.close(out)
    assert flags, "the caller's description became non-blocking"
    if kind == "socket":
        total = 0
        while data := ours.recv(1 << 20):
            total += len(data)
        ours.close()
        assert total == size
    elif kind == "fifo":
        assert count_to_the_end(reader) == size
        os.close(reader)
    machine.session.expect(SESSION)
    machine.session.expect(EXIT)
    if kind == "file":
        assert (tmp_path / "out").read_bytes() == b"before" + b"a" * size


def test_the_callers_pipes_stay_blocking(monitors: Monitors) -> None:
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    machine = monitors.start("cat", stdio={"in": in_read, "out": out_write}, flags=STDIN).started()
    machine.session.expect(SESSION)
    os.write(in_write, b"x")
    assert os.read(out_read, 10) == b"x"
    assert os.get_blocking(in_read) and os.get_blocking(out_write)
    for fd in (in_read, in_write, out_read, out_write):
        os.close(fd)


def test_nobody_reads_and_no_log_is_a_broken_pipe(monitors: Monitors) -> None:
    read, write = os.pipe()
    machine = monitors.start(
        [("prctl", PDEATHSIG, SIGKILL), ("stdio",), sh("exec yes")], stdio={"out": write}
    ).started()
    os.close(write)
    os.read(read, 10)
    os.close(read)
    machine.session.expect(SESSION)
    record = machine.exited()
    assert record.code in (1, 128 + signal.SIGPIPE)
    assert machine.session.expect(EXIT).value == record.code


def test_nobody_reads_but_the_log_goes_on(monitors: Monitors) -> None:
    read, write = os.pipe()
    machine = monitors.start(
        "cat; echo more", stdio={"out": write}, flags=STDIN | LOG | KEEP_STDIN
    ).started()
    os.close(write)
    os.close(read)
    machine.session.expect(SESSION)
    machine.session.send(INPUT, payload=b"text\n")
    assert machine.session.expect(EXIT).value == 128 + signal.SIGPIPE
    machine.session.expect_end()
    front = machine.attach()
    front.send(INPUT, payload=b"again\n")
    front.until_output(b"again\n")
    assert machine.logged(1) == b"text\nagain\n"


def test_full_disk_of_the_caller_ends_the_session(monitors: Monitors) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    machine = monitors.start("cat", stdio={"out": full}, flags=STDIN | LOG | KEEP_STDIN).started()
    os.close(full)
    machine.session.expect(SESSION)
    machine.session.send(INPUT, payload=b"text\n")
    end = machine.session.expect(EXIT)
    assert end.value == 125
    assert end.payload == b"cove: cannot write the output: no space left on device\n"


# ---- the log ----


def test_log_has_both_streams_in_order(monitors: Monitors) -> None:
    machine = monitors.start("echo one; echo two >&2", flags=LOG, log_max=1 << 20).started()
    machine.finish()
    assert machine.logged(1) == b"one\n"
    assert machine.logged(2) == b"two\n"
    assert (machine.directory / "log").stat().st_mode & 0o777 == 0o600


def test_log_is_capped_and_rotated(monitors: Monitors) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i of the log; i=$((i+1)); done"
    machine = monitors.start(script, flags=LOG, log_max=16384).started()
    machine.finish()
    sizes = [(machine.directory / name).stat().st_size for name in ("log", "log.1")]
    assert sum(sizes) <= 16384
    assert max(sizes) <= 8192
    text = b"".join(t for name in ("log.1", "log") for _, t in machine.log(name))
    assert text.endswith(b"line 1999 of the log\n")
    lines = text.splitlines()[1:]
    first = int(lines[0].split()[1])
    assert lines == [b"line %d of the log" % i for i in range(first, 2000)]
    assert sorted(p.name for p in machine.directory.iterdir()) == ["exit", "log", "log.1", "sock"]


def test_log_is_kept_in_as_many_files_as_asked(monitors: Monitors) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i of the log; i=$((i+1)); done"
    machine = monitors.start(script, flags=LOG, log_max=4096, log_files=5).started()
    machine.finish()
    names = ["log.4", "log.3", "log.2", "log.1", "log"]
    assert sorted(p.name for p in machine.directory.glob("log*")) == sorted(names)
    assert all((machine.directory / name).stat().st_size <= 4096 for name in names)
    text = b"".join(t for name in names for _, t in machine.log(name))
    lines = text.splitlines()[1:]  # the first may have lost its beginning
    first = int(lines[0].split()[1])
    assert lines == [b"line %d of the log" % i for i in range(first, 2000)]


def test_no_log_takes_the_output_all_the_same(monitors: Monitors) -> None:
    machine = monitors.start(
        "head -c 300000 /dev/zero && echo end >&2", flags=LOG, log_max=4096, log_files=0
    ).started()
    machine.finish()
    assert (machine.directory / "log").stat().st_size == 0


def test_log_of_a_restarted_machine_goes_on(monitors: Monitors) -> None:
    first = monitors.start("echo first", flags=LOG, log_max=1 << 20).started()
    first.finish()
    data = (first.directory / "log").read_bytes()
    second = monitors.start("echo second", flags=LOG, log_max=1 << 20, directory=first.directory)
    second.started().finish()
    assert (first.directory / "log").read_bytes().startswith(data)
    assert first.logged(1) == b"first\nsecond\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk_loses_log_lines_but_not_the_machine(
    monitors: Monitors, small_disk: Path
) -> None:
    machine = monitors.start(
        "cat", flags=STDIN | KEEP_STDIN | LOG, log_max=1 << 30, directory=small_disk
    ).started()
    front = machine.attach()
    lost = 0
    for _ in range(8):
        front.send(INPUT, payload=b"x" * 16383 + b"\n")
        got = 0
        while got < 16384:
            got += len(front.expect(OUTPUT).payload)
        lost += got
    written = machine.logged(1)
    assert 0 < len(written) < lost
    lost -= len(written)
    os.truncate(small_disk / "log", 0)
    front.send(INPUT, payload=b"room again\n")
    front.until_output(b"room again\n")
    note = machine.logged(0).decode()
    assert note == f"{lost} bytes of output are missing here: the disk was full\n"
    assert machine.logged(1).endswith(b"room again\n")


# ---- terminals ----

TERMINAL: list[Op] = [
    ("prctl", PDEATHSIG, SIGKILL),
    ("setsid",),
    ("openpty", "/dev/pts", 24, 80),
]


def shell(script: str) -> list[Op]:
    return [*TERMINAL, sh(script)]


def test_terminal_session(monitors: Monitors) -> None:
    # The monitor sets the size once it has the master, while the program runs already.
    size = "until [ \"$(stty size)\" = '33 99' ]; do :; done; stty size"
    script = f"{size}; stty raw -echo; echo ready; head -c 6 | od -An -tx1; tty; exit 3"
    machine = monitors.start(shell(script), stdio={}, flags=TTY | STDIN, size=(33, 99)).started()
    assert machine.session.expect(SESSION).value == RAW | RELAY_STDIN | RELAY_STDOUT
    out = machine.session.until_output(b"ready\n")
    assert out.startswith(b"33 99\r\n")
    machine.session.send(INPUT, payload=b"\x03\x04\x1a\r\x00\xff")
    out, err, end = machine.session.until(EXIT)
    assert b" 03 04 1a 0d 00 ff\n/dev/pts/" in out
    assert (err, end.value) == (b"", 3)


def test_resize_reaches_the_program(monitors: Monitors) -> None:
    script = "trap 'stty size' WINCH; echo up; while :; do read -t 1 x; done"
    machine = monitors.start(shell(script), stdio={}, flags=TTY | STDIN).started()
    machine.session.expect(SESSION)
    machine.session.until_output(b"up\r\n")
    machine.session.send(RESIZE, payload=b"\x32\x00\x84\x00")
    machine.session.until_output(b"50 132\r\n")
    machine.ctl.send(RESIZE, payload=b"\x10\x00\x20\x00")
    machine.session.until_output(b"16 32\r\n")


def test_end_of_input_does_not_end_a_terminal(monitors: Monitors) -> None:
    machine = monitors.start(shell("stty -echo; echo up; cat"), stdio={}, flags=TTY | STDIN)
    machine.started().session.expect(SESSION)
    machine.session.until_output(b"up\r\n")
    machine.session.send(INPUT_EOF)
    front = machine.attach()
    front.send(INPUT, payload=b"from another\n")
    machine.session.until_output(b"from another\r\n")


def test_terminal_that_nobody_has_open_is_not_hung_up(monitors: Monitors) -> None:
    script = "t=$(tty); exec </dev/null >/dev/null 2>&1; usleep 1; exec >$t 2>&1; echo back"
    machine = monitors.start(shell(script), stdio={}, flags=TTY).started()
    machine.session.expect(SESSION)
    out, _, end = machine.session.until(EXIT)
    assert (out, end.value) == (b"back\r\n", 0)


def test_last_words_on_a_terminal(monitors: Monitors) -> None:
    machine = monitors.start(
        shell("stty -opost; seq 1 20000; exec echo the end"), stdio={}, flags=TTY | LOG
    ).started()
    machine.session.expect(SESSION)
    out = machine.session.until(EXIT)[0]
    assert out == b"".join(b"%d\n" % i for i in range(1, 20001)) + b"the end\n"
    assert machine.logged(1) == out


def test_detach_keeps_a_terminal_running(monitors: Monitors) -> None:
    machine = monitors.start(shell("stty -echo; echo up; cat"), stdio={}, flags=TTY | STDIN)
    machine.started().session.expect(SESSION)
    machine.session.until_output(b"up\r\n")
    machine.session.send(DETACH)
    assert machine.session.expect(EXIT).value == 0
    machine.session.expect_end()
    again = machine.attach(size=(40, 120))
    again.send(INPUT, payload=b"hello\n")
    again.until_output(b"hello\r\n")
    assert not gone(machine.pid)


def test_detach_from_an_exec_says_that_its_end_is_not_known(monitors: Monitors) -> None:
    script = shell("stty -echo; echo up; cat")
    machine = monitors.start(script, stdio={}, flags=TTY | STDIN | EXEC).started()
    machine.session.expect(SESSION)
    machine.session.until_output(b"up\r\n")
    machine.session.send(DETACH)
    assert machine.session.expect(EXIT).value == 1
    machine.session.expect_end()
    assert not gone(machine.pid)


def test_detach_from_a_machine_that_reads_nothing(monitors: Monitors) -> None:
    machine = monitors.start(
        shell("stty raw -echo; echo up; exec tail -f /dev/null"), stdio={}, flags=TTY | STDIN
    ).started()
    machine.session.expect(SESSION)
    machine.session.until_output(b"up")
    for _ in range(40):
        machine.session.send(INPUT, payload=b"x" * 1000)
    machine.session.send(DETACH)
    assert machine.session.expect(EXIT).value == 0


def test_hangup_of_a_front_does_not_hang_up_the_terminal(monitors: Monitors) -> None:
    machine = monitors.start(shell("stty -echo; echo up; cat"), stdio={}, flags=TTY | STDIN)
    machine.started().session.expect(SESSION)
    machine.session.until_output(b"up\r\n")
    machine.session.close()
    again = machine.attach()
    again.send(INPUT, payload=b"there\n")
    again.until_output(b"there\r\n")


# ---- sessions ----


def test_every_session_sees_everything(monitors: Monitors) -> None:
    machine = monitors.start("cat; echo bye >&2", flags=STDIN).started()
    fronts = [machine.attach(over=machine.connect()) for _ in range(5)]
    quiet = machine.attach(which=4)
    fronts[0].send(INPUT, payload=b"to all\n")
    for front in fronts:
        front.until_output(b"to all\n")
    fronts[1].send(INPUT_EOF)
    for front in fronts:
        out, err, end = front.until(EXIT)
        assert (out, err, end.value) == (b"", b"bye\n", 0)
    assert quiet.until(EXIT)[:2] == (b"", b"bye\n")


def test_attach_with_the_callers_pipes(monitors: Monitors) -> None:
    machine = monitors.start("cat; echo err >&2", flags=STDIN).started()
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    front = machine.attach(fds={"in": in_read, "err": out_write})
    os.close(in_read)
    os.close(out_write)
    os.write(in_write, b"in\n")
    front.until_output(b"in\n")
    os.close(in_write)
    assert os.read(out_read, 100) == b"err\n"
    os.close(out_read)
    front.until(EXIT)


def test_sixty_four_sessions_and_not_one_more(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN).started()
    fronts = [machine.attach() for _ in range(64)]
    with pytest.raises(AssertionError, match="end of file"):
        machine.attach()
    fronts[0].send(INPUT, payload=b"x\n")
    for front in fronts:
        front.until_output(b"x\n")
    fronts[0].close()
    fronts[1].send(INPUT, payload=b"y\n")
    fronts[1].until_output(b"y\n")
    machine.attach()


def test_stuck_session_does_not_delay_the_end(monitors: Monitors) -> None:
    """The daemon hears of the exit, and the log is whole, though a reader of 64 KiB has stopped."""
    read, write = os.pipe()
    script = "cat; head -c 100000 /dev/zero | tr '\\0' a"
    machine = monitors.start(
        script, stdio={"out": write}, flags=LOG | STDIN, log_max=1 << 30
    ).started()
    os.close(write)
    monitor = machine.monitor
    machine.session.expect(SESSION)
    machine.session.send(INPUT_EOF)
    record = machine.finish()
    assert record.code == 0
    assert machine.logged(1) == b"a" * 100000
    assert not gone(monitor)
    assert count_to_the_end(read) == 100000
    os.close(read)
    assert machine.session.expect(EXIT).value == 0
    wait_until(lambda: gone(monitor))


def test_stuck_front_that_leaves_frees_the_monitor(monitors: Monitors) -> None:
    read, write = os.pipe()
    script = "cat; head -c 100000 /dev/zero | tr '\\0' a"
    machine = monitors.start(script, stdio={"out": write}, flags=LOG | STDIN).started()
    monitor = machine.monitor
    machine.session.expect(SESSION)
    machine.session.send(INPUT_EOF)
    machine.finish()
    os.close(write)
    machine.session.close()
    wait_until(lambda: gone(monitor))
    os.close(read)


def test_bad_messages_are_ignored(monitors: Monitors) -> None:
    machine = monitors.start("cat", stdio={}, flags=STDIN).started()
    machine.session.expect(SESSION)
    for kind in (0, 1, 3, 16, 80, 4711, RESIZE, SIGNAL):
        machine.session.send(kind, -5, b"abc" * 100)
        machine.ctl.send(kind if kind != 3 else 81, -5, b"abc")
    machine.session.send(INPUT, payload=b"fine\n")
    machine.session.until_output(b"fine\n")
    machine.ctl.send(QUERY)
    os.close(machine.ctl.expect(STATE).fds[0])


# ---- namespaces ----


def test_mounts_are_gone_when_the_monitor_says_so(monitors: Monitors, tmp_path: Path) -> None:
    """The launcher's private mounts pin a file system as long as they are there."""
    for name in ("lower", "upper", "work", "at"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    host: list[Op] = [
        ("unshare", NEWNS),
        ("mount_setattr", "-", "/", 0x8000, 0, 0, MS_SLAVE, "-"),
        ("mount", "overlay", tmp_path / "at", "overlay", 0, options),
        ("clone3", NEWPID, "-"),
    ]
    again = ["mount", "-t", "overlay", "-o", f"{options},index=on", "none", f"{tmp_path}/at"]
    machine = monitors.start("cat", host=host, flags=STDIN, stdio={}).started()
    machine.session.expect(SESSION)
    # overlay keeps an upper directory to itself while it is mounted anywhere
    assert subprocess.run(again, check=False, capture_output=True).returncode != 0
    machine.session.send(INPUT_EOF)
    assert machine.session.until(EXIT)[2].value == 0
    assert machine.ctl.expect(EXITED).value == 0
    machine.ctl.expect(GONE)
    subprocess.run(again, check=True)
    subprocess.run(["umount", tmp_path / "at"], check=True)


def test_everything_in_the_machine_dies_with_its_first_process(monitors: Monitors) -> None:
    script = "(exec tail -f /dev/null) & echo started; exec cat"
    machine = monitors.start(
        script, host=[("clone3", NEWPID, "-")], flags=STDIN, stdio={}
    ).started()
    machine.session.expect(SESSION)
    machine.session.until_output(b"started\n")
    machine.session.send(INPUT_EOF)
    # the background program held the pipe, and the end of file still came at once
    assert machine.session.until(EXIT)[2].value == 0
    machine.finish()


def test_barrier_goes_through(monitors: Monitors) -> None:
    host: list[Op] = [("clone3", NEWPID, "-"), ("barrier", 1, "pid"), ("send",)]
    machine = monitors.start([("recv",), ("stdio",), sh("echo out")], host=host, stdio={})
    got = machine.ctl.expect(20)
    assert len(got.fds) == 1
    os.close(got.fds[0])
    machine.ctl.send(5)
    machine.started().session.expect(SESSION)
    assert machine.session.until(EXIT)[0] == b"out\n"
