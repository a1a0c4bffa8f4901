"""Ways to the host that once worked, or that others' engines had; each tried for real."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.driver import Cove, busybox_tar
from tests.shared import container_only

EVIL_COMM = "\x1b]0;own\x07\nx"

# CVE-2024-21626 by argv[0]: program, script and interpreter are opened before close-on-exec closes


@pytest.fixture
def host_only(probe: Path) -> Path:
    """A program of the host's that every user may run, in no image; without its leading slash."""
    place = Path(f"/tmp/cove-host-only-{os.getpid()}")
    place.write_bytes(probe.read_bytes())
    place.chmod(0o755)
    return place


def climbs(host_only: Path) -> list[str]:
    return [f"/proc/self/fd/{fd}" + "/.." * 9 + str(host_only) for fd in range(3, 48)]


def test_a_command_through_a_descriptor_of_the_launcher_is_no_program_of_the_host(
    cove: Cove, host_only: Path, tmp_path: Path
) -> None:
    """One start for each number."""
    try:
        # The agent's lead to its own initial file system, and each start takes a second.
        bind = ("-v", f"{tmp_path}:/data") if cove.isolation == "container" else ()
        for path in climbs(host_only)[: 28 if bind else 8]:
            done = cove("run", "--rm", *bind, "bb", path, "fds", code=None)
            assert done.returncode in (126, 127), f"{path}: {done.out}"
    finally:
        host_only.unlink()


def test_exec_through_a_descriptor_is_no_program_of_the_host(cove: Cove, host_only: Path) -> None:
    cove("run", "-d", "--name", "climb", "bb", "sleep", "1000")
    try:
        for path in climbs(host_only)[:28]:
            done = cove("exec", "climb", path, "fds", code=None)
            assert done.returncode in (126, 127), f"{path}: {done.out}"
    finally:
        host_only.unlink()
        cove("rm", "-f", "climb")


def test_a_script_whose_interpreter_is_a_descriptor_is_no_program_of_the_host(
    cove: Cove, host_only: Path, tmp_path: Path
) -> None:
    root = tmp_path / "r"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", busybox_tar(tmp_path / "b.tar")], check=True)
    for number, path in enumerate(climbs(host_only)[:28]):
        script = root / f"bin/s{number}"
        script.write_text(f"#!{path} fds\n")
        script.chmod(0o755)
    subprocess.run(["tar", "-C", root, "-cf", tmp_path / "r.tar", "."], check=True)
    cove("image", "import", str(tmp_path / "r.tar"), "scripts")
    try:
        for number in range(28 if cove.isolation == "container" else 8):
            done = cove("run", "--rm", "scripts", f"s{number}", code=None)
            assert done.returncode in (126, 127), f"s{number}: {done.out}"
    finally:
        host_only.unlink()
        cove("image", "rm", "-f", "scripts")


# what other users of the host can read: environments are in the records


def test_no_other_user_of_the_host_can_read_the_records(cove: Cove) -> None:
    cove("run", "--rm", "-e", "TOKEN=of-a-machine", "bb", "true")
    open_to_all = []
    for directory, _, names in os.walk(cove.root):
        if directory != str(cove.root) and os.lstat(directory).st_mode & 0o001 == 0:
            continue
        for name in names:
            mode = os.lstat(f"{directory}/{name}").st_mode
            if stat.S_ISREG(mode) and mode & 0o077 and name != "format":
                open_to_all.append(f"{directory}/{name} {mode:o}")
        if directory != str(cove.root):
            continue
        below = [d for d in os.listdir(directory) if os.path.isdir(f"{directory}/{d}")]
        assert all(os.lstat(f"{directory}/{d}").st_mode & 0o077 == 0 for d in below)
        break
    assert open_to_all == []


# /etc/hosts is a file of the host's disk, outside of the writable layer


@container_only(
    "a virtual machine's storage limit is the size of its disk, tests/vm/test_causes.py"
)
@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
def test_a_generated_file_counts_as_written_by_the_machine(cove: Cove, name: str) -> None:
    script = f"dd if=/dev/zero of=/etc/{name} bs=1M count=8; sleep 30; echo survived"
    done = cove("run", "--rm", "--storage-opt", "size=2m", "bb", "sh", "-c", script, code=None)
    assert done.returncode == 137 and "storage limit" in done.err, done.err
    assert "survived" not in done.out


