"""Why a virtual machine ended is told by what really happened, each made to happen here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import open_cove
from tests.driver import ROOT, Cove, wait_until
from tests.leaks import group_name
from tests.shared import give_trial
from tests.vm.kernels import elf

VM = ("--isolation", "vm")


def emulator_of(cove: Cove, machine: str) -> int:
    """Its process, as the host knows it."""
    directory = Path("/sys/fs/cgroup") / cove.inspect(machine)["CgroupPath"].lstrip("/")
    for pid in processes_of(cove, machine, directory):
        if os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("qemu-system-"):
            return pid
    raise AssertionError(f"no emulator in {directory}")


def processes_of(cove: Cove, machine: str, directory: Path) -> list[int]:
    """By the group's file, whose place depends on the host's hierarchies."""
    name = directory.name
    for base in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        for group in (base / group_name(cove.root) / name, base / name):
            if (group / "cgroup.procs").exists():
                return [int(word) for word in (group / "cgroup.procs").read_text().split()]
    raise AssertionError(f"no group {name} of {machine}")


def up(cove: Cove, *words: str, flags: tuple[str, ...] = ()) -> str:
    return cove("run", "-d", *VM, *flags, "bb", *words).out.strip()


def ended(cove: Cove, machine: str) -> dict[str, object]:
    """Its state after its end."""
    cove("wait", machine)
    found: dict[str, object] = cove.inspect(machine)["State"]
    return found


def test_out_of_memory_in_the_guest(cove: Cove) -> None:
    script = "a=x; while :; do a=$a$a$a$a; done"
    done = cove("run", "--rm", *VM, "--memory", "32m", "bb", "sh", "-c", script, code=137)
    assert done.err.startswith("cove: out of memory: sh (pid "), done.err
    assert done.err.endswith(" of 32 MiB\n")


def test_a_fork_bomb_meets_the_pids_limit(cove: Cove) -> None:
    script = "i=0; while [ $i -lt 40 ]; do sleep 100 & i=$((i+1)); done"
    done = cove("run", "--rm", *VM, "--pids-limit", "10", "bb", "sh", "-c", script, code=2)
    assert "cove: pids limit: fork was refused" in done.err
    assert "at 10 processes" in done.err


def test_a_guest_kernel_that_panics(cove: Cove) -> None:
    script = "echo 2 > /proc/sys/vm/panic_on_oom; a=x; while :; do a=$a$a$a$a; done"
    machine = up(cove, "sh", "-c", script, flags=("--privileged", "--memory", "32m"))
    state = ended(cove, machine)
    assert state["ExitCode"] == 137
    assert str(state["Cause"]).startswith("guest kernel panic: Out of memory"), state
    cove("rm", machine)


def test_an_emulator_that_is_killed(cove: Cove) -> None:
    machine = up(cove, "sleep", "1000")
    os.kill(emulator_of(cove, machine), signal.SIGKILL)
    state = ended(cove, machine)
    assert state["ExitCode"] == 137
    assert state["Cause"] == "its emulator ended, and the virtual machine with it"
    name = cove.inspect(machine)["Name"].strip("/")
    told = f"cove: a program in the guest of {name}: channel 1: the port: Broken pipe\n"
    assert told in (cove.root / "run/daemon.log").read_text()
    cove("start", machine)
    assert cove("exec", machine, "echo", "again").out == "again\n"
    cove("rm", "-f", machine)


def test_a_guest_that_never_greets(bb_tar: Path, tmp_path: Path) -> None:
    """Its kernel turns in a circle from its first instruction on."""
    (tmp_path / "vmlinux").write_bytes(elf(code=b"\xfa\xeb\xfe"))
    with open_cove(bb_tar) as cove:
        cove.stop_daemon()
        cove.env |= {"COVE_VM_PATIENCE": "3", "COVE_VM_POOL": "0"}
        give_trial(cove)
        drivers = ("--config", str(ROOT / "cove/vm/fast-x86_64.config"))
        cove("kernel", "add", "--name", "circle", *drivers, str(tmp_path / "vmlinux"))
        for flags in ("--rm",), ("-d", "--name", "kept"):
            done = cove("run", *flags, *VM, "bb", "true", code=125)
            assert "its guest did not answer within 3 s" in done.err, done.err
        assert cove.inspect("kept")["State"]["Status"] == "created"
        assert cove("rm", "kept").out == "kept\n"


def test_an_emulator_that_hangs_can_be_ended(cove: Cove) -> None:
    """Nothing in the guest goes on: SIGSTOP to the emulator is what a hung guest looks like."""
    machine = up(cove, "sleep", "1000")
    os.kill(emulator_of(cove, machine), signal.SIGSTOP)
    cove("stats", "--no-stream", machine)
    assert "does not answer" in cove("top", machine, code=1).err
    cove("stop", "-t", "1", machine)
    state = cove.inspect(machine)["State"]
    assert (state["ExitCode"], state["Running"]) == (137, False)
    assert state["Cause"] == "killed by SIGKILL (cove stop): its guest did not answer"
    cove("rm", machine)


def test_a_disk_that_is_full(cove: Cove) -> None:
    """The guest's own file system says so to whoever writes; the machine goes on."""
    script = (
        "dd if=/dev/zero of=/file bs=1M count=100 2>&1; echo $?; rm /file; echo ok > /f; cat /f"
    )
    flags = ("--storage-opt", "size=16m")
    done = cove("run", "--rm", *VM, *flags, "bb", "sh", "-c", script)
    assert "No space left on device" in done.out
    assert done.out.endswith("1\nok\n")


def test_an_emulator_that_does_not_start_says_why(cove: Cove) -> None:
    done = cove("run", "--rm", *VM, "--memory", "64t", "bb", "true", code=125)
    assert done.err.startswith(
        "cove: cannot start the virtual machine: its emulator ended: qemu-system-"
    )
    assert "Cannot allocate memory" in done.err
    assert "hint: the memory limit is too large for this host" in done.err


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_who_is_killed_in_the_guest_by_its_own(cove: Cove, sent: signal.Signals) -> None:
    script = f"trap - TERM; (sleep 1; kill -{int(sent)} $$) & exec sleep 100"
    machine = up(cove, "sh", "-c", script, flags=("--init",))
    state = ended(cove, machine)
    assert state["ExitCode"] == 128 + sent
    cove("rm", machine)


def test_a_jail_whose_first_process_is_killed(cove: Cove) -> None:
    """It carries the guest's channels: without it there is no machine."""
    machine = up(cove, "sleep", "1000")
    emulator = emulator_of(cove, machine)
    os.kill(int(cove.inspect(machine)["State"]["Pid"]), signal.SIGKILL)
    state = ended(cove, machine)
    assert state["ExitCode"] == 137
    wait_until(lambda: not Path(f"/proc/{emulator}").exists(), "the emulator is gone")
    cove("rm", machine)


def test_a_time_that_is_shorter_than_a_boot(cove: Cove) -> None:
    """As of a container that runs too long, although its program never began."""
    done = cove("run", "--rm", *VM, "--timeout", "0.001", "bb", "sleep", "1000", code=137)
    assert done.err.startswith("cove: timeout: "), done.err
    cove("run", "-d", "--name", "late", *VM, "--timeout", "0.001", "bb", "sleep", "1000")
    assert cove("wait", "late").out == "137\n"
    state = ended(cove, "late")
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert str(state["Cause"]).startswith("timeout: 0.001 s"), state
    cove("rm", "late")
