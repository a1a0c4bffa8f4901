"""Containers of other CPUs: an arm64 image on this host, through handlers of its own namespace."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.linux.interpreters import find_interpreter
from cove.linux.probe import probe_facts
from tests.driver import Cove, Done, front_path
from tests.shared import no_scenario

QEMU = find_interpreter("aarch64")
HANDLERS = Path("/proc/sys/fs/binfmt_misc")

pytestmark = [
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="needs a host that is not arm64"),
    pytest.mark.skipif(not probe_facts("/").binfmt, reason="needs Linux 6.7 with binfmt_misc"),
    pytest.mark.skipif(not QEMU, reason="needs qemu-user-static"),
    no_scenario(
        "the host's handlers of other CPUs' programs: a virtual machine has such a CPU itself, "
        "tests/vm/test_other_cpus.py"
    ),
]


@pytest.fixture(scope="module")
def arm(
    cove: Cove, other_busybox: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cove]:
    """A cove with image ``arm``: busybox for arm64, its applets, a user, this host's busybox."""
    root, tar = tmp_path_factory.mktemp("arm") / "root", tmp_path_factory.mktemp("tar") / "arm.tar"
    for name in ("bin", "etc", "native", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(other_busybox, root / "bin/busybox")
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "native/busybox")
    for name, mode in (("locked", 0o111), ("suid", 0o4755)):
        shutil.copy(other_busybox, root / "bin" / name)
        (root / "bin" / name).chmod(mode)
    listed = subprocess.run([QEMU, other_busybox, "--list"], stdout=subprocess.PIPE, check=True)
    for applet in listed.stdout.decode().split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root::0:0::/:/bin/sh\nada:x:7:7::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nada:x:7:\n")
    (root / "bin/script").write_text('#!/bin/sh\necho "$0 $*"\n')
    (root / "bin/script").chmod(0o755)
    with tarfile.open(tar, "w") as archive:
        archive.add(root, ".")
    cove("image", "import", "--platform", "linux/arm64", "-c", "CMD uname -m", str(tar), "arm")
    yield cove
    cove("image", "rm", "-f", "arm")


def run(arm: Cove, *words: str, flags: tuple[str, ...] = (), code: int = 0) -> Done:
    return arm("run", "--rm", *flags, "arm", *words, code=code)


# ---- what people see ----


def test_its_programs_run_and_it_is_said_that_they_are_emulated(arm: Cove) -> None:
    done = run(arm)
    assert done.out == "aarch64\n"
    assert done.err == "cove: note: arm is emulated: linux/arm64 by qemu-aarch64 on x86_64\n"


def test_a_platform_that_is_asked_for(arm: Cove) -> None:
    assert run(arm, "uname", "-m", flags=("--platform", "linux/arm64")).out == "aarch64\n"
    done = run(arm, flags=("--platform", "linux/amd64", "--pull", "never"), code=125)
    assert "cannot run arm as linux/amd64: it is an image for linux/arm64" in done.err


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exit_codes(arm: Cove, code: int) -> None:
    run(arm, "sh", "-c", f"exit {code}", code=code)


def test_a_command_that_is_not_there(arm: Cove) -> None:
    assert 'cannot run "nope": no such file' in run(arm, "nope", code=127).err


def test_a_program_killed_by_a_signal(arm: Cove) -> None:
    run(arm, "sh", "-c", "sh -c 'kill -SEGV $$'; exit $?", code=139)


def test_signals_reach_it(arm: Cove) -> None:
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with arm.spawn("run", "--rm", "arm", "sh", "-c", script) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.terminate()
        assert running.communicate(timeout=180)[0] == b"caught\n"
    assert running.returncode == 3


def test_its_own_argv0_scripts_and_programs_of_this_host_in_it(arm: Cove) -> None:
    script = "script a b; (exec -a false /bin/busybox); echo $?"
    assert run(arm, "sh", "-c", script).out == "/bin/script a b\n1\n"
    assert run(arm, "/native/busybox", "uname", "-m").out == "x86_64\n"


def test_a_program_that_may_be_run_but_not_read(arm: Cove) -> None:
    assert run(arm, "sh", "-c", "exec -a id /bin/locked", flags=("-u", "ada")).out.startswith(
        "uid=7(ada) gid=7(ada)"
    )


def test_input_and_output(arm: Cove) -> None:
    text = "x" * 300_000
    assert arm("run", "--rm", "-i", "arm", "cat", stdin=text).out == text


