"""A start in two halves: the first is run ahead, and its child waits for the rest."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.native.monitors import (
    AHEAD,
    BARRIER,
    EXIT,
    FAILED,
    GONE,
    INPUT,
    INPUT_EOF,
    REPORT,
    SESSION,
    STDIN,
    TTY,
    Monitors,
    Peer,
    gone,
    wait_until,
)
from tests.native.plans import BASE, PDEATHSIG, SIGKILL, Op, execve, sh
from tests.native.start import host_part, machine_part, make_store

DIE: Op = ("prctl", PDEATHSIG, SIGKILL)
FORK: tuple[list[Op], list[Op]] = ([("clone3", 0, "-")], [DIE])
DRAWN_OUT = "x" * 300_000


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def waiting(monitors: Monitors, machine: list[Op] | None = None) -> tuple[Peer, int, int]:
    """A monitor that has run its first half, its pid, and its child's."""
    ctl = monitors.fork()
    monitors.ahead(ctl, FORK[0], [*FORK[1], *(machine or [])])
    wait_until(lambda: bool(children(monitors.pid)))
    (monitor,) = children(monitors.pid)
    wait_until(lambda: bool(children(monitor)))
    return ctl, monitor, children(monitor)[0]


def report(peer: Peer) -> tuple[int, int, int, str]:
    side, op, number, detail = REPORT.unpack(peer.expect(FAILED).payload)
    return side, op, number, detail.rstrip(b"\0").decode()


@pytest.mark.parametrize("by_memfd", [False, True])
def test_the_rest_comes_later(monitors: Monitors, by_memfd: bool) -> None:
    machine = monitors.start(
        "cat; exit 7", host=[], ahead=FORK, stdio={}, flags=STDIN, by_memfd=by_memfd
    ).started()
    machine.session.expect(SESSION)
    machine.session.send(INPUT, payload=b"through\n")
    machine.session.send(INPUT_EOF)
    out, _, end = machine.session.until(EXIT)
    assert (out, end.value) == (b"through\n", 7)
    assert machine.finish().code == 7


def test_a_rest_too_large_for_a_message(monitors: Monitors) -> None:
    env = ("PATH=/bin", *(f"LONG{i}={DRAWN_OUT[:100_000]}" for i in range(4)))
    rest = [("stdio",), execve("/bin/sh", "-c", "echo ${#LONG3}", env=env)]
    machine = monitors.start(rest, host=[], ahead=FORK, stdio={}, by_memfd=True).started()
    machine.session.expect(SESSION)
    out, _, end = machine.session.until(EXIT)
    assert (out, end.value) == (b"100000\n", 0)
    machine.finish()


def test_registers_of_both_halves(monitors: Monitors, tmp_path: Path) -> None:
    """The first half's are kept by both processes; the second's reach the child by name."""
    (tmp_path / "here").mkdir()
    first = ([("open_tree", "early", "-", tmp_path, 0), *FORK[0]], FORK[1])
    late = os.open(tmp_path / "here", os.O_PATH)
    machine = monitors.start(
        [("fchdir", "early"), ("fchdir", "late"), ("stdio",), sh("pwd")],
        host=[("fchdir", "early")],
        ahead=first,
        fds={"late": late},
        stdio={},
    ).started()
    os.close(late)
    machine.session.expect(SESSION)
    assert machine.session.until(EXIT)[0] == f"{tmp_path}/here\n".encode()
    machine.finish()


