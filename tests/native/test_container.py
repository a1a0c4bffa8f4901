"""A whole machine, by the order of the container plan: what its payload finds, and who it is."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.native.plans import (
    BASE,
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWUSER,
    NEWUTS,
    NO_NEW_PRIVS,
    PATH,
    PDEATHSIG,
    SIGKILL,
    Done,
    Launcher,
    Op,
    execve,
)
from tests.native.start import CAPS, FILTER, host_part, machine_part, make_store, new_upper


@pytest.fixture
def store(launcher: Launcher) -> Iterator[Path]:
    """Below a directory that only the host's root may enter, as the real one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield make_store(Path(directory))


def start(
    launcher: Launcher,
    store: Path,
    script: str,
    *,
    user: str = "",
    groups: tuple[str, ...] = (),
    stdio: Op = ("stdio",),
    fds: dict[str, int] | None = None,
) -> Done:
    new_upper(store)
    payload = execve("sh", "-c", script)
    machine = machine_part(payload, user=("setuser", user, *groups), stdio=stdio)
    return launcher.run(host_part(store), machine, fds=fds)


def output(done: Done) -> list[str]:
    assert done.code == 0, done
    return done.out.splitlines()


def test_who_and_where(launcher: Launcher, store: Path) -> None:
    script = "id; cat /proc/self/uid_map /proc/self/gid_map; hostname; pwd; umask; ulimit -n;"
    script += "echo $$ $HOME"
    uid_map = f"         0 {BASE}      65536"
    assert output(start(launcher, store, script)) == [
        "uid=0(root) gid=0(root) groups=0(root)",
        uid_map,
        uid_map,
        "box",
        "/srv/dir",
        "0022",
        "256",
        "1 /root",
    ]


def test_privileges(launcher: Launcher, store: Path) -> None:
    found = dict(
        line.split(":\t")
        for line in output(start(launcher, store, "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status"))
    )
    mask = f"{CAPS:016x}"
    assert found == {
        "CapInh": "0" * 16,
        "CapPrm": mask,
        "CapEff": mask,
        "CapBnd": mask,
        "CapAmb": "0" * 16,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }


def test_file_systems(launcher: Launcher, store: Path) -> None:
    mounts = [line.split() for line in output(start(launcher, store, "cat /proc/mounts"))]
    types = {mount[1]: (mount[2], mount[3].split(",")[0]) for mount in mounts}
    assert len(types) == len(mounts), "nothing of the host is left, nothing is there twice"
    expected = {
        "/": ("overlay", "rw"),
        "/proc": ("proc", "rw"),
        "/sys": ("sysfs", "ro"),
        "/dev": ("tmpfs", "rw"),
        "/dev/pts": ("devpts", "rw"),
        "/dev/shm": ("tmpfs", "rw"),
        "/dev/mqueue": ("mqueue", "rw"),
        "/proc/sys": ("proc", "ro"),
        "/proc/keys": ("tmpfs", "rw"),  # the null device
        "/sys/firmware": ("tmpfs", "ro"),
    }
    assert expected.items() <= types.items()


def test_masks_hold_for_the_machines_root(launcher: Launcher, store: Path) -> None:
    script = (
        "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo 1 >/proc/sys/vm/swappiness;"
        "echo 1 >/proc/sys/kernel/panic; echo x >/sys/firmware/x; mknod /dev/sda b 8 0;"
        "cat /proc/sys/net/ipv4/ping_group_range"
    )
    done = start(launcher, store, script)
    assert done.out.split() == ["0", "0", "0", "65535"]
    assert done.err.count("Read-only file system") == 3, done.err
    assert done.err.count("Operation not permitted") == 1


def test_ids_on_disk_are_those_inside(launcher: Launcher, store: Path) -> None:
    os.chown(store / "l1/etc/group", 33, 34)
    assert output(start(launcher, store, "stat -c '%u %g' /etc/group; echo >/etc/new")) == ["33 34"]
    new = (store / "u1/fs/etc/new").stat()
    assert (new.st_uid, new.st_gid) == (0, 0)


