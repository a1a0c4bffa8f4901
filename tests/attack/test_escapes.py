"""Ways to the host that once worked, or that others' engines had; each tried for real."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.driver import Cove, busybox_tar

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
        for path in climbs(host_only)[:28]:
            done = cove("run", "--rm", "-v", f"{tmp_path}:/data", "bb", path, "fds", code=None)
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
        for number in range(28):
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


@pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
def test_a_generated_file_counts_as_written_by_the_machine(cove: Cove, name: str) -> None:
    script = f"dd if=/dev/zero of=/etc/{name} bs=1M count=8; sleep 30; echo survived"
    done = cove("run", "--rm", "--storage-opt", "size=2m", "bb", "sh", "-c", script, code=None)
    assert done.returncode == 137 and "storage limit" in done.err, done.err
    assert "survived" not in done.out


# the names a machine's processes give themselves are in the kernel's log, and from there in our words


def test_the_name_of_a_process_that_ran_out_of_memory_is_shown_escaped(cove: Cove) -> None:
    done = cove("run", "--rm", "-m", "16m", "bb", "probe", "hog", "64", EVIL_COMM, code=137)
    assert "out of memory: \\x1b]0;own\\x07" in done.err, done.err
    assert "\x1b" not in done.err
    assert len(done.err.splitlines()) == 1
