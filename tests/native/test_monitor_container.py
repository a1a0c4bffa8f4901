"""A monitor over whole containers: what it makes must be usable inside, and end with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.native.monitors import (
    BARRIER,
    EXIT,
    INPUT,
    INPUT_EOF,
    LOG,
    RESIZE,
    SESSION,
    STDIN,
    TTY,
    Machine,
    Monitors,
    gone,
    wait_until,
)
from tests.native.plans import BASE, execve
from tests.native.start import host_part, machine_part, make_store, new_upper


@pytest.fixture
def monitors(init_binary: Path, tmp_path: Path) -> Iterator[Monitors]:
    if os.geteuid() != 0:
        pytest.skip("needs root: uid is not 0")
    with closing(Monitors(init_binary, tmp_path)) as made:
        yield made


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
