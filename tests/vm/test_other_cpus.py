"""A virtual machine of another CPU than this host's: the scenarios of one of its own, word for
word, with an image and a kernel for that CPU; and what is refused by name.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.plan.flags import CloneFlags
from cove.planner.seccomp.numbers import numbers
from cove.planner.virtual.qemu import MACHINES, path_of
from tests.conftest import need, open_cove
from tests.driver import Cove, front_path, wait_until
from tests.foreign import OTHER, PLATFORM
from tests.vm.conftest import Stored, one_kernel, stock_kernel
from tests.vm.test_causes import (
    test_a_fork_bomb_meets_the_pids_limit,
    test_a_guest_kernel_that_panics,
    test_an_emulator_that_hangs_can_be_ended,
    test_an_emulator_that_is_killed,
)
from tests.vm.test_same_verbs import (
    Machine,
    terminal,
    test_a_daemon_that_is_killed_is_not_missed,
    test_a_large_file_is_copied_whole,
    test_a_terminal_has_a_size_and_follows_its_changes,
    test_attach_and_detach,
    test_cp_in_and_out,
    test_diff_export_and_commit,
    test_exec_as_a_user_in_a_directory_with_an_environment,
    test_exec_has_streams_and_an_exit_code,
    test_exec_of_what_is_not_there_is_127,
    test_exec_reads_input_to_its_end,
    test_exec_sees_the_machines_processes_and_no_others,
    test_inspect_tells_the_walls,
    test_kill_wait_and_start_again,
    test_logs_keep_both_streams,
    test_many_at_once,
    test_pause_and_unpause,
    test_plan_prints_what_run_would_do,
    test_rm_f_leaves_nothing,
    test_signals_reach_the_program,
    test_stats_count_the_machine,
    test_stop_ends_who_does_not,
    test_stop_lets_it_end_by_itself,
    test_top_shows_the_machines_processes,
    up,
)
from tests.vm.test_snapshots import (
    test_forks_know_what_only_the_machine_had_computed,
    test_processes_live_again_after_everything_was_removed,
)

# Collected here once more, with the fixtures of this file.
SCENARIOS = (
    test_a_daemon_that_is_killed_is_not_missed,
    test_a_fork_bomb_meets_the_pids_limit,
    test_a_guest_kernel_that_panics,
    test_a_large_file_is_copied_whole,
    test_a_terminal_has_a_size_and_follows_its_changes,
    test_an_emulator_that_hangs_can_be_ended,
    test_an_emulator_that_is_killed,
    test_attach_and_detach,
    test_cp_in_and_out,
    test_diff_export_and_commit,
    test_exec_as_a_user_in_a_directory_with_an_environment,
    test_exec_has_streams_and_an_exit_code,
    test_exec_of_what_is_not_there_is_127,
    test_exec_reads_input_to_its_end,
    test_exec_sees_the_machines_processes_and_no_others,
    test_forks_know_what_only_the_machine_had_computed,
    test_inspect_tells_the_walls,
    test_kill_wait_and_start_again,
    test_logs_keep_both_streams,
    test_many_at_once,
    test_pause_and_unpause,
    test_plan_prints_what_run_would_do,
    test_processes_live_again_after_everything_was_removed,
    test_rm_f_leaves_nothing,
    test_signals_reach_the_program,
    test_stats_count_the_machine,
    test_stop_ends_who_does_not,
    test_stop_lets_it_end_by_itself,
    test_top_shows_the_machines_processes,
    up,
)

VM = ("run", "--rm", "--isolation", "vm")
NAME = PLATFORM.removeprefix("linux/")
SAID = f"{PLATFORM} by qemu-system-{OTHER} on {os.uname().machine}"


def give_kernel(cove: Cove, stored: Stored) -> None:
    name = stored.kernel.name
    source = Path(stored.kernels.layout.kernels) / name
    shutil.copytree(source, cove.root / "kernels" / name)


@pytest.fixture(scope="module")
def other_kernel() -> Stored:
    need(f"qemu-system-{OTHER}")
    return stock_kernel(OTHER)


@pytest.fixture(scope="module")
def cove(bb_tar: Path, other_tar: Path, other_kernel: Stored) -> Iterator[Cove]:
    """Image ``bb`` is for the other CPU, ``own`` for this one; there are kernels for both."""
    need("mkfs.erofs")
    with open_cove(bb_tar) as driver:
        driver("image", "tag", "bb", "own")
        driver("image", "import", "--platform", PLATFORM, str(other_tar), "bb")
        give_kernel(driver, other_kernel)
        give_kernel(driver, one_kernel())
        first = driver(
            *VM, "bb", "true", timeout=300
        )  # with Zig it takes the better part of a minute
        assert first.err.endswith(
            f"cove: note: the agent of {OTHER} guests is built first, this once\n"
        )
        yield driver


@pytest.fixture(scope="module")
def isolation() -> str:
    return "vm"


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Names that a scenario leaves to its fixture are free for the next one."""
    yield
    if "cove" in request.fixturenames:
        driver = request.getfixturevalue("cove")
        driver("rm", "-f", "origin", "origin-1", "origin-2", "origin-3", "grandchild", code=None)
        if found := driver("snapshot", "ls", "-q").out.split():
            driver("snapshot", "rm", *found)


