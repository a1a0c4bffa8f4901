"""Why a machine ended, each from a real event: the last line of a foreground run, and inspect."""

from __future__ import annotations

import re

from tests.driver import Cove, Done
from tests.shared import container_only

EAT = ("tail", "/dev/zero")


def run(cove: Cove, *words: str, flags: tuple[str, ...] = (), code: int) -> Done:
    return cove("run", "--rm", *flags, "bb", *words, code=code)


def kept(cove: Cove, *words: str, flags: tuple[str, ...] = ()) -> dict[str, object]:
    """The state of a machine that has ended and is still there."""
    cove("run", "--name", "kept", *flags, "bb", *words, code=None)
    state: dict[str, object] = cove.inspect("kept")["State"]
    cove("rm", "kept")
    return state


def test_out_of_memory_names_the_process_and_the_amount(cove: Cove) -> None:
    done = run(cove, *EAT, flags=("-m", "32m"), code=137)
    line = r"cove: out of memory: tail \(pid \d+\) used 3\d(\.\d)? MiB of 32 MiB\n"
    assert re.fullmatch(line, done.err), done.err


def test_out_of_memory_of_a_child(cove: Cove) -> None:
    done = run(cove, "sh", "-c", "tail /dev/zero; exit 3", flags=("-m", "32m"), code=3)
    assert "cove: out of memory: tail" in done.err


def test_out_of_memory_is_in_inspect(cove: Cove) -> None:
    state = kept(cove, *EAT, flags=("-m", "32m"))
    assert state["OOMKilled"] is True
    assert "out of memory: tail" in str(state["Cause"])


def test_memory_up_to_the_limit_whatever_the_kernel_has(cove: Cove) -> None:
    """/proc/meminfo tells of the host's memory in one kind, in the other of the guest's."""
    take = "dd if=/dev/zero of=/dev/null count=1 bs="
    script = f"{take}40M && grep MemTotal: /proc/meminfo && {take}100M"
    flags = ("-m", "64m", "--memory-swap", "64m")
    done = run(cove, "sh", "-c", script, flags=flags, code=137)
    assert "cove: out of memory: dd (pid " in done.err
    assert int(done.out.split()[1]) > 128 << 10


def test_pids_limit(cove: Cove) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 9 & done; wait"
    done = run(cove, "sh", "-c", script, flags=("--pids-limit", "5"), code=2)
    assert re.search(r"cove: pids limit: fork was refused \d+ times? at 5 processes\n", done.err)


def test_timeout(cove: Cove) -> None:
    done = run(cove, "sleep", "1000", flags=("--timeout", "200ms"), code=137)
    early = "" if cove.isolation == "container" else "|0.2 s were over before its program began"
    assert re.fullmatch(f"cove: timeout: (it ran longer than 0.2 s{early})\n", done.err)


def test_timeout_of_a_detached_machine(cove: Cove) -> None:
    cove("run", "-d", "--name", "late", "--timeout", "200ms", "bb", "sleep", "1000")
    assert cove("wait", "late").out == "137\n"
    assert "timeout" in str(cove.inspect("late")["State"]["Cause"])
    cove("rm", "late")


@container_only(
    "refused system calls are told by the kernel's audit: cove does not ask a guest's yet"
)
def test_a_refused_system_call_is_named(cove: Cove) -> None:
    done = run(cove, "sh", "-c", "mount -t tmpfs x /tmp || exit 7", code=7)
    assert done.err.endswith("cove: seccomp refused: mount\n")


@container_only(
    "refused system calls are told by the kernel's audit: cove does not ask a guest's yet"
)
def test_a_refused_system_call_of_an_exec_is_named(cove: Cove) -> None:
    cove("run", "-d", "--name", "tries", "-i", "bb", "sh", "-c", "read x; exit 1")
    cove("exec", "tries", "unshare", "-U", "true", code=1)
    cove.spawn("attach", "tries", stdin=-1).communicate(b"go\n", timeout=180)
    assert "unshare" in str(cove.inspect("tries")["State"]["Cause"])
    cove("rm", "tries")


def test_success_needs_no_explanation(cove: Cove) -> None:
    assert run(cove, "sh", "-c", "mount -t tmpfs x /tmp 2>/dev/null; exit 0", code=0).err == ""


def test_a_plain_failure_needs_none_either(cove: Cove) -> None:
    assert run(cove, "false", code=1).err == ""


def test_a_signal(cove: Cove) -> None:
    cove("run", "-d", "--name", "shot", "bb", "sleep", "1000")
    cove("kill", "shot")
    cove("wait", "shot")
    assert "killed by SIGKILL (cove kill)" in str(cove.inspect("shot")["State"]["Cause"])
    cove("rm", "shot")


@container_only(
    "a virtual machine's storage limit is the size of its disk, tests/vm/test_causes.py"
)
def test_the_writable_layer_is_limited(cove: Cove) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null; sleep 1000"
    done = run(cove, "sh", "-c", script, flags=("--storage-opt", "size=20m"), code=137)
    assert done.err == "cove: storage limit: it wrote more than 20 MiB\n"


def test_a_start_that_failed_keeps_its_reason(cove: Cove) -> None:
    cove("run", "--name", "bad", "bb", "nope", code=127)
    state = cove.inspect("bad")["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    directory = cove.inspect("bad")["LogPath"].rpartition("/")[0]
    with open(f"{directory}/plan.txt") as file:
        assert file.readline().startswith("# stopped at op ")
    cove("rm", "bad")
