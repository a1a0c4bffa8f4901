"""Ten ways out of a container, each tried for real from inside; none gets out."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.driver import Cove, busybox_tar


def probe(cove: Cove, *words: str, flags: tuple[str, ...] = ()) -> str:
    return cove("run", "--rm", *flags, "bb", "probe", *words).out.strip()


# CVE-2019-5736: the runtime's own binary, reached by /proc/self/exe, overwritten


def test_proc_self_exe_of_the_runtime_cannot_be_overwritten(cove: Cove) -> None:
    init = Path(__file__).resolve().parents[2] / "cove/_native/cove-init"
    before = init.read_bytes()
    cove("run", "-d", "--name", "exe", "--init", "bb", "sleep", "1000")
    try:
        # PID 1 is the launcher's own program: its exe must not open for writing
        for target in ("/proc/1/exe", "/proc/self/exe"):
            assert cove("exec", "exe", "probe", "write", target).out.strip() in {
                "EACCES",
                "ETXTBSY",
                "EPERM",
                "EROFS",
            }
        cove("exec", "exe", "sh", "-c", "cat /bin/busybox > /proc/1/exe", code=None)
    finally:
        cove("rm", "-f", "exe")
    assert init.read_bytes() == before


def test_an_image_whose_shell_is_a_link_to_proc_self_exe_runs_nothing_of_ours(
    cove: Cove, tmp_path: Path
) -> None:
    root = tmp_path / "r"
    (root / "bin").mkdir(parents=True)
    (root / "bin/sh").symlink_to("/proc/self/exe")
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "r.tar", "."], check=True)
    cove("image", "import", str(tmp_path / "r.tar"), "selfexe")
    done = cove("run", "--rm", "selfexe", "/bin/sh", "version", code=None)
    assert "cove" not in done.out, "the launcher ran itself inside the machine"


# CVE-2024-21626: a leaked descriptor, and a working directory of /proc/self/fd/N


def test_no_descriptor_leaks_in(cove: Cove) -> None:
    for line in probe(cove, "fds").splitlines():
        number, _, target = line.partition(" ")
        assert int(number) <= 2, line
        assert target == "/dev/null" or target.startswith(("pipe:", "socket:")), line


@pytest.mark.parametrize("fd", range(3, 20))
def test_a_working_directory_through_a_descriptor_is_no_way_out(cove: Cove, fd: int) -> None:
    done = cove("run", "--rm", "-w", f"/proc/self/fd/{fd}", "bb", "pwd", code=None)
    assert done.returncode != 0 or not done.out.startswith("/proc"), done.out


def test_exec_with_a_descriptor_as_working_directory(cove: Cove) -> None:
    cove("run", "-d", "--name", "cwd", "bb", "sleep", "1000")
    try:
        for fd in range(3, 16):
            done = cove("exec", "-w", f"/proc/self/fd/{fd}", "cwd", "ls", "../../..", code=None)
            assert "cove.db" not in done.out
    finally:
        cove("rm", "-f", "cwd")


# images whose /dev, /dev/null, /dev/console, /proc are links


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "dev/null", "dev/console", "dev/pts"])
def test_a_mount_point_that_is_a_link_in_the_image_is_not_followed_out(
    cove: Cove, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = tmp_path / "r"
    subprocess.run(["mkdir", "-p", root], check=True)
    subprocess.run(["tar", "-C", root, "-xf", busybox_tar(tmp_path / "b.tar")], check=True)
    place = root / name
    if place.is_dir():
        place.rmdir()
    place.parent.mkdir(exist_ok=True)
    place.symlink_to("../../../../../../../../" + str(victim).lstrip("/"))
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "r.tar", "."], check=True)
    cove("image", "import", str(tmp_path / "r.tar"), "links")
    done = cove("run", "--rm", "links", "sh", "-c", "echo x > /dev/null; echo in", code=None)
    assert victim.read_text() == "untouched"
    if done.returncode:
        assert f"/{name.split('/')[0]}" in done.err, done.err
    cove("image", "rm", "-f", "links")


# masked paths and procfs writes


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/power/state",
    ],
)
def test_writing_to_the_kernel_through_proc_and_sys_is_refused(cove: Cove, path: str) -> None:
    assert probe(cove, "write", path) in {"EROFS", "EACCES", "EPERM", "ENOENT"}


def test_masked_files_are_empty(cove: Cove) -> None:
    script = "for f in /proc/kcore /proc/keys /proc/timer_list; do wc -c < $f 2>/dev/null; done"
    sizes = cove("run", "--rm", "bb", "sh", "-c", script).out.split()
    assert set(sizes) == {"0"}
    assert cove("run", "--rm", "bb", "sh", "-c", "ls /sys/firmware | wc -l").out.strip() == "0"


def test_masks_cannot_be_taken_off(cove: Cove) -> None:
    done = cove("run", "--rm", "bb", "sh", "-c", "umount /proc/kcore; umount -l /proc", code=None)
    assert done.returncode != 0


# CVE-2022-0492: release_agent in a cgroup file system mounted by oneself


def test_no_cgroup_file_system_can_be_mounted(cove: Cove) -> None:
    assert probe(cove, "mount", "cgroup", "/tmp", "cgroup") in {"EPERM", "EACCES"}
    assert probe(cove, "mount", "cgroup2", "/tmp", "cgroup2") in {"EPERM", "EACCES"}
    assert probe(cove, "unshare", "0x12000000") == "EPERM"  # NEWUSER | NEWCGROUP
    assert probe(cove, "unshare", "0x10020000") == "EPERM"  # NEWUSER | NEWNS


def test_devices_cannot_be_made(cove: Cove) -> None:
    assert probe(cove, "mknod", "/tmp/disk", "8", "0") == "EPERM"
    allowed = cove("run", "--rm", "--cap-add", "MKNOD", "bb", "probe", "mknod", "/tmp/d", "8", "0")
    assert allowed.out.strip() == "EPERM"


def test_a_chroot_is_no_way_up(cove: Cove, tmp_path: Path) -> None:
    marker = Path("/tmp/host-marker")
    marker.write_text("host")
    try:
        assert probe(cove, "chroot-escape") in {"ENOENT", "EPERM"}
    finally:
        marker.unlink()


# TIOCSTI: characters pushed into the caller's terminal


def test_no_character_can_be_pushed_into_the_callers_terminal(cove: Cove) -> None:
    leader, follower = os.openpty()
    try:
        done = cove.spawn(
            "run", "--rm", "-i", "bb", "probe", "tiocsti", stdin=follower, stdout=subprocess.PIPE
        )
        out, _ = done.communicate(timeout=180)
        assert out.strip() in {b"ENOTTY", b"EPERM", b"EIO", b"EINVAL"}
    finally:
        os.close(leader)
        os.close(follower)


# the 32-bit gate to system calls that the 64-bit filter refuses


def test_the_32_bit_gate_opens_nothing(cove: Cove) -> None:
    newuser = str(0x10000000)
    calls = {"add_key": 286, "keyctl": 288, "socketcall": 102, "unshare": 310, "mount": 21}
    for name, number in calls.items():
        got = probe(cove, "int80", str(number), newuser, "0")
        assert got in {"EPERM", "ENOSYS"}, f"i386 {name}: {got}"


def test_calls_that_have_no_place_in_a_container_are_refused(cove: Cove) -> None:
    io_uring_setup, bpf, userfaultfd, clone3, kexec = 425, 321, 323, 435, 246
    for number in (io_uring_setup, bpf, userfaultfd, clone3, kexec):
        assert probe(cove, "syscall", str(number), "1", "0") in {"EPERM", "ENOSYS"}, number
    assert probe(cove, "socket", "38", "5", "0") in {"EPERM", "EAFNOSUPPORT"}  # AF_ALG
    assert probe(cove, "socket", "40", "1", "0") in {"EPERM", "EAFNOSUPPORT"}  # AF_VSOCK
    assert probe(cove, "socket", "2", "1", "0") == "ok"


# a fork bomb and a memory hog, with a neighbour that must stay responsive


def test_a_fork_bomb_and_a_memory_hog_leave_the_neighbour_alone(cove: Cove) -> None:
    cove("run", "-d", "--name", "neighbour", "bb", "sleep", "1000")
    try:
        bomb = cove.spawn("run", "--rm", "--pids-limit", "100", "bb", "probe", "bomb", "5000")
        hog = cove.spawn("run", "--rm", "-m", "32m", "bb", "probe", "hog", "2000")
        for _ in range(10):
            assert cove("exec", "neighbour", "echo", "here", timeout=120).out == "here\n"
        out, err = bomb.communicate(timeout=180)
        assert int(out.split()[0]) < 100
        out, err = hog.communicate(timeout=180)
        assert hog.returncode == 137
        assert b"out of memory" in err
        assert b"survived" not in out
    finally:
        cove("rm", "-f", "neighbour")


# escape sequences in names, labels and logs

EVIL = "\x1b]0;owned\x07\x1b[2J"


def test_names_with_escape_sequences_are_refused_and_shown_escaped(cove: Cove) -> None:
    done = cove("run", "--name", EVIL, "bb", "true", code=125)
    assert "\x1b" not in done.err
    done = cove("run", "--rm", EVIL, "true", code=125)
    assert "\x1b" not in done.err
    done = cove("run", "--rm", "bb", "/bin/" + EVIL, code=127)
    assert "\x1b" not in done.err


def test_commands_and_labels_with_escape_sequences_are_listed_escaped(cove: Cove) -> None:
    cove(
        "run",
        "-d",
        "--name",
        "esc",
        "--label",
        f"l={EVIL}",
        "bb",
        "sh",
        "-c",
        f"sleep 100 # {EVIL}",
    )
    try:
        for words in (
            ("ps",),
            ("ps", "--no-trunc"),
            ("ps", "--format", "{{.Labels}} {{.Command}}"),
        ):
            assert "\x1b" not in cove(*words).out
        assert "\x1b" not in cove("inspect", "esc").out
    finally:
        cove("rm", "-f", "esc")


def test_logs_are_kept_as_they_are(cove: Cove) -> None:
    cove("run", "--name", "esclog", "bb", "printf", "\\033[2Jraw")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if cove("logs", "esclog").out == "\x1b[2Jraw":
            break
    assert cove("logs", "esclog").out == "\x1b[2Jraw"
    cove("rm", "esclog")