def test_it_is_another_cpu_and_it_is_said_once(cove: Cove, other_kernel: Stored) -> None:
    done = cove(*VM, "bb", "uname", "-mr")
    assert done.out == f"{other_kernel.kernel.version} {OTHER}\n"
    assert done.err == f"cove: note: bb is emulated: {SAID}\n"


def test_by_the_platform_that_is_asked_for(cove: Cove) -> None:
    assert cove(*VM, "--platform", PLATFORM, "bb", "uname", "-m").out == f"{OTHER}\n"
    done = cove(*VM, "--platform", PLATFORM, "--pull", "never", "own", "true", code=125)
    assert f"cannot run own as {PLATFORM}: it is an image for linux/" in done.err


def test_machines_of_both_cpus_beside_each_other(cove: Cove) -> None:
    """Also when there are templates: none is cloned for the other's image."""
    for _ in range(3):
        assert cove(*VM, "bb", "uname", "-m").out == f"{OTHER}\n"
        own = cove(*VM, "own", "uname", "-m")
        assert (own.out, own.err) == (f"{os.uname().machine}\n", "")


def test_inspect_and_info_say_it(cove: Cove) -> None:
    name = cove("create", "--isolation", "vm", "bb", "true").out.strip()
    try:
        found = cove.inspect(name)
        assert found["Emulation"] == SAID
        assert "emulated by QEMU (TCG), no wall by itself" in found["Walls"][0]
    finally:
        cove("rm", name)
    (guests,) = json.loads(cove("info", "--format", "{{json .EmulatedGuests}}").out)
    assert guests.startswith(f"{PLATFORM}: QEMU ") and "guest kernel" in guests
    assert f"emulates in vms: {' ' * 0}" in cove("info").out


def test_two_cpus_and_their_share(cove: Cove) -> None:
    done = cove(*VM, "--cpus", "2", "bb", "sh", "-c", "nproc; cat /sys/fs/cgroup/cpu.max")
    assert done.out == "2\n200000 100000\n"


def test_the_walls_hold_in_it(cove: Cove) -> None:
    """The filter is of the guest's CPU, not of this host's."""
    script = "grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/self/status; mount -t tmpfs x /mnt"
    done = cove(*VM, "bb", "sh", "-c", script, code=None)
    own = cove(*VM, "own", "sh", "-c", script, code=None)
    assert done.out == own.out and "Seccomp:\t2" in done.out
    assert done.returncode == own.returncode != 0


def test_each_call_by_its_number_there(up: Machine, other_probe: Path) -> None:
    """Numbers of system calls differ from CPU to CPU: an allow-list of the wrong one has holes."""
    up.cove("cp", str(other_probe), f"{up.id}:/bin/probe")
    number = numbers(OTHER)
    new_user = str(int(CloneFlags.CLONE_NEWUSER))
    for words, answer in (
        (("syscall", number["io_uring_setup"]), "EPERM"),
        (("syscall", number["bpf"]), "EPERM"),
        (("syscall", number["kexec_load"]), "EPERM"),
        (("syscall", number["clone3"]), "ENOSYS"),
        (("syscall", 1000), "ENOSYS"),
        (("syscall", number["unshare"], new_user), "EPERM"),
        (("syscall", number["getuid"]), "ok"),
        (("socket", socket.AF_VSOCK, 1, 0), "EPERM"),
        (("socket", socket.AF_INET, 1, 0), "ok"),
    ):
        said = up.exec("/bin/probe", *map(str, words), code=None)
        assert said == f"{answer}\n", words


