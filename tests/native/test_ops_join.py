"""``clone3_in``: a child in a user namespace that is there, of one who stays outside."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.native.plans import BUSYBOX, NEWUTS, PDEATHSIG, SIGKILL, Launcher, Op, sh

DIES: Op = ("prctl", PDEATHSIG, SIGKILL)


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A process in a user namespace of its own; its pid."""
    command = [BUSYBOX, "unshare", "-r", BUSYBOX, "sh", "-c", "echo ok; read x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ok\n"
        yield process.pid
        process.communicate(b"\n")


def test_a_child_in_it(launcher: Launcher, neighbour: int) -> None:
    """It is the launcher's own: heard of at its end, and with new namespaces that belong there."""
    user = os.open(f"/proc/{neighbour}/ns/user", os.O_RDONLY)
    host: list[Op] = [("clone3_in", NEWUTS, "-", "other"), ("send",)]
    script = "readlink /proc/self/ns/user; hostname inner; hostname; cat /proc/self/uid_map; exit 7"
    try:
        done = launcher.run(host, [DIES, ("recv",), sh(script)], fds={"other": user})
    finally:
        os.close(user)
    assert done.code == 7, done
    theirs = os.readlink(f"/proc/{neighbour}/ns/user")
    assert done.out.split() == [theirs, "inner", "0", "0", "1"]
    assert os.uname().nodename != "inner"


def test_what_is_no_user_namespace(launcher: Launcher, neighbour: int) -> None:
    """Nothing is begun."""
    for kind, error in (("uts", errno.EINVAL), ("user", 0)):
        fd = os.open(f"/proc/{neighbour if kind == 'uts' else 'self'}/ns/{kind}", os.O_RDONLY)
        try:
            done = launcher.run(
                [("clone3_in", NEWUTS, "-", "other")], [DIES, sh("echo ran")], fds={"other": fd}
            )
        finally:
            os.close(fd)
        assert done.out == ""
        assert done.report == ("host", 0, "clone3_in", error or errno.EINVAL, "")


def test_it_is_never_left_out(launcher: Launcher) -> None:
    done = launcher.run([("clone3_in", NEWUTS, "-", "-")], [sh("echo ran")])
    assert done.out == "" and done.report == ("host", 0, "-", errno.EBADF, "-")
