"""Monitors started for real by the forker: input, exits, failures, daemons that come and go."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.native.monitors import (
    BYE,
    EXEC,
    EXIT,
    EXITED,
    FAILED,
    FORWARD_SIGNALS,
    GONE,
    INPUT,
    INPUT_EOF,
    KEEP_STDIN,
    LOG,
    OUTPUT,
    QUERY,
    REASON,
    RELAY_STDERR,
    RELAY_STDIN,
    RELAY_STDOUT,
    REPORT,
    SESSION,
    SIG_PROXY,
    SIGNAL,
    STATE,
    STDIN,
    STDIN_ONCE,
    Exit,
    Machine,
    Monitors,
    Peer,
    gone,
    wait_until,
)
from tests.native.plans import BUSYBOX, execve, sh


def test_output_and_code(monitors: Monitors) -> None:
    machine = monitors.start("echo one; echo two >&2; exit 0", stdio={}).started()
    flags = machine.session.expect(SESSION).value
    assert flags == RELAY_STDOUT | RELAY_STDERR
    out, err, end = machine.session.until(EXIT)
    assert (out, err, end.value, end.payload) == (b"one\n", b"two\n", 0, b"")
    assert machine.finish().code == 0


@pytest.mark.parametrize(("which", "relayed"), [(2, RELAY_STDOUT), (4, RELAY_STDERR), (1, 0)])
def test_a_session_of_one_stream(monitors: Monitors, which: int, relayed: int) -> None:
    script = "echo one; echo two >&2"
    machine = monitors.start(script, stdio={}, flags=LOG, which=which).started()
    assert machine.session.expect(SESSION).value == relayed
    out, err, _ = machine.session.until(EXIT)
    assert out == (b"one\n" if relayed == RELAY_STDOUT else b"")
    assert err == (b"two\n" if relayed == RELAY_STDERR else b"")
    assert machine.finish().code == 0
    assert (machine.logged(1), machine.logged(2)) == (b"one\n", b"two\n")


def test_flags_and_keys_of_the_session(monitors: Monitors) -> None:
    machine = monitors.start("cat", stdio={}, flags=STDIN | SIG_PROXY, keys=b"\x10\x11").started()
    session = machine.session.expect(SESSION)
    assert session.value == RELAY_STDIN | RELAY_STDOUT | RELAY_STDERR | FORWARD_SIGNALS
    assert session.payload == b"\x10\x11"


def test_plan_by_memfd(monitors: Monitors) -> None:
    machine = monitors.start("exit 3", by_memfd=True).started()
    assert machine.finish().code == 3


def test_exit_record(monitors: Monitors) -> None:
    machine = monitors.start("exit 7").started()
    record = machine.finish()
    assert Exit.parse((machine.directory / "exit").read_bytes()) == record
    assert (record.code, record.signal, record.core) == (7, 0, 0)
    assert 0 < record.started <= record.finished


def test_stale_exit_record_goes_at_the_start(monitors: Monitors) -> None:
    (monitors.directory / "m0").mkdir()
    (monitors.directory / "m0/exit").write_bytes(b"x" * 32)
    (monitors.directory / "m0").rename(monitors.directory / "old")
    machine = monitors.start("cat", flags=STDIN, stdio={}).started()
    found = machine.directory / "exit"
    assert not found.exists() or found.read_bytes() == b""


def test_killed_by_signal(monitors: Monitors) -> None:
    machine = monitors.start("kill -TERM $$").started()
    record = machine.finish()
    assert (record.code, record.signal) == (128 + signal.SIGTERM, signal.SIGTERM)


def test_record_is_written_before_anybody_is_told(monitors: Monitors) -> None:
    machine = monitors.start("exit 5", stdio={}).started()
    assert machine.exited().code == 5
    assert Exit.parse((machine.directory / "exit").read_bytes()).code == 5
    machine.ctl.send(REASON, payload=b"")
    machine.session.expect(SESSION)
    assert machine.session.expect(EXIT).value == 5


def test_reason_is_appended_to_the_exit(monitors: Monitors) -> None:
    machine = monitors.start("exit 137", stdio={}).started()
    machine.session.expect(SESSION)
    machine.exited()
    machine.ctl.send(REASON, 1, b"cove: out of memory\n")
    end = machine.session.until(EXIT)[2]
    assert (end.value, end.payload) == (137, b"cove: out of memory\n")
    machine.ctl.expect(GONE)


def test_without_a_reason_the_exit_comes_all_the_same(monitors: Monitors) -> None:
    machine = monitors.start("exit 9", stdio={}).started()
    machine.session.expect(SESSION)
    end = machine.session.until(EXIT)[2]
    assert (end.value, end.payload) == (9, b"")
    assert machine.finish().code == 9


def test_signal_from_front_and_daemon(monitors: Monitors) -> None:
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 4' TERM; echo up; while :; do cat; done"
    machine = monitors.start(script, stdio={}, flags=STDIN).started()
    machine.session.expect(SESSION)
    machine.session.until_output(b"up\n")
    machine.session.send(SIGNAL, signal.SIGUSR1)
    machine.session.send(SIGNAL, 4711)
    machine.ctl.send(SIGNAL, signal.SIGTERM)
    # the shell runs its traps when cat has ended
    machine.session.send(INPUT_EOF)
    out, _, end = machine.session.until(EXIT)
    assert sorted(out.split()) in ([b"term", b"usr1"], [b"term"])
    assert end.value == 4


def test_the_machine_has_no_ignored_signals(monitors: Monitors) -> None:
    show = execve(BUSYBOX, "grep", "-E", "SigIgn|SigBlk", "/proc/self/status")
    machine = monitors.start([("stdio",), show], stdio={}).started()
    machine.session.expect(SESSION)
    out = machine.session.until(EXIT)[0]
    own = ~(1 << 31 | 1 << 32 | 1 << 33)  # the C library keeps these, and does not let them go
    assert [int(word, 16) & own for word in out.split()[1::2]] == [0, 0]


def test_monitor_survives_signals_and_cannot_be_traced(monitors: Monitors) -> None:
    machine = monitors.start("cat", stdio={}, flags=STDIN).started()
    pid = machine.monitor
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGTSTP):
        os.kill(pid, number)
    assert os.getsid(pid) == pid
    assert Path(f"/proc/{pid}/status").stat().st_uid == 0
    assert Path(f"/proc/{pid}/comm").read_text() == "cove-monitor\n"
    machine.session.expect(SESSION)
    machine.session.send(INPUT, payload=b"still here")
    machine.session.send(INPUT_EOF)
    assert machine.session.until(EXIT)[0] == b"still here"


def test_nothing_of_the_daemons_is_open_in_a_monitor(init_binary: Path, tmp_path: Path) -> None:
    stray = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(stray, True)
    with closing(Monitors(init_binary, tmp_path)) as monitors:
        os.close(stray)
        machine = monitors.start("cat", flags=STDIN).started()
        fds = [os.readlink(entry) for entry in Path(f"/proc/{machine.monitor}/fd").iterdir()]
        assert "/etc/passwd" not in fds
        assert fds.count("/dev/null") == 3


def test_killed_monitor_takes_the_machine_along(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN).started()
    os.kill(machine.monitor, signal.SIGKILL)
    machine.ctl.expect_end()
    wait_until(lambda: gone(machine.pid))


def test_relayed_stdin_and_its_end(monitors: Monitors) -> None:
    machine = monitors.start("wc -c", stdio={}, flags=STDIN).started()
    machine.session.expect(SESSION)
    for _ in range(40):
        machine.session.send(INPUT, payload=b"x" * 65536)
    machine.session.send(INPUT_EOF)
    out, _, end = machine.session.until(EXIT)
    assert (int(out), end.value) == (40 * 65536, 0)


def test_too_long_input_loses_the_session_only(monitors: Monitors) -> None:
    machine = monitors.start("cat", stdio={}, flags=STDIN | KEEP_STDIN).started()
    machine.session.expect(SESSION)
    machine.session.send(INPUT, payload=b"x" * 65537)
    machine.session.expect_end()
    front = machine.attach()
    front.send(INPUT, payload=b"y\n")
    assert front.expect(OUTPUT).payload == b"y\n"


def test_stdin_from_the_callers_pipe(monitors: Monitors) -> None:
    read, write = os.pipe()
    machine = monitors.start("cat; echo end", stdio={"in": read}, flags=STDIN).started()
    os.close(read)
    assert not machine.session.expect(SESSION).value & RELAY_STDIN
    os.write(write, b"some text\n")
    machine.session.until_output(b"some text\n")
    os.close(write)
    assert machine.session.until(EXIT)[0] == b"end\n"


@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "null"])
def test_stdin_of_every_kind(monitors: Monitors, tmp_path: Path, kind: str) -> None:
    text = b"0123456789" * 20000
    held: list[int] = []
    if kind == "file":
        (tmp_path / "in").write_bytes(text)
        fd = os.open(tmp_path / "in", os.O_RDONLY)
    elif kind == "fifo":
        # its writer has gone before the monitor opens it anew
        text = text[:60000]
        os.mkfifo(tmp_path / "in")
        fd = os.open(tmp_path / "in", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(tmp_path / "in", os.O_WRONLY)
        os.write(writer, text)
        os.close(writer)
    elif kind == "socket":
        ours, theirs = socket.socketpair()
        fd = theirs.detach()
        held.append(ours.detach())
    else:
        text = b""
        fd = os.open("/dev/null", os.O_RDONLY)
    machine = monitors.start("cat", stdio={"in": fd}, flags=STDIN).started()
    os.close(fd)
    for sock in held:
        with socket.socket(fileno=sock) as sender:
            sender.sendall(text)
    machine.session.expect(SESSION)
    assert machine.session.until(EXIT)[0] == text


def test_no_stdin_is_dev_null(monitors: Monitors) -> None:
    machine = monitors.start("readlink /proc/self/fd/0; cat", stdio={}).started()
    machine.session.expect(SESSION)
    assert machine.session.until(EXIT)[0] == b"/dev/null\n"


def test_pipes_belong_to_the_machine(monitors: Monitors) -> None:
    machine = monitors.start(
        "stat -Lc %u:%g /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2",
        stdio={},
        flags=STDIN,
        owner=4711,
    ).started()
    machine.session.expect(SESSION)
    assert machine.session.until(EXIT)[0] == b"4711:4711\n" * 3


def test_machine_that_closes_its_stdin(monitors: Monitors) -> None:
    read, write = os.pipe()
    machine = monitors.start(
        "exec <&-; echo closed; exec tail -f /dev/null", stdio={"in": read}, flags=STDIN
    ).started()
    os.close(read)
    machine.session.expect(SESSION)
    machine.session.until_output(b"closed\n")
    # whoever writes into the caller's pipe gets its SIGPIPE once nothing can be passed on
    with pytest.raises(BrokenPipeError):
        while True:
            os.write(write, b"x" * 4096)
    os.close(write)
    machine.ctl.send(SIGNAL, signal.SIGKILL)
    assert machine.session.until(EXIT)[2].value == 137


def failing(monitors: Monitors, *, stdio: dict[str, int] | None = None) -> Machine:
    return monitors.start([("chdir", "/no/such/directory"), ("stdio",), sh("true")], stdio=stdio)


def test_failed_plan_is_reported(monitors: Monitors) -> None:
    machine = failing(monitors)
    side, op, error, _ = REPORT.unpack(machine.ctl.expect(FAILED).payload)
    assert (side, op, error) == (1, 0, 2)
    machine.ctl.expect(GONE)
    machine.ctl.expect_end()


def test_failed_plan_with_a_session_waits_for_the_words(monitors: Monitors) -> None:
    machine = failing(monitors, stdio={})
    machine.ctl.expect(FAILED)
    machine.ctl.send(REASON, 127, b"cove: no such command\n")
    end = machine.session.expect(EXIT)
    assert (end.value, end.payload) == (127, b"cove: no such command\n")
    machine.ctl.expect(GONE)


def test_failed_plan_and_a_daemon_that_left(monitors: Monitors) -> None:
    machine = failing(monitors, stdio={})
    machine.ctl.close()
    end = machine.session.expect(EXIT)
    assert end.value == 125
    assert end.payload.startswith(b"cove: cannot start the machine: ")


@pytest.mark.parametrize(
    "damage",
    [
        lambda payload: payload[:20],
        lambda payload: b"\x09" + payload[1:],
        lambda payload: payload[:-1],
        lambda payload: payload + b"\0",
        lambda payload: payload.replace(b"dir\0", b"dirs"),
    ],
    ids=["short", "version", "cut", "long", "names"],
)
def test_damaged_start_is_refused(monitors: Monitors, damage: Callable[[bytes], bytes]) -> None:
    sent: list[tuple[bytes, tuple[int, ...]]] = []

    class Capture(Peer):
        def send(
            self, kind: int, value: int = 0, payload: bytes = b"", fds: tuple[int, ...] = ()
        ) -> None:
            sent.append((payload, tuple(os.dup(fd) for fd in fds)))
            super().send(kind, value, damage(payload), fds)

    real = monitors.fork
    monitors.fork = lambda: Capture(real().sock)  # type: ignore[method-assign]
    machine = monitors.start("true")
    for fd in sent[0][1]:
        os.close(fd)
    assert REPORT.unpack(machine.ctl.expect(FAILED).payload)[2] != 0
    machine.ctl.expect(GONE)


def test_spare_leaves_with_its_daemon(monitors: Monitors) -> None:
    spare = monitors.fork()
    with closing(spare):
        spare.send(BYE)
        spare.expect_end()


def test_adoption(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN).started()
    second = machine.connect()
    second.send(QUERY)
    state = second.expect(STATE)
    assert state.value == machine.pid
    assert int.from_bytes(state.payload[:4], "little") == 1
    assert Exit.parse(state.payload[4:-4]).finished == 0
    assert int.from_bytes(state.payload[-4:], "little") == 1  # the protocol
    (pidfd,) = state.fds
    machine.ctl.expect_end()
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    got = second.expect(EXITED)
    assert got.value == 137
    second.expect(GONE)
    second.expect_end()


def test_query_of_the_daemon_itself(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN).started()
    machine.ctl.send(QUERY)
    state = machine.ctl.expect(STATE)
    assert state.value == machine.pid
    os.close(state.fds[0])


def test_other_users_are_not_heard(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN).started()
    machine.directory.chmod(0o755)
    (machine.directory / "sock").chmod(0o777)
    for parent in machine.directory.parents:
        if parent.stat().st_mode & 1 == 0:
            parent.chmod(parent.stat().st_mode | 0o111)
    script = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.send(bytes([3]) + bytes(15))\n"
        "    print(len(s.recv(100)))\n"
        "except (BrokenPipeError, ConnectionResetError):\n"
        "    print(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(machine.directory / "sock")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "0\n"
    machine.ctl.send(QUERY)
    os.close(machine.ctl.expect(STATE).fds[0])


def test_many_connections_do_not_shut_the_daemon_out(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN).started()
    for _ in range(40):
        machine.connect()
    late = machine.connect()
    late.send(QUERY)
    os.close(late.expect(STATE).fds[0])


RESTART = """
import fcntl, os, sys
fd = int(sys.argv[sys.argv.index("--lock-fd") + 1])
link = os.readlink(f"/proc/self/fd/{fd}")
other = os.open(link, os.O_RDWR)
try:
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held = "free"
except BlockingIOError:
    held = "held"