def test_a_clone_of_its_template(cove: Cove) -> None:
    """Made after the first boot, as one for this host's own CPU."""
    listed = ("template", "ls", "--no-trunc", "--format", "json")

    def mine() -> list[dict[str, str]]:
        rows = map(json.loads, cove(*listed).out.splitlines())
        return [row for row in rows if row["Arch"] == NAME]

    cove(*VM, "bb", "true")
    wait_until(lambda: ("1", "ready") in [(row["CPUs"], row["Status"]) for row in mine()], "one")
    name = cove("run", "-d", "--isolation", "vm", "bb", "sleep", "1000").out.strip()
    try:
        line = cove.inspect(name)["Emulator"]
        assert line[0] == path_of(OTHER) and "-incoming" in line
        assert cove("exec", name, "uname", "-m").out == f"{OTHER}\n"
    finally:
        cove("rm", "-f", name)


# ---- what is missing ----


def test_without_a_kernel_for_it(bb_tar: Path, other_tar: Path) -> None:
    need(f"qemu-system-{OTHER}")
    with open_cove(bb_tar) as driver:
        driver("image", "import", "--platform", PLATFORM, str(other_tar), "other")
        give_kernel(driver, one_kernel())
        done = driver(*VM, "other", "true", code=125)
        assert f"cannot make a virtual machine: there is no guest kernel for {OTHER}\n" in done.err
        assert f"hint: cove kernel fetch --platform {PLATFORM} takes" in done.err
        assert driver("ps", "-aq").out == ""
        said = driver("info", "--format", "{{json .EmulatedGuests}}").out
        assert f"{PLATFORM}: none: there is no guest kernel for {OTHER}" in said


def test_a_kernel_of_another_cpu_is_not_used(bb_tar: Path, other_kernel: Stored) -> None:
    with open_cove(bb_tar) as driver:
        give_kernel(driver, other_kernel)
        done = driver(*VM, "bb", "true", code=125)
        assert f"there is no guest kernel for {os.uname().machine}\n" in done.err


def test_an_image_for_which_there_are_no_guests(cove: Cove, other_tar: Path) -> None:
    cove("image", "import", "--platform", "linux/s390x", str(other_tar), "strange")
    done = cove("create", "--isolation", "vm", "strange", "true", code=125)
    assert "cannot run strange in a virtual machine: it is for linux/s390x, and" in done.err
    assert "there are guests for linux/amd64 and linux/arm64" in done.err
    assert "from: --isolation vm" in done.err
    assert cove("ps", "-aqf", "ancestor=strange").out == ""
    with terminal(cove, "run", "--rm", "-t", "--vm", "strange", "true") as seen:
        assert seen.end() == 125
        assert b"cannot run strange in a virtual machine: it is for linux/s390x" in seen.heard


def test_without_its_qemu(bb_tar: Path, other_tar: Path, other_kernel: Stored) -> None:
    """Where the program cannot be run, as if it were not there."""
    with open_cove(bb_tar) as driver:
        driver("image", "import", "--platform", PLATFORM, str(other_tar), "other")
        give_kernel(driver, other_kernel)
        driver("daemon", "stop")
        hide = f'mount --bind /dev/null {path_of(OTHER)} && "$@"; code=$?; "$1" daemon stop'
        ran = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{hide}; exit $code", "sh",
             front_path(), *VM, "other", "true"],
            env=driver.env, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 125, ran.stderr
        assert f"cannot make a virtual machine: there is no qemu-system-{OTHER}" in ran.stderr
        assert f"hint: apt-get install {MACHINES[OTHER].package}" in ran.stderr


STEPS = f"""\
FROM --platform={PLATFORM} bb
ARG TARGETARCH
RUN --mount=type=cache,target=/c --mount=type=bind,source=Dockerfile,target=/d \\
    test -e /d && touch /c/f && echo "$(uname -mr) $TARGETARCH" >/made
RUN test "$(uname -m)" = {OTHER} && echo again >>/made
"""


def test_steps_that_have_no_kernel(fresh_cove: Cove, other_tar: Path, tmp_path: Path) -> None:
    """It is said of the step, and what gets one."""
    fresh_cove("image", "import", "--platform", PLATFORM, str(other_tar), "bb")
    (tmp_path / "Dockerfile").write_text(STEPS)
    flags = ("--platform", PLATFORM, "--isolation", "vm", "--progress=plain")
    failed = fresh_cove("build", *flags, str(tmp_path), code=None)
    assert failed.returncode and "Dockerfile:3" in failed.err, failed.err
    assert NAME in failed.err and "cove kernel fetch" in failed.err