def test_a_terminal(arm: Cove) -> None:
    ours, theirs = pty.openpty()
    front = [str(front_path()), "run", "--rm", "-it", "arm", "sh", "-c", "tty; uname -m"]
    with subprocess.Popen(front, env=arm.env, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        seen = b""
        try:
            while data := os.read(ours, 4096):
                seen += data
        except OSError:  # the last one has closed it
            pass
    os.close(ours)
    assert child.returncode == 0
    assert b"/dev/pts/0\r\naarch64\r\n" in seen


def test_exec_inspect_and_init(arm: Cove) -> None:
    arm("run", "-d", "--name", "sleeper", "--init", "arm", "sleep", "1000")
    try:
        assert arm("exec", "sleeper", "uname", "-m").out == "aarch64\n"
        assert arm("exec", "-u", "ada", "sleeper", "id", "-un").out == "ada\n"
        arm("exec", "sleeper", "sh", "-c", "exit 9", code=9)
        found = arm.inspect("sleeper")
        assert found["Emulation"] == "linux/arm64 by qemu-aarch64 on x86_64"
    finally:
        arm("rm", "-f", "sleeper")


def test_what_is_made_without_a_foreground_answers_the_note(arm: Cove) -> None:
    for words in (("create",), ("run", "-d")):
        done = arm(*words, "--name", "noted", "arm", "true")
        assert done.err.startswith("cove: note: arm is emulated: ")
        arm("rm", "-f", "noted")
    assert arm("run", "--rm", "bb", "true").err == ""


def test_info_says_what_can_be_emulated(arm: Cove) -> None:
    line = next(x for x in arm("info").out.splitlines() if x.startswith("emulates:"))
    assert "linux/arm64" in line and "linux/amd64" not in line
    assert "linux/arm64" in arm("info", "--format", "{{.EmulatedPlatforms}}").out


def test_it_starts_again_and_after_a_daemon_that_was_killed(arm: Cove) -> None:
    arm("run", "--name", "again", "arm", "uname", "-m")
    assert arm("start", "-a", "again").out == "aarch64\n"
    arm("rm", "again")


# ---- walls ----


def test_nothing_of_the_host_changes(arm: Cove) -> None:
    """The handlers are the machine's: the host has none, and another machine neither."""
    before = sorted(os.listdir(HANDLERS))
    arm("run", "-d", "--name", "sleeper", "arm", "sleep", "1000")
    try:
        assert sorted(os.listdir(HANDLERS)) == before
        arm("cp", "sleeper:/bin/busybox", "/tmp/cove-arm-busybox")
        mount = ("-v", "/tmp/cove-arm-busybox:/arm:ro")
        done = arm("run", "--rm", *mount, "bb", "sh", "-c", "/arm uname -m", code=None)
        assert done.returncode != 0 and "aarch64" not in done.out
    finally:
        arm("rm", "-f", "sleeper")
        Path("/tmp/cove-arm-busybox").unlink(missing_ok=True)


def test_the_emulator_is_not_in_the_machine_and_cannot_be_written(arm: Cove) -> None:
    before = Path(QEMU).stat()
    script = f"ls {QEMU}; /native/busybox sh -c 'echo x >>/proc/1/exe; echo x >/proc/1/exe'; exit 3"
    done = run(arm, "sh", "-c", script, code=3)
    assert "No such file" in done.err
    assert done.err.count("create /proc/1/exe: ") == 2
    assert "Permission denied" in done.err, "root in it does not own the host's file"
    assert "Read-only file system" in done.err, "and if it did: its mount is read-only"
    assert Path(QEMU).stat().st_mtime_ns == before.st_mtime_ns


ADMIN = ("--cap-add", "ALL", "--security-opt", "seccomp=unconfined")


def test_the_handlers_cannot_be_reached(arm: Cove) -> None:
    script = "ls /proc/sys/fs/binfmt_misc; ls /dev | grep register; mount -t binfmt_misc x /tmp"
    done = run(arm, "sh", "-c", script, code=1)
    assert done.out == ""
    assert "permission denied" in done.err


def test_who_may_mount_finds_them_read_only(arm: Cove) -> None:
    """All capabilities are of the machine's own namespace, and so are these handlers."""
    done = run(
        arm, "sh", "-c", "umount -l /dev; ls /dev; echo x >/dev/register", flags=ADMIN, code=1
    )
    assert done.out.split() == ["qemu-aarch64", "register", "status"]
    assert "Read-only file system" in done.err


def test_a_handler_of_the_machine_s_own_stays_in_it(arm: Cove) -> None:
    script = (
        "mkdir /m && mount -t binfmt_misc x /m && "
        "echo ':evil:E::evil::/bin/busybox:F' >/m/register && ls /m"
    )
    before = sorted(os.listdir(HANDLERS))
    assert "evil" in run(arm, "sh", "-c", script, flags=ADMIN).out.split()
    assert sorted(os.listdir(HANDLERS)) == before


@pytest.mark.parametrize("flag", ["--privileged", "--userns=host"])
def test_not_with_the_host_s_user_namespace(arm: Cove, flag: str) -> None:
    done = run(arm, "true", flags=(flag,), code=125)
    assert "without a user namespace of its own a machine would change" in done.err
    assert f"from: {flag}" in done.err


def test_the_filter_holds(arm: Cove) -> None:
    """The system calls are QEMU's own, of the host's CPU: the host's filter is the right one."""
    done = run(arm, "sh", "-c", "mount -t tmpfs x /tmp", code=1)
    assert "seccomp refused: mount" in done.err or "permission denied" in done.err


def test_set_user_id_programs(arm: Cove) -> None:
    """Only where they were asked for; then they are what they are."""
    words = ("sh", "-c", "exec -a su /bin/suid root -c 'id -u'")
    user = ("-u", "ada")
    assert "must be suid" in run(arm, *words, flags=user, code=1).err
    asked = ("--security-opt", "no-new-privileges=false")
    assert run(arm, *words, flags=(*user, *asked)).out == "0\n"


def test_nothing_is_left(arm: Cove) -> None:
    for _ in range(3):
        run(arm)
    mounts = Path("/proc/self/mountinfo").read_text()
    assert " - binfmt_misc " not in mounts or HANDLERS.joinpath("status").exists()


def test_the_plan_says_it(arm: Cove) -> None:
    plan = arm("plan", "arm", "true").out
    assert f":{QEMU}:POF" in plan
    assert "makes system calls of the host's own CPU" in plan
    assert "binfmt" not in arm("plan", "bb", "true").out