def test_nothing_of_the_start_stays(launcher: Launcher, store: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    start(launcher, store, "true")
    assert list((store / "m").iterdir()) == []
    assert Path("/proc/self/mounts").read_text() == mounts


def test_a_failure_anywhere_is_named_and_leaves_nothing(launcher: Launcher, store: Path) -> None:
    """Fault walk: an op that fails before each op of both parts in turn."""
    parts = [host_part(store), machine_part(execve("sleep", "1000"))]
    mounts = Path("/proc/self/mounts").read_text()
    fails: Op = ("chdir", "/no/such/place")
    for side, part in enumerate(parts):
        for i in range(len(part)):
            new_upper(store)
            walk = list(parts)
            walk[side] = [*part[:i], fails, *part[i:]]
            # Its pipes are read to their end: no process is left that holds them.
            report = launcher.run(walk[0], walk[1]).report
            name = ("host", "machine")[side]
            assert report == (name, i, "chdir", errno.ENOENT, "/no/such/place")
    assert Path("/proc/self/mounts").read_text() == mounts


# ---- users ----


@pytest.mark.parametrize(
    ("user", "groups", "expected"),
    [
        ("bob", (), "1000 1001 1001 10 29 /home"),
        ("1000", (), "1000 1001 1001 10 29 /home"),
        ("bob:audio", (), "1000 29 29 /home"),
        ("bob:7", (), "1000 7 7 /home"),
        ("2000", (), "2000 0 0 /"),
        ("2000:3000", (), "2000 3000 3000 /"),
        (":audio", (), "0 29 29 /root"),
        ("bob:", ("50", "wheel"), "1000 1001 1001 10 29 50 /home"),
        ("bob:wheel", ("audio",), "1000 10 10 29 /home"),
        ("nohome", (), "1002 1002 1002 /"),
        ("12", (), "12 0 0 /"),
    ],
)
def test_users(
    launcher: Launcher, store: Path, user: str, groups: tuple[str, ...], expected: str
) -> None:
    script = "echo $(id -u) $(id -g) $(grep Groups: /proc/self/status | cut -d: -f2) $HOME"
    (store / "l1/bin/cut").symlink_to("busybox")
    done = start(launcher, store, script, user=user, groups=groups)
    uid, gid, *more = output(done)[0].split()
    wanted = expected.split()
    assert [uid, gid, *sorted(more)] == [*wanted[:2], *sorted(wanted[2:])]


@pytest.mark.parametrize(
    ("user", "groups", "error", "detail"),
    [
        ("nobody-here", (), errno.ENOENT, "nobody-here"),
        ("bob:no-group", (), errno.ENOENT, "no-group"),
        ("bob", ("no-group",), errno.ENOENT, "no-group"),
        ("70000", (), errno.EINVAL, "70000"),
        ("4294967296", (), errno.ENOENT, "4294967296"),
        ("-1", (), errno.ENOENT, "-1"),
    ],
)
def test_users_that_are_refused(
    launcher: Launcher,
    store: Path,
    user: str,
    groups: tuple[str, ...],
    error: int,
    detail: str,
) -> None:
    report = start(launcher, store, "true", user=user, groups=groups).report
    assert report[2:] == ("setuser", error, detail)


def test_hostile_user_files(launcher: Launcher, store: Path) -> None:
    passwd = store / "l1/etc/passwd"
    passwd.unlink()
    os.mkfifo(passwd)
    assert start(launcher, store, "true").report[2:] == ("setuser", errno.EINVAL, "/etc/passwd")
    passwd.unlink()
    passwd.write_bytes(b"x" * ((1 << 20) + 1))
    assert start(launcher, store, "true").report[2:] == ("setuser", errno.EFBIG, "/etc/passwd")
    passwd.unlink()
    passwd.symlink_to("/proc/self/fd/0")
    assert start(launcher, store, "true").report[2:] == ("setuser", errno.ELOOP, "/etc/passwd")
    passwd.unlink()
    assert output(start(launcher, store, "echo $HOME", user="5")) == ["/"]
    passwd.write_bytes(b":::\n\0\0:x:1:1\n" + b"a:" * 1000 + b"\nbob:x:5:6::/b")
    assert output(start(launcher, store, "id -u; echo $HOME", user="bob")) == ["5", "/b"]


# ---- streams ----


def test_streams_can_be_opened_again(launcher: Launcher, store: Path) -> None:
    """Pipes belong to the user; here they are given to the machine's root as the monitor does."""
    new_upper(store)
    script = "echo again >/proc/self/fd/1; read x </proc/self/fd/0; echo $x"
    machine = machine_part(execve("sh", "-c", script), user=("setuser", "bob"))
    command = launcher.command(host_part(store), machine, {})
    pipes = [os.pipe(), os.pipe()]
    for fd in (pipes[0][0], pipes[1][1]):
        os.fchown(fd, BASE, BASE)
    with subprocess.Popen(command, stdin=pipes[0][0], stdout=pipes[1][1]) as process:
        for fd in (pipes[0][0], pipes[1][1]):
            os.close(fd)
        os.write(pipes[0][1], b"typed\n")
        os.close(pipes[0][1])
        with os.fdopen(pipes[1][0]) as out:
            assert out.read() == "again\ntyped\n"
        assert process.wait() == 0


def test_without_stdin_there_is_the_machines_null(launcher: Launcher, store: Path) -> None:
    script = "ls -l /proc/self/fd/0; read x || echo end"
    assert output(start(launcher, store, script, fds={"stdin": -1}))[1:] == ["end"]


def test_terminal(launcher: Launcher, store: Path) -> None:
    script = "tty; stty size; stat -c '%u %g %a' /dev/pts/0; echo on tty >/dev/tty; echo x >&2"
    done = start(launcher, store, script, user="bob", stdio=("openpty", "/dev/pts", 33, 77))
    assert done.code == 0, done
    assert done.out.split("\r\n") == ["/dev/pts/0", "33 77", "1000 5 620", "on tty", "x", ""]
    assert done.err == ""


def test_a_terminal_comes_from_a_devpts_only(launcher: Launcher, store: Path) -> None:
    for directory, error in (
        ("/tmp", errno.EXDEV),
        ("/dev", errno.EXDEV),
        ("/nothing", errno.ENOENT),
        ("/proc/self/cwd", errno.ELOOP),
    ):
        report = start(launcher, store, "true", stdio=("openpty", directory, 24, 80)).report
        assert report[2:] == ("openpty", error, directory)


def test_init_in_front_of_a_terminal(launcher: Launcher, store: Path) -> None:
    new_upper(store)
    group = "cat /proc/self/stat | { read pid name state parent group s t foreground rest"
    script = f"cat /proc/1/comm; tty; {group}; echo $((group == foreground)); }}"
    machine = machine_part(
        ("fork",), execve("sh", "-c", script), stdio=("openpty", "/dev/pts", 24, 80)
    )
    done = launcher.run(host_part(store), machine)
    assert done.out.split() == ["cove-init", "/dev/pts/0", "1"]


# ---- a second process ----

JOIN = NEWUSER | NEWNS | NEWNET | NEWIPC | NEWUTS | NEWCGROUP


def test_a_second_process(launcher: Launcher, store: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = Launcher(launcher.binary, tmp_path / "first")
    machine = machine_part(execve("sh", "-c", "echo up; read x"))
    command = first.command(host_part(store), machine, {})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        target = os.pidfd_open(int(children))
        try:
            script = "hostname; id -u; cat /proc/1/comm; pwd; grep Seccomp: /proc/self/status"
            second: list[Op] = [
                ("prctl", PDEATHSIG, SIGKILL),
                ("recv",),
                ("setns", "target", JOIN),
                ("setids", 0, 0),
                ("chdir", "/tmp"),
                ("setsid",),
                ("stdio",),
                ("capbset", f"{CAPS:x}"),
                ("setuser", "bob"),
                ("capset", f"{CAPS:x}"),
                ("prctl", NO_NEW_PRIVS, 1),
                ("seccomp", 0, FILTER),
                execve("sh", "-c", script, env=(PATH,)),
            ]
            host: list[Op] = [("setns", "target", NEWPID), ("clone3", 0, "-"), ("send",)]
            done = launcher.run(host, second, fds={"target": target})
            assert output(done) == ["box", "1000", "sh", "/tmp", "Seccomp:\t2"]
        finally:
            os.close(target)
        process.stdin and process.stdin.close()
        assert process.wait() == 1
