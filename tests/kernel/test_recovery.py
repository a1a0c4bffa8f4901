"""kill -9 of daemon, monitor, forker and front: machines, records and logs are there afterwards."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from tests.driver import Cove, kill_process, wait_end, wait_until
from tests.leaks import left_of
from tests.shared import no_scenario


def monitor_of(cove: Cove, name: str) -> int:
    """The parent of the machine's first process."""
    pid = cove.inspect(name)["State"]["Pid"]
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def holds(pid: int, number: int) -> bool:
    """Blocked, to be read from a signalfd: SigBlk of proc_pid_status(5)."""
    (line,) = re.findall(r"^SigBlk:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(line, 16) >> (number - 1) & 1)


def test_machines_outlive_the_daemon(fresh_cove: Cove) -> None:
    cove = fresh_cove
    script = "echo before; read x; echo after $x; exit 6"
    cove("run", "-d", "-i", "--name", "lives", "bb", "sh", "-c", script)
    before = cove.inspect("lives")["State"]
    cove.kill_daemon()
    after = cove.inspect("lives")["State"]
    assert {k: after[k] for k in ("Status", "Pid")} == {k: before[k] for k in ("Status", "Pid")}
    assert cove("exec", "lives", "cat", "/proc/1/comm").out == "sh\n"
    process = cove.spawn("attach", "lives", stdin=-1)
    out, _ = process.communicate(b"kill\n", timeout=180)
    assert (out, process.returncode) == (b"after kill\n", 6)
    assert cove("logs", "lives").out == "before\nafter kill\n"
    assert cove.inspect("lives")["State"]["ExitCode"] == 6


def test_a_foreground_session_outlives_the_daemon(fresh_cove: Cove) -> None:
    cove = fresh_cove
    process = cove.spawn(
        "run", "--rm", "-i", "bb", "sh", "-c", "echo up; read x; exit $x", stdin=-1
    )
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    cove.kill_daemon()
    process.communicate(b"9\n", timeout=180)
    assert process.returncode == 9
    wait_until(lambda: cove("ps", "-aq").out == "", "the ephemeral machine to be removed")


def test_a_monitor_brings_the_daemon_back(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "watcher", "bb", "sleep", "1000")
    old = cove.daemon_pid()
    cove.kill_daemon()
    pid_file = cove.root / "run/daemon.pid"
    wait_until(lambda: int(pid_file.read_text() or 0) != old, "another daemon")
    assert cove("ps", "--format", "{{.Names}}").out == "watcher\n"


def test_a_machine_that_ended_without_a_daemon(fresh_cove: Cove) -> None:
    cove = fresh_cove
    words = ("sh", "-c", "echo up; read x; exit 8")
    session = cove.spawn("run", "-i", "--name", "quiet", "bb", *words, stdin=-1)
    assert session.stdin is not None and session.stdout is not None
    assert session.stdout.readline() == b"up\n"
    os.kill(cove.daemon_pid(), signal.SIGSTOP)
    session.stdin.write(b"on\n")
    session.stdin.flush()
    wait_until(lambda: list(cove.root.glob("machines/*/exit")), "an exit record")
    cove.kill_daemon()
    state = cove.inspect("quiet")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 8)
    session.communicate(timeout=120)


def test_a_daemon_that_is_stopped_leaves_machines_running(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "stays", "bb", "sleep", "1000")
    pid = cove.inspect("stays")["State"]["Pid"]
    cove.stop_daemon()
    assert cove.inspect("stays")["State"]["Pid"] == pid
    cove("stop", "-t", "0", "stays")


def test_a_killed_monitor_ends_its_machine_with_that_reason(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "orphan", "bb", "sleep", "1000")
    fd = os.pidfd_open(cove.inspect("orphan")["State"]["Pid"])
    kill_process(monitor_of(cove, "orphan"))
    assert cove("wait", "orphan").out == "137\n"
    wait_end(fd)
    assert "its monitor ended" in str(cove.inspect("orphan")["State"]["Cause"])
    cove("start", "orphan")
    cove("rm", "-f", "orphan")


def test_monitor_and_daemon_killed_together(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "both", "bb", "sleep", "1000")
    monitor = monitor_of(cove, "both")
    os.kill(cove.daemon_pid(), signal.SIGSTOP)
    kill_process(monitor)
    cove.kill_daemon()
    state = cove.inspect("both")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)


@no_scenario("the forker is the works of a start")
def test_a_killed_forker_is_replaced(fresh_cove: Cove) -> None:
    cove = fresh_cove
    daemon = cove.daemon_pid()
    children = Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split()
    assert children
    for child in children:
        kill_process(int(child))
    for _ in range(6):  # more than the monitors that were forked ahead
        cove("run", "--rm", "bb", "true")


def test_a_killed_front_leaves_nothing(fresh_cove: Cove) -> None:
    cove = fresh_cove
    process = cove.spawn("run", "--rm", "-i", "bb", "cat", stdin=-1)
    wait_until(lambda: cove("ps", "-q").out != "", "the machine")
    process.kill()
    process.communicate()
    wait_until(lambda: cove("ps", "-aq").out == "", "its end")


@no_scenario("no machine is made")
def test_what_nobody_records_is_swept(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove.kill_daemon()
    strays = [cove.root / "roots/u999999", cove.root / "machines/999998", cove.root / "tmp/x"]
    for stray in strays:
        (stray / "fs").mkdir(parents=True)
    cove("ps")
    wait_until(lambda: not any(stray.exists() for stray in strays), "the sweep")


def test_the_daemon_gives_everything_back(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "--rm", "bb", "true")
    cove.stop_daemon()
    wait_until(lambda: left_of(cove.root) == [], "groups and processes to go")
    assert [p.name for p in (cove.root / "machines").iterdir()] == []
    assert not list(cove.root.glob("roots/u*")) and not list(cove.root.glob("run/*.sock"))


def test_timeout_goes_on_after_the_daemon_died(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", "due", "--timeout", "3s", "bb", "sleep", "1000")
    cove.kill_daemon()
    assert cove("wait", "due").out == "137\n"
    assert "timeout" in str(cove.inspect("due")["State"]["Cause"])


def test_who_waits_for_a_monitor_may_go_away(fresh_cove: Cove) -> None:
    """The machine has ended, its monitor cannot say so: nothing of it is put away."""
    cove = fresh_cove
    cove("run", "-d", "--name", "held", "bb", "sleep", "1000")
    pid = cove.inspect("held")["State"]["Pid"]
    monitor, fd = monitor_of(cove, "held"), os.pidfd_open(pid)
    os.kill(monitor, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_end(fd)
        caller = cove.spawn("rm", "held")
        wait_until(lambda: holds(caller.pid, signal.SIGINT), "a command that can be interrupted")
        caller.send_signal(signal.SIGINT)
        caller.communicate(timeout=60)
        assert caller.returncode == 130
    finally:
        os.kill(monitor, signal.SIGCONT)
