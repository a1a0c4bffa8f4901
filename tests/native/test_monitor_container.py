"""A monitor over whole containers: what it makes must be usable inside, and end with it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.native.monitors import (
    BARRIER,
    EXEC,
    EXIT,
    INPUT,
    INPUT_EOF,
    LOG,
    RESIZE,
    SESSION,
    SIGNAL,
    STDIN,
    TTY,
    Machine,
    Monitors,
    gone,
    wait_until,
)
from tests.native.plans import (
    BASE,
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PDEATHSIG,
    SIGKILL,
    Op,
    execve,
)
from tests.native.start import host_part, machine_part, make_store, new_upper


def released(machine: Machine) -> Machine:
    """Past the barrier of a container's start."""
    for fd in machine.ctl.expect(BARRIER).fds:
        os.close(fd)
    return machine.started()


def test_container_with_pipes(monitors: Monitors, tmp_path: Path) -> None:
    """As the machine's own root and as another user, their pipes can be opened anew."""
    store = make_store(tmp_path)
    script = "id -u; echo out >/dev/fd/1; echo err >/dev/fd/2; cat /dev/fd/0"
    for user, uid in (("", b"0"), ("bob", b"1000")):
        new_upper(store)
        part = machine_part(execve("/bin/sh", "-c", script), user=("setuser", user))
        machine = monitors.start(
            part, host=host_part(store), owner=BASE, stdio={}, flags=STDIN | LOG
        )
        released(machine).session.expect(SESSION)
        machine.session.send(INPUT, payload=b"in\n")
        machine.session.send(INPUT_EOF)
        out, err, end = machine.session.until(EXIT)
        assert (out, err, end.value) == (uid + b"\nout\nin\n", b"err\n", 0)
        machine.finish()


def test_container_with_a_terminal(monitors: Monitors, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    part = machine_part(
        execve("/bin/sh", "-c", "tty; read x; stty size; echo got $x >/dev/tty"),
        stdio=("openpty", "/dev/pts", 24, 80),
    )
    machine = monitors.start(
        part, host=host_part(store), owner=BASE, stdio={}, flags=STDIN | TTY, size=(30, 100)
    )
    released(machine).session.expect(SESSION)
    machine.session.until_output(b"/dev/pts/0\r\n")
    machine.session.send(RESIZE, payload=b"\x28\x00\x50\x00")
    machine.session.send(INPUT, payload=b"words\r")
    out, _, end = machine.session.until(EXIT)
    assert out.endswith(b"40 80\r\ngot words\r\n")
    assert end.value == 0
    machine.finish()


def test_killed_monitor_takes_a_container_along(monitors: Monitors, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    part = machine_part(execve("/bin/cat"))
    machine = monitors.start(part, host=host_part(store), owner=BASE, flags=STDIN)
    os.kill(released(machine).monitor, signal.SIGKILL)
    machine.ctl.expect_end()
    wait_until(lambda: gone(machine.pid))


def exec_plan(*final: Op, stdio: Op = ("stdio",)) -> list[Op]:
    return [
        ("prctl", PDEATHSIG, SIGKILL),
        ("recv",),
        ("setns", "target", NEWUSER | NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP),
        ("setids", 0, 0),
        ("chdir", "/"),
        ("setsid",),
        stdio,
        ("capset", "0"),
        *final,
    ]


ENTER: list[Op] = [("setns", "target", NEWPID), ("clone3", 0, "-"), ("send",)]


@pytest.fixture
def running(monitors: Monitors, tmp_path: Path) -> Machine:
    """A container that waits for its stdin."""
    store = make_store(tmp_path)
    part = machine_part(execve("/bin/cat"))
    return released(monitors.start(part, host=host_part(store), owner=BASE, flags=STDIN))


def test_exec_in_a_container(monitors: Monitors, running: Machine) -> None:
    script = "hostname; kill -0 1 && echo sees 1; (exec cat /dev/zero >/dev/null) & exit 5"
    done = monitors.start(
        exec_plan(execve("/bin/sh", "-c", script)),
        host=ENTER,
        owner=BASE,
        stdio={},
        flags=EXEC,
        fds={"target": running.pidfd},
    ).started()
    done.session.expect(SESSION)
    out, _, end = done.session.until(EXIT)
    assert (out, end.value) == (b"box\nsees 1\n", 5)
    assert done.finish().code == 5
    assert not gone(running.pid)


def test_exec_with_a_terminal_ends_with_its_container(monitors: Monitors, running: Machine) -> None:
    shell = execve("/bin/sh", "-c", "tty; exec cat")
    done = monitors.start(
        exec_plan(shell, stdio=("openpty", "/dev/pts", 24, 80)),
        host=ENTER,
        owner=BASE,
        stdio={},
        flags=EXEC | TTY | STDIN,
        fds={"target": running.pidfd},
    ).started()
    done.session.expect(SESSION)
    done.session.until_output(b"/dev/pts/0\r\n")
    done.session.send(INPUT, payload=b"typed\r")
    done.session.until_output(b"typed\r\n")
    running.ctl.send(SIGNAL, signal.SIGKILL)
    assert running.finish().code == 137
    assert done.session.until(EXIT)[2].value == 137