def test_failures_are_counted_from_the_start_of_the_whole_plan(monitors: Monitors) -> None:
    host: list[Op] = [("umask", "22"), ("umask", "22")]
    for rest, found in (
        (([("chdir", "/nowhere")], [execve("/bin/true")]), (0, 3, errno.ENOENT, "/nowhere")),
        (
            ([], [("umask", "22"), ("chdir", "/no"), execve("/bin/true")]),
            (1, 2, errno.ENOENT, "/no"),
        ),
        (([], [("umask", "x"), execve("/bin/true")]), (1, 1, errno.EINVAL, "x")),
        (([("clone3", 0, "-")], [execve("/bin/true")]), (0, 3, errno.EINVAL, "clone3")),
        (([], [("umask", "22")]), (1, 1, errno.EINVAL, "execve")),
        (([("send",)], [execve("/bin/true")]), (0, 3, errno.EPROTO, "send")),
        (([], [("fchdir", "unknown"), execve("/bin/true")]), (1, 1, errno.EBADF, "unknown")),
    ):
        machine = monitors.start(rest[1], host=rest[0], ahead=([*host, *FORK[0]], FORK[1]))
        assert report(machine.ctl) == found
        machine.ctl.expect(GONE)
        machine.ctl.expect_end()


def test_what_is_no_first_half(monitors: Monitors) -> None:
    for first in (
        ([("clone3", 0, "-")], [execve("/bin/true")]),
        ([("umask", "22")], []),
        ([("clone3", 0, "-"), ("send",)], [DIE]),
    ):
        ctl = monitors.fork()
        monitors.ahead(ctl, *first)
        assert report(ctl)[2] in (errno.EINVAL, errno.EPROTO, errno.EBADMSG)
        ctl.expect(GONE)
        ctl.expect_end()
        ctl.close()


def test_two_first_halves_are_refused(monitors: Monitors) -> None:
    ctl, monitor, child = waiting(monitors)
    monitors.ahead(ctl, *FORK)
    assert report(ctl)[2] == errno.EPROTO
    wait_until(lambda: gone(child) and gone(monitor))
    ctl.close()


def test_a_waiting_monitor_ends_with_its_daemon(monitors: Monitors) -> None:
    ctl, monitor, child = waiting(monitors)
    ctl.close()
    wait_until(lambda: gone(child) and gone(monitor))


def test_a_waiting_child_ends_with_its_monitor(monitors: Monitors) -> None:
    ctl, monitor, child = waiting(monitors)
    os.kill(monitor, signal.SIGKILL)
    wait_until(lambda: gone(child))
    ctl.expect_end()
    ctl.close()


def test_a_waiting_child_that_dies_is_told_of(monitors: Monitors) -> None:
    ctl, monitor, child = waiting(monitors)
    os.kill(child, signal.SIGKILL)
    assert report(ctl)[:3] == (1, 1, errno.ECHILD)
    ctl.expect(GONE)
    ctl.expect_end()
    wait_until(lambda: gone(monitor))
    ctl.close()


def test_a_container_in_two_halves(monitors: Monitors, tmp_path: Path) -> None:
    """Cut where the launcher has given /dev away and the child has what is its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    store = make_store(tmp_path)
    host = host_part(store)
    part = machine_part(
        execve("/bin/sh", "-c", "hostname; id -u; tty"), stdio=("openpty", "/dev/pts", 24, 80)
    )
    at = next(i for i, op in enumerate(host) if op[0] == "open_tree")
    cut = next(i for i, op in enumerate(part) if op[:2] == ("recv", "root"))
    host_first, host_rest = host[:at], host[at:]
    # The first half must end in step: the word that the namespaces are complete comes in the rest.
    part_first = [op for op in part[:cut] if op != ("send",)]
    machine = monitors.start(
        [("send",), *part[cut:]], host=host_rest, ahead=(host_first, part_first), stdio={},
        owner=BASE, flags=TTY,
    )  # fmt: skip
    for fd in machine.ctl.expect(BARRIER).fds:
        os.close(fd)
    machine.started().session.expect(SESSION)
    out, _, end = machine.session.until(EXIT)
    assert (out.split(), end.value) == ([b"box", b"0", b"/dev/pts/0"], 0)
    machine.finish()


def test_flag_is_the_one_of_the_header() -> None:
    from cove.executor.messages import StartFlag

    assert StartFlag.AHEAD == AHEAD
