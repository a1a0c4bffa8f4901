"""Ten ways out of a machine, each tried for real from inside; none gets out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.driver import Cove, busybox_tar


def probe(cove: Cove, *words: str, flags: tuple[str, ...] = ()) -> str:
    return cove("run", "--rm", *flags, "bb", "probe", *words).out.strip()


def tries(cove: Cove, *verbs: str, flags: tuple[str, ...] = ()) -> list[str]:
    """What the probe says to each of them, in one machine."""
    script = "; ".join(f"probe {verb}" for verb in verbs)
    return cove("run", "--rm", *flags, "bb", "sh", "-c", script, code=None).out.split()


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


def test_a_working_directory_through_a_descriptor_is_no_way_out(cove: Cove) -> None:
    # What starts a guest's program has few descriptors; each start of a guest takes a second.
    for fd in range(3, 20 if cove.isolation == "container" else 9):
        done = cove("run", "--rm", "-w", f"/proc/self/fd/{fd}", "bb", "pwd", code=None)
        assert done.returncode != 0 or not done.out.startswith("/proc"), (fd, done.out)


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


KERNELS = (
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/fs/cgroup/release_agent",
    "/sys/power/state",
)


def test_writing_to_the_kernel_through_proc_and_sys_is_refused(cove: Cove) -> None:
    got = tries(cove, *(f"write {path}" for path in KERNELS))
    assert len(got) == len(KERNELS)
    assert set(got) <= {"EROFS", "EACCES", "EPERM", "ENOENT"}, got


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
    mounts = ("mount cgroup /tmp cgroup", "mount cgroup2 /tmp cgroup2")
    newuser_newcgroup, newuser_newns = "unshare 0x12000000", "unshare 0x10020000"
    one, two, *unshared = tries(cove, *mounts, newuser_newcgroup, newuser_newns)
    assert {one, two} <= {"EPERM", "EACCES"}
    assert unshared == ["EPERM", "EPERM"]


def test_devices_cannot_be_made(cove: Cove) -> None:
    assert probe(cove, "mknod", "/tmp/disk", "8", "0") == "EPERM"
    # Root of a guest is root of the guest's own kernel, whose disks are the machine's.
    expected = "EPERM" if cove.isolation == "container" else "ok"
    flags = ("--cap-add", "MKNOD")
    assert probe(cove, "mknod", "/tmp/d", "8", "0", flags=flags) == expected


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
    got = tries(cove, *(f"int80 {number} {newuser} 0" for number in calls.values()))
    assert len(got) == len(calls)
    assert set(got) <= {"EPERM", "ENOSYS"}, dict(zip(calls, got, strict=True))


def test_calls_that_have_no_place_in_a_container_are_refused(cove: Cove) -> None:
    io_uring_setup, bpf, userfaultfd, clone3, kexec = 425, 321, 323, 435, 246
    numbers = (io_uring_setup, bpf, userfaultfd, clone3, kexec)
    af_alg, af_vsock, af_inet = "socket 38 5 0", "socket 40 1 0", "socket 2 1 0"
    words = [f"syscall {number} 1 0" for number in numbers]
    *refused, alg, vsock, inet = tries(cove, *words, af_alg, af_vsock, af_inet)
    assert len(refused) == len(numbers) and set(refused) <= {"EPERM", "ENOSYS"}, refused
    assert {alg, vsock} <= {"EPERM", "EAFNOSUPPORT"}
    assert inet == "ok"


# a fork bomb and a memory hog, with a neighbour that must stay responsive


def test_a_fork_bomb_and_a_memory_hog_leave_the_neighbour_alone(cove: Cove) -> None:
    cove("run", "-d", "--name", "neighbour", "bb", "sleep", "1000")
    try:
        bomb = cove.spawn("run", "--rm", "--pids-limit", "100", "bb", "probe", "bomb", "5000")
        hog = cove.spawn("run", "--rm", "-m", "32m", "bb", "probe", "hog", "200")
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
    assert cove("logs", "esclog").out == "\x1b[2Jraw"
    cove("rm", "esclog")
