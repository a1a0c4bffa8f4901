"""The forker makes monitors, is made again when it was killed, and runs from sealed memory."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.errors import HostError
from cove.executor.forker import Forker
from cove.executor.messages import Kind, receive, send
from cove.linux.program import init_program
from tests.leaks import leaks

RESTART = ("/nonexistent/python", "-m", "cove.daemon", "--root")


@pytest.fixture
def forker(tmp_path: Path) -> Iterator[Forker]:
    if not os.path.exists(init_program()):
        pytest.skip(f"needs the static program: {init_program()} is missing")
    with leaks(tmp_path):
        found = Forker((*RESTART, str(tmp_path)), environment={"PATH": "/bin"})
        yield found
        found.close()


def monitor_is_there(sock: socket.socket) -> None:
    """A monitor without a machine answers nothing, and goes when its daemon does."""
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        receive(sock)
    sock.close()


def test_monitors(forker: Forker) -> None:
    for _ in range(3):
        monitor_is_there(forker.fork())


def test_a_killed_forker_is_made_again(forker: Forker) -> None:
    forker.start()
    first = forker._pid
    fd = os.pidfd_open(first)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
    os.close(fd)
    monitor_is_there(forker.fork())
    assert forker._pid != first


def test_it_runs_from_memory_nobody_can_change(forker: Forker) -> None:
    forker.start()
    assert os.readlink(f"/proc/{forker._pid}/exe").startswith("/memfd:cove-init")
    with pytest.raises(PermissionError):
        os.pwrite(forker._program, b"x", 0)
    monitor_is_there(forker.fork())


def inherited(fd: int) -> bool:
    """Of what started pytest, and so not ours to answer for."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def test_what_it_inherits(forker: Forker) -> None:
    forker.start()
    ours = {fd for fd in map(int, os.listdir("/proc/self/fd")) if inherited(fd)}
    poll = select.poll()
    for _ in range(500):  # posix_spawn returns a moment before exec has closed the others
        fds = set(map(int, os.listdir(f"/proc/{forker._pid}/fd"))) - ours
        if fds <= {0, 1, 2, 3, 4}:
            break
        poll.poll(10)
    assert fds <= {0, 1, 2, 3, 4}, "not even the program's own descriptor"
    assert os.getsid(forker._pid) != os.getsid(0)
    environment = Path(f"/proc/{forker._pid}/environ").read_bytes()
    assert environment == b"PATH=/bin\0"


def test_a_program_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVE_INIT", "/nonexistent/cove-init")
    with pytest.raises(HostError) as error:
        Forker(RESTART, environment={})
    assert error.value.message == "cannot start machines: /nonexistent/cove-init is missing"


def test_a_program_that_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVE_INIT", "/bin/true")
    with leaks():
        forker = Forker(RESTART, environment={})
        try:  # whether it has ended already or is about to is a matter of luck
            with forker.fork() as monitor:
                monitor.settimeout(120)
                assert receive(monitor) is None, "nobody is there"
        except HostError as error:
            assert error.message == "cannot start a monitor: the forker ends at once"
        forker.close()


def test_a_file_that_is_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    monkeypatch.setenv("COVE_INIT", str(tmp_path / "text"))
    with leaks():
        forker = Forker(RESTART, environment={})
        with pytest.raises(HostError, match="cannot start the forker: exec format error"):
            forker.fork()
        forker.close()


def test_nothing_is_sent_to_a_closed_one(forker: Forker) -> None:
    monitor = forker.fork()
    send(monitor, Kind.BYE)
    monitor.close()
