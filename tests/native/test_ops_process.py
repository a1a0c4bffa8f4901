"""Ops of the process itself up to its execve, and PID 1."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.native.plans import (
    BUSYBOX,
    ID_MAP,
    NEWPID,
    NEWUSER,
    NO_NEW_PRIVS,
    PATH,
    Done,
    Launcher,
    Op,
    execve,
    sh,
)
from tests.native.start import FILTER

CHILD: list[Op] = [("clone3", 0, "-")]


def child(launcher: Launcher, *ops: Op) -> Done:
    return launcher.run(CHILD, list(ops))


# ---- execve ----


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Three directories for a PATH: good, without permission, with something else."""
    for name in ("good", "denied", "other"):
        (tmp_path / name).mkdir()
    for name, mode in (("good", 0o755), ("denied", 0o644)):
        (tmp_path / name / "tool").write_text(f"#!{BUSYBOX} sh\necho {name} $@\n")
        (tmp_path / name / "tool").chmod(mode)
    (tmp_path / "denied/only").write_text("")
    (tmp_path / "other/directory").mkdir()
    (tmp_path / "other/noformat").write_text("not a program\n")
    (tmp_path / "other/noformat").chmod(0o755)
    return tmp_path


def path_of(programs: Path, *names: str) -> tuple[str, ...]:
    return ("PATH=" + ":".join(str(programs / name) if name else "" for name in names),)


def test_execve_looks_in_the_path_of_its_own_environment(
    launcher: Launcher, programs: Path
) -> None:
    env = path_of(programs, "missing", "denied", "good")
    assert child(launcher, execve("tool", "a", "b", env=env)).out == "good a b\n"


@pytest.mark.parametrize(
    ("name", "names", "error"),
    [
        ("nothing", ("good", "denied"), errno.ENOENT),
        ("", ("good",), errno.ENOENT),
        ("only", ("denied", "good"), errno.EACCES),
        ("directory", ("other",), errno.EACCES),
        ("noformat", ("other",), errno.ENOEXEC),
        ("/etc/passwd/x", (), errno.ENOTDIR),
        ("/nothing", (), errno.ENOENT),
        ("/etc", (), errno.EACCES),
    ],
)
def test_execve_refusals(
    launcher: Launcher, programs: Path, name: str, names: tuple[str, ...], error: int
) -> None:
    done = child(launcher, execve(name, env=path_of(programs, *names)))
    assert done.report == ("machine", 0, "execve", error, name)


def test_nothing_is_run_from_the_working_directory(launcher: Launcher, programs: Path) -> None:
    chdir: Op = ("chdir", programs / "good")
    for path in ("", ":", ".", "./"):
        done = child(launcher, chdir, execve("tool", env=(f"PATH={path}",)))
        assert done.report == ("machine", 1, "execve", errno.ENOENT, "tool")
    assert child(launcher, chdir, execve("./tool", env=())).out == "good\n"


def test_the_payload_gets_nothing_but_its_three_streams(launcher: Launcher, tmp_path: Path) -> None:
    fds = [os.open(tmp_path, os.O_RDONLY) for _ in range(3)]
    try:
        registers = {f"bind{i}": fd for i, fd in enumerate(fds)}
        done = launcher.run(CHILD, [sh("echo /proc/self/fd/*")], fds=registers)
        assert done.out.split() == [
            f"/proc/self/fd/{n}" for n in (0, 1, 2, 3)
        ]  # 3: echo's own glob
    finally:
        for fd in fds:
            os.close(fd)


def test_signals_are_as_new(launcher: Launcher) -> None:
    """Whatever the launcher's parent ignored or blocked."""
    show = execve(BUSYBOX, "grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status")
    command = launcher.command(CHILD, [show], {})
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        out = subprocess.check_output(command, text=True, restore_signals=False)
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    masks = [int(line.split()[1], 16) for line in out.splitlines()]
    assert masks == [0, 0, 0]


# ---- one call each ----


def test_setrlimit(launcher: Launcher) -> None:
    limits: list[Op] = [("setrlimit", resource.RLIMIT_NOFILE, 100, 200)]
    limits.append(("setrlimit", resource.RLIMIT_CORE, 0, "unlimited"))
    done = child(launcher, *limits, sh("ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hc"))
    assert done.out.split() == ["100", "200", "0", "unlimited"]
    done = child(launcher, ("setrlimit", resource.RLIMIT_NOFILE, 200, 100), sh("true"))
    assert done.report == ("machine", 0, "setrlimit", errno.EINVAL, "7")


def test_setsid_and_keyctl(launcher: Launcher) -> None:
    script = sh("cat /proc/self/stat | { read p n s pp g sid x; echo $((sid == $$)); }")
    assert child(launcher, ("setsid",), ("keyctl",), script).out == "1\n"
    assert child(launcher, ("setsid",), ("setsid",), script).report[:4] == (
        *("machine", 1, "setsid"),
        errno.EPERM,
    )


def test_prctl(launcher: Launcher) -> None:
    show = sh("grep NoNewPrivs /proc/self/status")
    assert child(launcher, ("prctl", NO_NEW_PRIVS, 1), show).out == "NoNewPrivs:\t1\n"
    done = child(launcher, ("prctl", NO_NEW_PRIVS, 9), show)
    assert done.report == ("machine", 0, "prctl", errno.EINVAL, "38")


# ---- privileges ----

SHOW_CAPS = sh("grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status")


def caps(done: Done) -> list[int]:
    assert done.code == 0, done
    return [int(line.split()[1], 16) for line in done.out.splitlines()]


