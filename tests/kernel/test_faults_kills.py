"""kill -9 of everything at every moment, and commands that meet a machine on its way out."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cove.engine.slots import READY
from tests.driver import Cove, Done, wait_until
from tests.kernel.settled import fds_of, settled, too_much
from tests.kernel.test_life import wait_for_output
from tests.shared import container_only, no_scenario

__all__ = ["settled"]


def processes(cove: Cove) -> dict[int, list[str]]:
    """Those of cove that have the state directory in their command line."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if str(cove.root) in words:
                found[int(entry)] = words
    return found


def helpers(cove: Cove) -> list[int]:
    """Forker, monitors and launchers: all but the daemon."""
    daemon = cove.daemon_pid()
    return [pid for pid in processes(cove) if pid != daemon]


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def after(seconds: float) -> None:
    """A moment of the walk, not a wait for anything."""
    select.select([], [], [], seconds)


HUNDREDS = 500
"""Seconds for as many starts at once: an emulated CPU on a busy host takes one for each."""

UNNOTICED = (
    "cove: lost the daemon\n",
    "cove: lost the machine's monitor\n",
    "cove: cannot start the program: its process was killed before it began\n",
)
"""What a run says that was given something which is dead, and of which nobody has heard yet."""


def check_whole(cove: Cove, daemon: int) -> None:
    """A run that works. A killed daemon is given time to be gone; slots that were kept ready and
    were killed unnoticed may take a run each with them, and say so.
    """
    wait_until(lambda: not daemon or not os.path.exists(f"/proc/{daemon}/fd/0"), "the daemon's end")
    for _ in range(READY + 1):
        done = cove("run", "--rm", "bb", "echo", "whole", code=None)
        if done.returncode == 0:
            break
        assert done.err in UNNOTICED, done
    assert done.out == "whole\n"


@no_scenario("it kills what starts a container, by its place in that start")
@pytest.mark.parametrize("victim", ["helpers", "youngest", "front", "daemon"])
def test_killed_at_any_moment_of_a_start(fresh_cove: Cove, victim: str) -> None:
    """A walk through the first 6 ms of a run; whatever it hits, the next run is whole."""
    cove = fresh_cove
    cove("run", "--rm", "bb", "true")
    for step in range(12):
        daemon = cove.daemon_pid()
        known = helpers(cove)
        process = cove.spawn("run", "--rm", "bb", "sh", "-c", "echo ran")
        after(step * 0.0005)
        if victim == "front":
            process.kill()
        elif victim == "daemon":
            kill_all([daemon])
        else:
            all_now = helpers(cove)
            new = [pid for pid in all_now if pid not in known]
            kill_all(all_now if victim == "helpers" else new or all_now[-1:])
        out, err = process.communicate(timeout=180)
        said = err.decode()
        assert process.returncode in (0, 125, 137, -9), (step, said)
        assert "bug" not in said and "Traceback" not in said, (step, said)
        if process.returncode == 0:
            assert out == b"ran\n", step
        if process.returncode == 125:
            assert said.startswith("cove: "), (step, said)
        check_whole(cove, daemon if victim == "daemon" else 0)
    wait_until(lambda: cove("ps", "-aq").out == "", "ephemeral machines to be gone")
    wait_until(lambda: too_much(cove) == [], "all but what is kept ready to go")


def started_or_ended(cove: Cove, known: set[int], process: subprocess.Popen[bytes]) -> bool:
    return bool(set(processes(cove)) - known) or process.poll() is not None


@no_scenario("it kills what starts a container, by its place in that start")
def test_a_killed_launcher_is_a_failed_start(fresh_cove: Cove) -> None:
    """The first process that a start makes, as soon as there is one."""
    cove = fresh_cove
    for _ in range(5):
        known = set(processes(cove))
        process = cove.spawn("run", "-d", "bb", "true")
        wait_until(partial(started_or_ended, cove, known, process), "a process, or the end")
        kill_all([pid for pid in processes(cove) if pid not in known])
        _, err = process.communicate(timeout=180)
        assert process.returncode in (0, 125), err
    cove("rm", "-f", *cove("ps", "-aq").out.split(), code=None)
    wait_until(lambda: too_much(cove) == [], "all but what is kept ready to go")


def pid_of(cove: Cove, name: str) -> int:
    """Of the first process, once there is one."""
    wait_until(lambda: name in cove("ps", "--format", "{{.Names}}").out.split(), "the machine")
    wait_until(lambda: bool(cove.inspect(name)["State"]["Pid"]), "its first process")
    pid = int(cove.inspect(name)["State"]["Pid"])
    assert pid > 1
    return pid


