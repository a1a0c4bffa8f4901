"""Machines that their restart policies start again: by Docker's rules, over daemons that are
killed, never twice, and never after somebody stopped them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, kill_process, wait_until
from tests.kernel.test_changes_crash import NAME
from tests.kernel.test_faults_state import change_records
from tests.kernel.test_recovery import monitor_of
from tests.kernel.test_walks import STRIDE, Crashing
from tests.shared import no_scenario

ENDS = "echo run; until test -e /go; do sleep 0.05; done; rm /go; exit 7"
"""A program that ends when it is told to."""
GO = ("touch", "/go")
"""Tells it so; it may end with the machine before it has said that it is done."""
LONG = "1000"
"""Seconds that a machine waits, in a test that looks at it meanwhile."""


def status(cove: Cove, name: str) -> str:
    return str(cove.inspect(name)["State"]["Status"])


def restarts(cove: Cove, name: str) -> int:
    return int(cove.inspect(name)["RestartCount"])


def runs_anew(cove: Cove, name: str, count: int) -> None:
    def look() -> bool:
        seen = cove.inspect(name)
        return bool(seen["RestartCount"] == count and seen["State"]["Status"] == "running")

    wait_until(look, f"{name} to be started for the {count}th time")


def runs(log: Path) -> int:
    return log.read_bytes().count(b"run\n")


def with_delay(cove: Cove, seconds: str) -> None:
    """Another daemon, whose machines wait so long before they are started again."""
    cove.stop_daemon()
    cove.env["COVE_RESTART_DELAY"] = seconds


@pytest.fixture
def ends(cove: Cove) -> Iterator[str]:
    yield "ends"
    cove("rm", "-f", "ends", "fails", "ends-well", code=None)


def test_a_failure_is_tried_again_so_often(cove: Cove, ends: str) -> None:
    fails = ("bb", "sh", "-c", "echo run; exit 3")
    cove("run", "-d", "--name", "fails", "--restart", "on-failure:2", *fails)
    cove("run", "-d", "--name", "ends-well", "--restart", "on-failure", "bb", "true")
    wait_until(lambda: status(cove, "fails") == "exited", "its last end")
    seen = cove.inspect("fails")
    assert (seen["RestartCount"], seen["State"]["ExitCode"]) == (2, 3)
    assert seen["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert cove("logs", "fails").out == "run\n" * 3
    assert cove("wait", "ends-well").out == "0\n"
    assert (status(cove, "ends-well"), restarts(cove, "ends-well")) == ("exited", 0)
    cove("start", "fails")
    wait_until(lambda: cove("logs", "fails").out == "run\n" * 6, "as often again")


def test_one_that_always_runs_ends_when_it_is_stopped(cove: Cove, ends: str) -> None:
    cove("run", "-d", "--name", ends, "--restart", "always", "bb", "sh", "-c", ENDS)
    for count in (1, 2):
        cove("exec", ends, *GO, code=None)
        runs_anew(cove, ends, count)
    wait_until(lambda: cove("logs", ends).out == "run\n" * 3, "what the third run says")
    cove("stop", "-t", "0", ends)
    assert status(cove, ends) == "exited"
    cove("start", ends)
    assert (status(cove, ends), restarts(cove, ends)) == ("running", 0)
    cove("kill", ends)
    cove("wait", ends)
    assert status(cove, ends) == "exited"
    # Its policy is what it was last told.
    cove("start", ends)
    assert cove("update", "--restart", "no", ends).out == f"{ends}\n"
    cove("exec", ends, *GO, code=None)
    assert cove("wait", ends).out == "7\n"
    assert status(cove, ends) == "exited"
    cove("update", "--restart", "unless-stopped", ends)
    cove("start", ends)
    cove("exec", ends, *GO, code=None)
    runs_anew(cove, ends, 1)
    assert (
        "cannot use --restart and --rm together"
        in cove("run", "--rm", "--restart", "always", "bb", "true", code=125).err
    )


def test_the_next_end_is_waited_for(cove: Cove, ends: str) -> None:
    cove("run", "--name", ends, "bb", "sh", "-c", "exit 6", code=6)
    assert cove("wait", "--condition", "not-running", ends).out == "6\n"
    waits = cove.spawn("wait", "--condition", "next-exit", ends)

    def ended() -> bool:  # one end may come before it listens
        cove("start", "-a", ends, code=6)
        return waits.poll() is not None

    wait_until(ended, "an end that is heard")
    assert waits.communicate() == (b"6\n", b"")
    done = cove("wait", "--condition", "healthy", ends, code=125)
    assert "it is not-running, next-exit or removed" in done.err


def test_one_that_waits_is_seen_stopped_and_started(fresh_cove: Cove) -> None:
    cove = fresh_cove
    with_delay(cove, LONG)
    cove("run", "-d", "--name", "waits", "--restart", "always", "bb", "sh", "-c", "exit 5")
    wait_until(lambda: status(cove, "waits") == "restarting", "its end")
    state = cove.inspect("waits")["State"]
    assert (state["Restarting"], state["Running"], state["Pid"]) == (True, True, 0)
    assert cove("ps", "--format", "{{.Status}}").out.startswith("Restarting (5) ")
    assert cove("ps", "-q", "-f", "status=restarting").out != ""
    assert "it is restarting" in cove("rm", "waits", code=1).err
    assert "not running" in cove("exec", "waits", "true", code=1).err
    assert cove.inspect("waits")["Id"] not in cove("container", "prune", "-f").out
    image = cove.inspect("waits")["Image"]
    assert "machine waits runs it" in cove("rmi", "-f", image, code=1).err
    cove.kill_daemon()
    assert (status(cove, "waits"), restarts(cove, "waits")) == ("restarting", 1)
    for verb in ("stop", "kill"):
        assert cove(verb, "waits").out == "waits\n"
        assert (status(cove, "waits"), cove("wait", "waits").out) == ("exited", "5\n")
        cove("start", "waits")
        wait_until(lambda: status(cove, "waits") == "restarting", "its next end")
        assert restarts(cove, "waits") == 1
    cove("start", "waits")  # does not wait
    wait_until(lambda: status(cove, "waits") == "restarting", "its next end")
    cove("rm", "-f", "waits")
    assert cove("ps", "-aq").out == ""


def test_one_that_ends_without_a_daemon_is_started_by_the_next(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "alone", "--restart", "always", "bb", "sh", "-c", ENDS)
    daemon = cove.daemon_pid()
    exec_ = cove.spawn("exec", "-i", "alone", "sh", "-c", "echo in; read x; >/go", stdin=-1)
    assert exec_.stdin is not None and exec_.stdout is not None
    assert exec_.stdout.readline() == b"in\n"
    os.kill(daemon, signal.SIGSTOP)  # it must not see the end
    exec_.stdin.write(b"go\n")
    exec_.stdin.flush()
    wait_until(
        lambda: any(exit.stat().st_size for exit in cove.root.glob("machines/*/exit")), "its end"
    )
    kill_process(daemon)
    # Nobody asks for a daemon: the machine's monitor brings the next one.
    pid_file = cove.root / "run/daemon.pid"
    wait_until(lambda: pid_file.read_text() not in ("", str(daemon)), "another daemon")
    runs_anew(cove, "alone", 1)
    exec_.communicate(timeout=120)
    cove("stop", "-t", "0", "alone")
    cove.stop_daemon()
    assert status(cove, "alone") == "exited"


@no_scenario("it edits the records of a daemon that does not run")
def test_the_host_was_restarted(fresh_cove: Cove) -> None:
    cove = fresh_cove
    policies = {"never": "no", "fails": "on-failure", "ever": "always", "unless": "unless-stopped"}
    for name, policy in policies.items():
        cove("run", "-d", "--name", name, "--restart", policy, "bb", "sleep", "1000")
    for name in ("stopped", "stayed"):
        policy = "always" if name == "stopped" else "unless-stopped"
        cove("run", "-d", "--name", name, "--restart", policy, "bb", "sleep", "1000")
        cove("stop", "-t", "0", name)
    cove("create", "--name", "fresh", "--restart", "always", "bb", "sleep", "1000")
    monitors = [monitor_of(cove, name) for name in policies]
    daemon = cove.daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    for monitor in monitors:
        kill_process(monitor)
    kill_process(daemon)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert change_records(cove, boot.encode(), b"0" * 8 + boot[8:].encode()) == 6
    for name in ("fails", "ever", "unless"):
        runs_anew(cove, name, 1)
    runs_anew(cove, "stopped", 0)
    assert [status(cove, name) for name in ("never", "stayed", "fresh")] == [
        "exited",
        "exited",
        "created",
    ]
    cove.stop_daemon()  # the same boot: who does not run stays as it is
    cove("stop", "-t", "0", "stopped")
    cove.stop_daemon()
    assert status(cove, "stopped") == "exited"
    cove("rm", "-f", *cove("ps", "-aq").out.split())


@no_scenario(
    "it kills the daemon between its steps: tests/vm walks through the steps of virtual machines"
)
@pytest.mark.timeout(600)
def test_a_daemon_killed_at_any_step_of_a_start_by_policy(fresh_cove: Cove, tmp_path: Path) -> None:
    """It runs all the same, once, and is counted for as often as it was begun."""
    cove, report = fresh_cove, tmp_path / "at"
    with_delay(cove, "0.01")
    cove("run", "-d", "--name", NAME, "--restart", "always", "bb", "sh", "-c", ENDS)
    log = Path(cove.inspect(NAME)["LogPath"])
    steps = 0
    for last in range(1, 1000, 1 if STRIDE == 1 else 4 * STRIDE):
        cove.stop_daemon()
        daemon = Crashing(cove, last, report, "cove.engine.machines.life:start")
        begun = runs(log)
        cove("exec", NAME, *GO, code=None)
        wait_until(lambda: runs(log) > begun, "it to run again")  # noqa: B023
        if not daemon.died():
            break
        steps += 1
        where = report.read_text()
        wait_until(lambda: status(cove, NAME) == "running", f"it to run after {where}")
        assert cove("exec", NAME, "true").err == "", where
        assert runs(log) <= restarts(cove, NAME) + 1, where
    assert steps, "the walk never began"
    cove("rm", "-f", NAME)
    assert cove("ps", "-aq").out == ""