def test_capabilities_of_root(launcher: Launcher) -> None:
    done = launcher.container([("capbset", "a1"), ("capset", "a1"), SHOW_CAPS])
    assert caps(done) == [0, 0xA1, 0xA1, 0xA1, 0]
    # Whatever the kernel does not know is not asked of it.
    done = launcher.container(
        [("capbset", "ffffffffffffffff"), ("capset", "ffffffffffffffff"), SHOW_CAPS]
    )
    inherited, permitted, effective, bounding, ambient = caps(done)
    assert (inherited, ambient) == (0, 0)
    assert permitted == effective == bounding > 1 << 39


def test_capabilities_of_a_user(launcher: Launcher) -> None:
    done = launcher.container([("capbset", "a1"), ("setids", 7, 7), ("capset", "a1"), SHOW_CAPS])
    assert caps(done) == [0, 0, 0, 0xA1, 0]
    done = launcher.container([("setids", 7, 7), ("capbset", "a1"), SHOW_CAPS])
    assert done.report == ("machine", 5, "capbset", errno.EPERM, "")


def test_seccomp(launcher: Launcher) -> None:
    # Refuses chroot(2): instruction 1 compares with its number.
    number = {"x86_64": 161, "aarch64": 51}[os.uname().machine]
    refuse = FILTER[:24] + number.to_bytes(4, "little").hex() + FILTER[32:]
    script = sh(f"chroot / {BUSYBOX} echo in")
    assert child(launcher, script).out == "in\n"
    done = child(launcher, ("prctl", NO_NEW_PRIVS, 1), ("seccomp", 0, refuse), script)
    assert (done.code, done.out) == (1, "")
    assert "Operation not permitted" in done.err
    done = child(launcher, ("seccomp", 0, "ffff" * 4), sh("true"))
    assert done.report == ("machine", 0, "seccomp", errno.EINVAL, "")


def test_seccomp_that_refuses_even_what_making_ready_needs(launcher: Launcher) -> None:
    """Everything but execve(2) and what follows it may be refused."""
    number = {"x86_64": 46, "aarch64": 211}[os.uname().machine]  # sendmsg
    refuse = FILTER[:24] + number.to_bytes(4, "little").hex() + FILTER[32:]
    done = child(launcher, ("prctl", NO_NEW_PRIVS, 1), ("seccomp", 0, refuse), sh("echo ran"))
    assert (done.code, done.out) == (0, "ran\n")
    secure: list[Op] = [("prctl", NO_NEW_PRIVS, 1), ("seccomp", 0, refuse)]
    assert child(launcher, *secure, execve("/nothing")).code == 127


def test_setids(launcher: Launcher) -> None:
    assert launcher.container([("setids", 5, 6), sh("id -u; id -g; id -G")]).out.split() == [
        "5",
        "6",
        "6",
    ]
    done = launcher.container([("setids", 70000, 0), sh("true")])
    assert done.report == ("machine", 4, "setids", errno.EINVAL, "")


def test_setfsuid_keeps_capabilities_and_goes_back(launcher: Launcher, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    made = tmp_path / "made"
    host: list[Op] = [
        ("setfsuid", 1000, 1000),
        ("mknodat", "-", made, "20644", 1, 3, 1000, 1000),  # needs CAP_MKNOD and CAP_DAC_OVERRIDE
        ("setfsuid", 0, 0),
        ("clone3", NEWUSER, "-"),
        ID_MAP,
        ("send",),
    ]
    done = launcher.run(host, [("recv",), sh("grep -c 'Uid:.*65534' /proc/self/status")])
    assert (done.code, done.out) == (0, "1\n"), done
    assert made.stat().st_uid == 1000


# ---- PID 1 ----


def run_init(launcher: Launcher, script: str) -> subprocess.Popen[str]:
    host: list[Op] = [("clone3", NEWPID, "-")]
    command = launcher.command(host, [("setsid",), ("fork",), sh(script)], {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)


def pid_one(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return int(children.split()[0])


def test_pid1_gives_its_childs_status(launcher: Launcher) -> None:
    for script, code in (("exit 7", 7), ("kill -KILL $$", 128 + 9), ("echo $$ >&2", 0)):
        with run_init(launcher, script) as process:
            assert process.wait() == code
    done = launcher.run([("clone3", NEWPID, "-")], [("fork",), execve("nothing", env=(PATH,))])
    assert done.report == ("machine", 1, "execve", errno.ENOENT, "nothing")


def test_pid1_reaps_orphans(launcher: Launcher) -> None:
    with run_init(launcher, "(sleep 1000 & echo up); read x") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        first = pid_one(process)
        children = Path(f"/proc/{first}/task/{first}/children")
        until(lambda: len(children.read_text().split()) == 2)  # the payload, and the adopted orphan
        os.kill(int(children.read_text().split()[1]), signal.SIGKILL)
        until(lambda: len(children.read_text().split()) == 1)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait() == 0


def until(condition: Callable[[], bool]) -> None:
    """The kernel tells nobody of these events."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_pid1_forwards_signals(launcher: Launcher) -> None:
    script = (
        "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo winch' WINCH; trap 'exit 3' TERM;"
        "echo ready; while :; do read x || sleep 1000 & wait; done"
    )
    with run_init(launcher, script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        first = pid_one(process)
        for name in ("USR1", "HUP", "WINCH"):
            os.kill(first, getattr(signal, f"SIG{name}"))
            assert process.stdout.readline() == name.lower() + "\n"
        os.kill(first, signal.SIGTERM)
        assert process.wait() == 3


def test_pid1_keeps_nothing_open(launcher: Launcher) -> None:
    """Else the machine's output would not end before PID 1 does."""
    with run_init(launcher, "echo up; read x") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert os.listdir(f"/proc/{pid_one(process)}/fd") == []
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 1