with open(sys.argv[1] + ".new", "w") as file:
    print(held, os.getpid() == os.getsid(0), os.getcwd(), link, sep="\\n", file=file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
sys.stdin.read()
open(sys.argv[2]).read()
"""


@pytest.fixture
def restarting(init_binary: Path, tmp_path: Path) -> Iterator[tuple[Monitors, Path]]:
    """A forker whose monitors start a script that says what it was given."""
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    os.mkfifo(tmp_path / "hold")
    argv = (sys.executable, "-c", RESTART, str(tmp_path / "said"), str(tmp_path / "hold"))
    with closing(Monitors(init_binary, tmp_path, argv)) as made:
        hold = os.open(tmp_path / "hold", os.O_RDWR)
        yield made, tmp_path / "said"
        os.close(hold)


def test_vanished_daemon_is_brought_back_with_the_lock(
    restarting: tuple[Monitors, Path],
) -> None:
    monitors, said = restarting
    machine = monitors.start("cat", flags=STDIN, stdio={}).started()
    machine.session.expect(SESSION)
    machine.ctl.close()
    wait_until(said.exists)
    held, leader, cwd, link = said.read_text().splitlines()
    assert (held, leader, cwd) == ("held", "True", "/")
    assert link == str(monitors.directory / "lock")
    # the session has not noticed, and a new daemon is welcome
    machine.session.send(INPUT, payload=b"on and on\n")
    machine.session.until_output(b"on and on\n")
    daemon = machine.connect()
    daemon.send(QUERY)
    os.close(daemon.expect(STATE).fds[0])
    machine.session.send(INPUT_EOF)
    assert machine.session.until(EXIT)[2].value == 0
    assert daemon.expect(EXITED).value == 0


def test_daemon_that_says_bye_is_not_brought_back(restarting: tuple[Monitors, Path]) -> None:
    monitors, said = restarting
    machine = monitors.start("cat", flags=STDIN, stdio={}).started()
    monitor = machine.monitor
    machine.session.expect(SESSION)
    machine.ctl.send(BYE)
    machine.ctl.close()
    machine.session.send(INPUT_EOF)
    assert machine.session.until(EXIT)[2].value == 0
    # a monitor that means to bring the daemon back stays until it has tried
    wait_until(lambda: gone(monitor))
    assert not said.exists()


def test_machine_that_ends_without_a_daemon_leaves_its_record(
    restarting: tuple[Monitors, Path],
) -> None:
    monitors, said = restarting
    machine = monitors.start("exec cat", flags=STDIN, stdio={}).started()
    monitor = machine.monitor
    machine.session.expect(SESSION)
    machine.ctl.close()
    machine.session.send(INPUT_EOF)
    assert machine.session.until(EXIT)[2].value == 0
    wait_until(said.exists)
    wait_until(lambda: gone(monitor))
    assert Exit.parse((machine.directory / "exit").read_bytes()).code == 0


def test_exec_goes_on_without_its_daemon(restarting: tuple[Monitors, Path]) -> None:
    monitors, said = restarting
    machine = monitors.start("cat; exit 3", flags=STDIN | EXEC, stdio={}).started()
    machine.session.expect(SESSION)
    monitor = machine.monitor
    machine.ctl.close()
    machine.session.send(INPUT, payload=b"word\n")
    machine.session.until_output(b"word\n")
    machine.session.send(INPUT_EOF)
    assert machine.session.until(EXIT)[2].value == 3
    wait_until(lambda: gone(monitor))
    assert not said.exists()
    assert not (machine.directory / "exit").exists()


def test_exec_whose_child_keeps_the_pipe(monitors: Monitors, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hold")
    hold = os.open(tmp_path / "hold", os.O_RDWR)
    script = f"echo out; cat {tmp_path}/hold & exit 2"
    machine = monitors.start(script, flags=EXEC, stdio={}).started()
    machine.session.expect(SESSION)
    out, _, end = machine.session.until(EXIT)
    assert (out, end.value) == (b"out\n", 2)
    assert machine.finish().code == 2
    os.write(hold, b"nobody hears it: a broken pipe ends the reader")
    os.close(hold)


def test_detached_machine_keeps_stdin_open(monitors: Monitors) -> None:
    machine = monitors.start("cat", flags=STDIN | KEEP_STDIN | LOG).started()
    first = machine.attach()
    first.send(INPUT, payload=b"one\n")
    first.send(INPUT_EOF)
    first.until_output(b"one\n")
    first.close()
    second = machine.attach()
    second.send(INPUT, payload=b"two\n")
    second.until_output(b"two\n")


def test_front_that_vanishes_ends_stdin_once(monitors: Monitors) -> None:
    machine = monitors.start("cat; exit 6", flags=STDIN | STDIN_ONCE, stdio={}).started()
    machine.session.expect(SESSION)
    machine.session.close()
    assert machine.finish().code == 6


def test_exec_of_a_missing_program(monitors: Monitors) -> None:
    machine = monitors.start([("stdio",), execve("/no/such/program")])
    side, op, error, _ = REPORT.unpack(machine.ctl.expect(FAILED).payload)
    assert (side, op, error) == (1, 1, 2)