@container_only(
    "a virtual machine's storage limit is the size of its disk, tests/vm/test_causes.py"
)
def test_a_file_without_name_and_descriptor_counts_as_written(cove: Cove) -> None:
    words = ("--storage-opt", "size=8m", "bb", "probe", "hide", "32", "30")
    done = cove("run", "--rm", *words, code=None)
    assert done.returncode == 137 and "storage limit" in done.err, done.err


# names that processes give themselves: from the kernel's log they come into our words


def test_the_name_of_a_process_that_ran_out_of_memory_is_shown_escaped(cove: Cove) -> None:
    done = cove("run", "--rm", "-m", "16m", "bb", "probe", "hog", "64", EVIL_COMM, code=137)
    assert "out of memory: \\x1b]0;own\\x07" in done.err, done.err
    assert "\x1b" not in done.err
    assert len(done.err.splitlines()) == 1


# --cap-add SYS_ADMIN takes masks away, and no more: what lies below is the host root's


@container_only("root of a guest is root of the guest's own kernel")
@pytest.mark.parametrize("flags", [("--cap-add", "SYS_ADMIN"), ("--cap-add", "ALL")])
def test_without_masks_the_hosts_kernel_is_still_not_to_be_written(
    cove: Cove, flags: tuple[str, ...]
) -> None:
    script = """
    umount /proc/sys; umount /proc/irq; umount /proc/bus; mount -o remount,bind,rw /sys
    mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c || mount -t cgroup2 c /tmp/c
    for f in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sysrq-trigger \
        /proc/sys/vm/drop_caches /sys/kernel/uevent_helper /sys/power/state \
        /tmp/c/release_agent /tmp/c/memory.limit_in_bytes /tmp/c/memory.max /tmp/c/cgroup.kill \
        /tmp/c/cgroup.procs; do
        probe write $f
    done
    mkdir /tmp/c/mine && echo made
    for t in debugfs tracefs devtmpfs securityfs; do probe mount $t /mnt $t; done
    probe mknod /tmp/disk 8 0
    """
    words = ("--rm", *flags, "--security-opt", "seccomp=unconfined", "bb", "sh", "-c", script)
    got = cove("run", *words, code=None).out.split()
    assert len(got) == 16 and set(got) <= {"EACCES", "EPERM", "EROFS", "ENOENT", "ENODEV"}, got


# CVE-2019-10063: a filter that reads 64 bits where the kernel reads 32


def test_high_bits_change_no_verdict(cove: Cove) -> None:
    tries = {
        "ioctl TIOCSTI": "16 0 0x100005412 1",
        "ioctl TIOCLINUX": "16 0 0x7fffffff0000541c 1",
        "socket AF_ALG": "41 0x100000026 5 0",
        "clone NEWUSER": "56 0x4000000010000011 0",
        "unshare NEWUSER": "272 0x110000000",
        "personality": "135 0x100040000",
    }
    script = "".join(f"probe syscall {words}; " for words in tries.values())
    got = cove("run", "--rm", "bb", "sh", "-c", script).out.split()
    assert dict(zip(tries, got, strict=True)) == dict.fromkeys(tries, "EPERM")


def test_x32_calls_do_not_exist(cove: Cove) -> None:
    script = "for n in 16 41 56 101 165 272 321 425; do probe syscall $((n + 0x40000000)) 0; done"
    assert set(cove("run", "--rm", "bb", "sh", "-c", script).out.split()) == {"ENOSYS"}


# what enters a machine is in its /proc until it has become the command


def test_exec_does_not_show_the_daemons_command_line(cove: Cove) -> None:
    cove("run", "-d", "--name", "watcher", "bb", "probe", "cmdlines", "2")
    try:
        while cove("exec", "watcher", "true", code=None).returncode == 0:
            pass
        seen = cove("logs", "watcher").out
        assert str(cove.root) not in seen and "cove.daemon" not in seen, seen
    finally:
        cove("rm", "-f", "watcher")