@container_only("a guest's processes are not the host's: tests/vm/test_causes.py kills what is")
def test_a_killed_first_process_is_the_end_of_the_machine(cove: Cove, settled: None) -> None:
    for flags in ((), ("--init",)):
        process = cove.spawn("run", "--name", "shot", *flags, "bb", "sleep", "1000")
        os.kill(pid_of(cove, "shot"), signal.SIGKILL)
        _, err = process.communicate(timeout=180)
        assert (process.returncode, err) == (137, b"cove: killed by SIGKILL\n")
        state = cove.inspect("shot")["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 137)
        assert "killed by SIGKILL" in str(state["Cause"])
        cove("rm", "shot")


def test_cove_kill_is_named_in_the_last_line(cove: Cove, settled: None) -> None:
    process = cove.spawn("run", "--name", "ended", "bb", "sleep", "1000")
    pid_of(cove, "ended")
    cove("kill", "ended")
    _, err = process.communicate(timeout=180)
    assert (process.returncode, err) == (137, b"cove: killed by SIGKILL (cove kill)\n")
    cove("rm", "ended")


def test_a_program_that_crashes_says_its_signal(cove: Cove, settled: None, tmp_path: Path) -> None:
    source = "int main(void) { *(volatile int *)8 = 1; }"
    words = ["gcc", "-static", "-x", "c", "-", "-o", str(tmp_path / "crash")]
    subprocess.run(words, input=source, text=True, check=True)
    cove("create", "--name", "crash", "--ulimit", "core=0", "bb", "/crash")
    cove("cp", str(tmp_path / "crash"), "crash:/crash")
    done = cove("start", "-a", "crash", code=139)
    assert done.err == "cove: killed by SIGSEGV\n"
    assert "killed by SIGSEGV" in str(cove.inspect("crash")["State"]["Cause"])
    cove("rm", "crash")


def test_a_killed_session_leaves_the_machine_that_is_kept(cove: Cove, settled: None) -> None:
    process = cove.spawn("run", "--name", "goes-on", "bb", "sleep", "1000")
    pid_of(cove, "goes-on")
    process.kill()
    process.communicate()
    cove("exec", "goes-on", "true")
    cove("rm", "-f", "goes-on")


# ---- ends and commands that meet ----


def test_stop_of_a_program_that_ignores_it(cove: Cove, settled: None) -> None:
    script = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    cove("run", "-d", "--name", "deaf", "bb", "sh", "-c", script)
    wait_for_output(cove, "deaf", "up")
    cove("stop", "-t", "1", "deaf")
    state = cove.inspect("deaf")["State"]
    assert state["ExitCode"] == 137
    assert "killed by SIGKILL (cove stop)" in str(state["Cause"])
    cove("rm", "deaf")


def meeting(cove: Cove, name: str, first: Callable[[], Done], second: Callable[[], Done]) -> Done:
    """``first`` while ``second``, of which the result matters."""
    results: list[Done] = []
    thread = threading.Thread(target=lambda: results.append(first()))
    thread.start()
    done = second()
    thread.join()
    assert "bug" not in done.err and "Traceback" not in done.err, done.err
    return done


def test_an_exec_into_a_machine_that_is_just_ending(cove: Cove, settled: None) -> None:
    known = (
        "cove: cannot exec in ending: it is not running\n",
        "cove: cannot enter the machine: it has ended\n",
        "cove: cannot make the machine's namespaces: ",
        'cove: cannot find machine "ending": no such machine\n',
        "cove: killed by SIGKILL",
    )
    if cove.isolation == "vm":  # more ends at once: its hub, its jail, its guest
        known += ("cove: cannot reach the guest: it has ended",)
    for _ in range(8 if cove.isolation == "container" else 4):
        cove("run", "-d", "--name", "ending", "bb", "sleep", "1000")
        done = meeting(
            cove,
            "ending",
            lambda: cove("kill", "ending", code=None),
            lambda: cove("exec", "ending", "echo", "in", code=None, timeout=180),
        )
        if done.returncode == 0:
            assert done.out == "in\n"
        else:
            assert done.returncode in (1, 125, 137), done
            assert done.err == "" or done.err.startswith(known), done.err
        cove("wait", "ending")
        cove("rm", "ending")


def test_start_stop_and_removal_that_meet(cove: Cove, settled: None) -> None:
    cove("create", "--name", "busy", "bb", "sleep", "1000")
    for _ in range(4):
        meeting(
            cove,
            "busy",
            lambda: cove("start", "busy", code=None),
            lambda: cove("stop", "-t", "0", "busy", code=None),
        )
        cove("stop", "-t", "0", "busy")
    one, two = cove.spawn("rm", "-f", "busy"), cove.spawn("rm", "-f", "busy")
    said = [process.communicate(timeout=180) for process in (one, two)]
    assert any(out == b"busy\n" for out, _ in said), said
    assert b"bug" not in said[0][1] + said[1][1]
    assert cove("ps", "-aq", "--filter", "name=busy").out == ""


def test_waiting_for_many(cove: Cove, settled: None) -> None:
    names = [f"many-{i}" for i in range(20 if cove.isolation == "container" else 4)]
    for i, name in enumerate(names):
        cove("run", "-d", "-i", "--name", name, "bb", "sh", "-c", f"read x; exit {i}")
    waiting = cove.spawn("wait", *names)
    for name in reversed(names):
        cove("kill", name)
    out, err = waiting.communicate(timeout=180)
    assert out.decode().split() == ["137"] * len(names), err
    cove("rm", *names)


def test_what_has_ended_cannot_be_attached_to(cove: Cove, settled: None) -> None:
    cove("run", "--name", "over", "bb", "echo", "said")
    for verb, words in (("attach to", ("attach", "over")), ("exec in", ("exec", "over", "true"))):
        done = cove(*words, code=1)
        assert done.err == (
            f"cove: cannot {verb} over: it is not running\n"
            "  hint: start it first: cove start over\n"
        )
    assert cove("kill", "over", code=1).err == "cove: cannot kill over: it is not running\n"
    assert cove("stop", "over").out == "over\n"
    assert cove("wait", "over").out == "0\n"
    assert cove("logs", "over").out == "said\n"
    cove("rm", "over")


def test_a_log_that_is_turned_while_it_is_followed(cove: Cove, settled: None) -> None:
    """Of what is still there when it is read nothing is torn, and the end always comes."""
    script = "read x; i=0; while [ $i -lt 40000 ]; do echo line $i of a log; i=$((i+1)); done"
    flags = ("-d", "-i", "--name", "turns", "--log-opt", "max-size=200k", "--log-opt", "max-file=2")
    cove("run", *flags, "bb", "sh", "-c", script)
    follow = cove.spawn("logs", "-f", "turns")
    cove.spawn("attach", "turns", stdin=subprocess.PIPE).communicate(b"go\n", timeout=180)
    out, err = follow.communicate(timeout=180)
    lines = out.decode().splitlines()
    numbers = [int(line.split()[1]) for line in lines]
    assert all(line.endswith(" of a log") for line in lines)
    assert numbers == sorted(numbers) and numbers[-1] == 39999
    assert b"bug" not in err
    assert cove("logs", "-n", "2", "turns").out.splitlines()[-1] == "line 39999 of a log"
    cove("rm", "turns")


# ---- many at once ----


@pytest.fixture
def all_runs(cove: Cove, settled: None) -> Iterator[Callable[[int], list[subprocess.Popen[bytes]]]]:
    """So many of virtual machines as there are dozens: an emulator takes a CPU for its second."""
    started: list[subprocess.Popen[bytes]] = []

    def start(count: int) -> list[subprocess.Popen[bytes]]:
        for i in range(count if cove.isolation == "container" else count // 12):
            started.append(cove.spawn("run", "--rm", "bb", "echo", f"number {i}"))
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_two_hundred_fronts_at_once(
    cove: Cove, all_runs: Callable[[int], list[subprocess.Popen[bytes]]]
) -> None:
    daemon = cove.daemon_pid()
    before = fds_of(daemon)
    for i, process in enumerate(all_runs(200)):
        out, err = process.communicate(timeout=HUNDREDS)
        assert (process.returncode, out, err) == (0, f"number {i}\n".encode(), b"")
    assert cove.daemon_pid() == daemon
    wait_until(lambda: cove("ps", "-aq").out == "", "all to be removed")
    wait_until(lambda: fds_of(daemon) <= before + 16, "descriptors to be given back")


def test_two_hundred_interrupted_at_once(
    cove: Cove, all_runs: Callable[[int], list[subprocess.Popen[bytes]]]
) -> None:
    """Half of the callers are killed as soon as all have asked."""
    processes = all_runs(60)
    for process in processes[::2]:
        process.kill()
    for i, process in enumerate(processes):
        out, err = process.communicate(timeout=HUNDREDS)
        if i % 2:
            assert (process.returncode, out, err) == (0, f"number {i}\n".encode(), b"")
    wait_until(lambda: cove("ps", "-aq").out == "", "all to be removed")
