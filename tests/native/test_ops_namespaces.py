"""Ops of namespaces, and what passes between launcher and child: each for real, and as it fails."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.plans import (
    AT_RECURSIVE,
    BASE,
    BUSYBOX,
    ID_MAP,
    IDMAP,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    PDEATHSIG,
    SIGKILL,
    TREE_CLONE,
    Launcher,
    Op,
    sh,
)

CHILD = ("clone3", NEWUTS, "-")


def test_unshare_and_names(launcher: Launcher) -> None:
    names = [("unshare", NEWUTS), ("sethostname", "box"), ("setdomainname", "example")]
    script = sh("hostname; cat /proc/sys/kernel/domainname; id -u; cat /proc/self/uid_map")
    done = launcher.container([*names, script])
    assert done.code == 0, done
    assert done.out.split() == ["box", "example", "0", "0", str(BASE), "65536"]
    assert os.uname().nodename != "box"


def test_unshare_of_nonsense(launcher: Launcher) -> None:
    done = launcher.run([("unshare", 3)], [])
    assert done.report == ("host", 0, "unshare", errno.EINVAL, "")


def test_a_name_too_long(launcher: Launcher) -> None:
    done = launcher.container([("unshare", NEWUTS), ("sethostname", "x" * 65), sh("true")])
    assert done.report == ("machine", 5, "sethostname", errno.EINVAL, "x" * 65)


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A process with a hostname of its own; its pid."""
    command = [
        BUSYBOX,
        "unshare",
        "-u",
        BUSYBOX,
        "sh",
        "-c",
        f"{BUSYBOX} hostname inner; echo ok; read x",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ok\n"
        yield process.pid


def test_setns(launcher: Launcher, neighbour: int) -> None:
    fd = os.pidfd_open(neighbour)
    try:
        join = [("setns", "target", NEWUTS), ("clone3", 0, "-")]
        assert launcher.run(join, [sh("hostname")], fds={"target": fd}).out == "inner\n"
        done = launcher.run([("setns", "target", 0)], [], fds={"target": fd})
        assert done.report == ("host", 0, "setns", errno.EINVAL, "target")
    finally:
        os.close(fd)


def test_id_map_that_the_kernel_refuses(launcher: Launcher) -> None:
    bad = ("id_map", "0 1000 10\n5 9000 10", f"0 {BASE} 65536")
    done = launcher.run([("clone3", NEWUSER, "-"), bad], [sh("true")])
    assert done.report[:4] == ("host", 1, "id_map", errno.EINVAL)


def test_oom_score_adj(launcher: Launcher) -> None:
    word = [CHILD, ("oom_score_adj", "123"), ("send",)]
    done = launcher.run(word, [("recv",), sh("cat /proc/self/oom_score_adj")])
    assert done.out == "123\n"
    done = launcher.run([CHILD, ("oom_score_adj", "2000")], [sh("sleep 100")])
    assert done.report == ("host", 1, "oom_score_adj", errno.EINVAL, "")


def test_barrier_without_a_daemon_opens_the_namespaces(launcher: Launcher) -> None:
    barrier = ("barrier", 1, "pid", "user", "net", "mnt")
    done = launcher.run([CHILD, barrier, ("send",)], [("recv",), sh("echo on")])
    assert (done.code, done.out) == (0, "on\n")
    done = launcher.run([CHILD, ("barrier", 0, "pid", "nonsense")], [sh("sleep 100")])
    assert done.report == ("host", 1, "barrier", errno.ENOENT, "nonsense")


def test_registers_travel_both_ways(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "down").mkdir()
    host = [
        ("clone3", NEWUSER | NEWNS, "-"),
        ID_MAP,
        ("open_tree", "down", "-", tmp_path / "down", 0),
        ("send", "down", "down"),
        ("recv", "up"),
        ("mkdirat", "up", "made", "700", 1, 2),
        ("send",),
    ]
    machine = [("recv", "one", "two"), ("send", "two"), ("recv",), sh("echo done")]
    done = launcher.run(host, machine)
    assert (done.code, done.out) == (0, "done\n"), done
    made = (tmp_path / "down/made").stat()
    assert (made.st_mode, made.st_uid, made.st_gid) == (0o40700, 1, 2)


def test_a_child_that_fails_first_is_the_cause(launcher: Launcher) -> None:
    fails = [("chdir", "/no/such/place"), ("send",), ("recv",), sh("true")]
    done = launcher.run([CHILD, ("recv",), ("send",)], fails)
    assert done.report == ("machine", 0, "chdir", errno.ENOENT, "/no/such/place")


def test_a_host_that_fails_takes_the_child_along(launcher: Launcher, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    host = [CHILD, ("fchdir", "stdin"), ("send",)]
    done = launcher.run(host, [("recv",), sh(f"touch {marker}")])
    assert done.report == ("host", 1, "fchdir", errno.ENOTDIR, "stdin")
    assert not marker.exists()


def test_a_child_killed_before_its_execve(launcher: Launcher) -> None:
    # A filter that kills (SECCOMP_RET_KILL is 0) whatever comes next, which is our own report.
    kill = (6).to_bytes(2, "little").hex() + "0000" + "00000000"
    done = launcher.run([CHILD], [("seccomp", 0, kill), sh("true")])
    assert done.report[0] == "machine"
    assert done.report[3] == errno.ECHILD


def test_clone_into_a_control_group(launcher: Launcher, cgroup2: Path) -> None:
    group = cgroup2 / f"cove-test-{os.getpid()}"
    group.mkdir()
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = launcher.run(
            [("clone3", NEWUTS, "cgroup")], [sh("grep 0:: /proc/self/cgroup")], fds={"cgroup": fd}
        )
        assert done.out == f"0::/{group.name}\n"
    finally:
        os.close(fd)
        group.rmdir()


@pytest.fixture
def cgroup2() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return Path(line.split()[1])
    pytest.skip("needs a mounted cgroup2")


def test_cgroup_attach(launcher: Launcher, cgroup2: Path) -> None:
    group = cgroup2 / f"cove-test-a{os.getpid()}"
    group.mkdir()
    try:
        attach = ("cgroup_attach", group / "cgroup.procs")
        done = launcher.run([CHILD], [attach, sh("grep 0:: /proc/self/cgroup")])
        assert done.out == f"0::/{group.name}\n"
        missing = group / "nothing"
        done = launcher.run([CHILD], [("cgroup_attach", missing), sh("true")])
        assert done.report == ("machine", 0, "cgroup_attach", errno.ENOENT, str(missing))
    finally:
        group.rmdir()


def test_ifup(launcher: Launcher) -> None:
    up = [("unshare", NEWNET), ("ifup", "lo"), sh("ip link show lo")]
    assert "LOOPBACK,UP" in launcher.container(up).out
    done = launcher.container([("unshare", NEWNET), ("ifup", "eth9"), sh("true")])
    assert done.report == ("machine", 5, "ifup", errno.ENODEV, "eth9")


def test_the_parent_death_signal_survives_new_ids(launcher: Launcher, tmp_path: Path) -> None:
    """Else a machine would outlive a monitor that was killed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o666)
    os.chmod(tmp_path, 0o755)
    host = [("clone3", NEWUSER, "-"), ID_MAP, ("send",)]
    machine = [("prctl", PDEATHSIG, SIGKILL), ("recv",), ("setids", 0, 0), ("setids", 5, 5)]
    command = launcher.command(host, [*machine, sh("echo up; sleep 1000")], {})
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.read() == b""  # the pipe ends with the machine's last process


def test_processes_of_a_pid_namespace_end_with_the_machine(launcher: Launcher) -> None:
    done = launcher.container([sh("sleep 1000 & echo $$")], flags=NEWPID)
    assert done.out == "1\n"


def test_the_launcher_returns_the_payloads_status(launcher: Launcher) -> None:
    assert launcher.run([CHILD], [sh("exit 7")]).code == 7
    assert launcher.run([CHILD], [sh("kill -9 $$")]).code == 128 + 9


def test_a_user_namespace_that_nobody_lives_in(launcher: Launcher, tmp_path: Path) -> None:
    """With the maps that were asked for: other ids than two are nobody's."""
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1000, 1001)
    (tmp_path / "other").touch()
    os.chmod(tmp_path, 0o755)
    host: list[Op] = [
        ("open_tree", "source", "-", tmp_path, 0),
        ("open_tree", "tree", "source", "", TREE_CLONE),
        ("clone_userns", "ids", "1000 0 1", "1001 5 1"),
        ("mount_setattr", "tree", "", 0x1000, IDMAP, 0, 0, "ids"),
        ("unshare", NEWNS),
        ("mount_setattr", "-", "/", AT_RECURSIVE, 0, 0, 1 << 18, "-"),
        ("move_mount", "tree", "-", "/mnt", 0),
        ("clone3", 0, "-"),
    ]
    done = launcher.run(host, [sh("stat -c '%u %g' /mnt/file /mnt/other")])
    assert done.out == "0 5\n65534 65534\n", done


def test_maps_of_such_a_namespace_are_checked_by_the_kernel(launcher: Launcher) -> None:
    for words in (("no map", "0 0 1"), ("0 0 1", "no map")):
        done = launcher.run([("clone_userns", "ids", *words)], [])
        assert done.report == ("host", 0, "clone_userns", errno.EINVAL, "no map")
