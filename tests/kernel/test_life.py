"""create, start, stop, kill, wait, rm, ps, exec, attach and logs of machines that go on."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.driver import Cove

SERVE = (
    "trap 'echo got term; exit 5' TERM; trap 'echo got usr1' USR1; echo up; "
    "while :; do sleep 0.02; done"
)


@contextmanager
def detached(cove: Cove, name: str, *words: str, flags: tuple[str, ...] = ()) -> Iterator[str]:
    cove("run", "-d", "--name", name, *flags, "bb", *words)
    try:
        yield name
    finally:
        cove("rm", "-f", name, code=None)


def wait_for_output(cove: Cove, name: str, text: str) -> None:
    """Follow the log until ``text`` is there."""
    process = cove.spawn("logs", "-f", name)
    assert process.stdout is not None
    seen = b""
    while text.encode() not in seen:
        ready, _, _ = select.select([process.stdout], [], [], 180)
        assert ready, f"{name} did not say {text!r}, but {seen!r}"
        data = os.read(process.stdout.fileno(), 4096)
        assert data, f"{name} ended without {text!r}: {seen!r}"
        seen += data
    process.terminate()
    process.communicate()


def test_create_start_wait_and_remove(cove: Cove) -> None:
    cove("create", "--name", "four", "bb", "sh", "-c", "echo hi; exit 4")
    assert cove.inspect("four")["State"]["Status"] == "created"
    cove("start", "four")
    assert cove("wait", "four").out == "4\n"
    state = cove.inspect("four")["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", 4, 0)
    assert cove("logs", "four").out == "hi\n"
    cove("rm", "four")
    assert "no such machine" in cove("start", "four", code=1).err


def test_a_machine_starts_again_with_what_it_wrote(cove: Cove) -> None:
    cove("create", "--name", "twice", "bb", "sh", "-c", "echo x >> /count; wc -l < /count")
    assert cove("start", "-a", "twice").out == "1\n"
    assert cove("start", "-a", "twice").out == "2\n"
    cove("rm", "twice")


def test_stop_sends_the_stop_signal_and_waits(cove: Cove) -> None:
    with detached(cove, "polite", "sh", "-c", SERVE):
        wait_for_output(cove, "polite", "up")
        cove("stop", "polite")
        assert cove.inspect("polite")["State"]["ExitCode"] == 5
        assert "got term" in cove("logs", "polite").out


def test_stop_kills_what_does_not_end(cove: Cove) -> None:
    with detached(cove, "stubborn", "sleep", "1000"):
        cove("stop", "-t", "0", "stubborn")
        assert cove.inspect("stubborn")["State"]["ExitCode"] == 137


def test_kill_with_a_signal(cove: Cove) -> None:
    with detached(cove, "hears", "sh", "-c", SERVE):
        wait_for_output(cove, "hears", "up")
        cove("kill", "-s", "USR1", "hears")
        wait_for_output(cove, "hears", "got usr1")
        cove("kill", "hears")
        assert cove("wait", "hears").out == "137\n"
        assert "not running" in cove("kill", "hears", code=1).err


def test_wait_for_many(cove: Cove) -> None:
    with (
        detached(cove, "one", "sh", "-c", "exit 1"),
        detached(cove, "two", "sh", "-c", "exit 2"),
    ):
        assert cove("wait", "one", "two").out == "1\n2\n"


def test_wait_for_an_ephemeral_machine(cove: Cove) -> None:
    cove("run", "-d", "--rm", "--name", "brief", "bb", "sleep", "1000")
    waiter = cove.spawn("wait", "brief")
    cove("kill", "brief")
    out, _ = waiter.communicate(timeout=180)
    assert out in (b"137\n", b"")
    assert cove("ps", "-aq", "--filter", "name=brief").out == ""


def test_a_running_machine_is_removed_only_by_force(cove: Cove) -> None:
    with detached(cove, "busy", "sleep", "1000"):
        done = cove("rm", "busy", code=1)
        assert "cannot remove busy: it is running" in done.err
        assert "hint: stop it first" in done.err
        cove("rm", "-f", "busy")
        assert cove("ps", "-aq", "--filter", "name=busy").out == ""


def test_nothing_of_a_removed_machine_is_left(cove: Cove) -> None:
    cove("create", "--name", "gone", "bb", "true")
    cove("start", "-a", "gone")
    directory = cove.inspect("gone")["LogPath"].rpartition("/")[0]
    key = directory.rpartition("/")[2]
    cove("rm", "gone")
    assert not os.path.exists(directory)
    assert not (cove.root / f"roots/u{key}").exists()
    assert not (cove.root / f"run/{key}.sock").exists()


def test_ps(cove: Cove) -> None:
    with detached(cove, "shown", "sleep", "1000"):
        cove("create", "--name", "hidden", "bb", "true")
        line = cove(
            "ps", "--filter", "name=shown", "--format", "{{.Names}} {{.Image}} {{.Command}}"
        )
        assert line.out == 'shown bb "sleep 1000"\n'
        assert "hidden" not in cove("ps").out
        assert "hidden" in cove("ps", "-a").out
        cove("rm", "hidden")


# ---- exec ----


def test_exec(cove: Cove) -> None:
    with detached(cove, "host1", "sleep", "1000", flags=("-e", "A=machine")):
        assert cove("exec", "host1", "cat", "/proc/1/comm").out == "sleep\n"
        assert (
            cove("exec", "-e", "B=exec", "host1", "sh", "-c", "echo $A $B").out == "machine exec\n"
        )
        assert cove("exec", "-i", "host1", "cat", stdin="in").out == "in"
        assert cove("exec", "-u", "ada", "-w", "/tmp", "host1", "sh", "-c", "id -un; pwd").out == (
            "ada\n/tmp\n"
        )
        cove("exec", "host1", "sh", "-c", "exit 9", code=9)
        assert 'cannot run "nope"' in cove("exec", "host1", "nope", code=127).err
        cove("exec", "-d", "host1", "touch", "/done")


@pytest.mark.parametrize(("verb", "code"), [("exec", 1), ("attach", 0)])
def test_leaving_by_the_detach_keys(cove: Cove, verb: str, code: int) -> None:
    """As in Docker: nobody will know how an exec ends, while a machine can be asked."""
    words = ("sh", "-c", "while read x; do echo got $x; done")
    with detached(cove, "left", *words, flags=("-it",)):
        master, slave = os.openpty()
        more = ("-it", "left", *words) if verb == "exec" else ("left",)
        ends = {"stdin": slave, "stdout": slave, "stderr": slave}
        with cove.spawn(verb, *more, start_new_session=True, **ends) as front:
            os.close(slave)
            heard = b""
            late = time.monotonic() + 60
            while b"got here" not in heard and time.monotonic() < late:
                if select.select([master], [], [], 0.1)[0]:
                    heard += os.read(master, 4096)
                else:  # what was typed before the terminal was raw is lost
                    os.write(master, b"here\n")
            assert b"got here" in heard
            os.write(master, b"\x10\x11")
            while select.select([master], [], [], 180)[0]:
                try:
                    os.read(master, 4096)
                except OSError:
                    break
            os.close(master)
            assert front.wait(180) == code
        assert cove.inspect("left")["State"]["Running"]


def test_exec_is_behind_the_same_walls(cove: Cove) -> None:
    status = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/cgroup"
    with detached(cove, "walled", "sh", "-c", f"{status}; echo all; sleep 1000"):
        wait_for_output(cove, "walled", "all\n")
        own = cove("logs", "walled").out.removesuffix("all\n")
        assert cove("exec", "walled", "sh", "-c", status).out == own


def test_exec_in_a_machine_that_does_not_run(cove: Cove) -> None:
    cove("create", "--name", "idle", "bb", "true")
    assert "cannot exec in idle: it is not running" in cove("exec", "idle", "true", code=None).err
    cove("rm", "idle")


def test_processes_of_exec_end_with_the_machine(cove: Cove) -> None:
    with detached(cove, "mother", "sleep", "1000"):
        process = cove.spawn("exec", "mother", "sh", "-c", "echo on; sleep 1000")
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        cove("kill", "mother")
        process.communicate(timeout=180)
        assert process.returncode == 137


# ---- logs and attach ----


def test_logs_keep_streams_and_bytes(cove: Cove) -> None:
    with detached(cove, "says", "sh", "-c", "echo out; echo err >&2; printf 'a\\377b\\n'"):
        cove("wait", "says")
        done = cove("logs", "says")
        assert done.out.startswith("out\na") and done.err == "err\n"


def test_logs_tail(cove: Cove) -> None:
    with detached(cove, "counts", "seq", "100"):
        cove("wait", "counts")
        assert cove("logs", "--tail", "2", "counts").out == "99\n100\n"
        assert cove("logs", "--tail", "0", "counts").out == ""


def test_logs_follow_ends_with_the_machine(cove: Cove) -> None:
    with detached(cove, "slow", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"):
        assert cove("logs", "-f", "slow").out == "1\n2\n3\n"


def test_the_log_is_capped(cove: Cove) -> None:
    words = ("sh", "-c", "for i in $(seq 40); do head -c 100000 /dev/zero; done; echo; echo last")
    with detached(
        cove, "floods", *words, flags=("--log-opt", "max-size=1m", "--log-opt", "max-file=2")
    ):
        cove("wait", "floods")
        directory = cove.inspect("floods")["LogPath"].rpartition("/")[0]
        total = sum(
            os.path.getsize(f"{directory}/{n}") for n in os.listdir(directory) if "log" in n
        )
        assert total <= 2 << 20
        assert cove("logs", "--tail", "1", "floods").out == "last\n"


def test_attach_gives_output_and_exit_code(cove: Cove) -> None:
    with detached(cove, "talks", "sh", "-c", "read x; echo got $x; exit 3", flags=("-i",)):
        process = cove.spawn("attach", "talks", stdin=-1)
        out, _ = process.communicate(b"hello\n", timeout=180)
        assert (out, process.returncode) == (b"got hello\n", 3)


def test_signals_go_to_the_machine(cove: Cove) -> None:
    process = cove.spawn("run", "--rm", "bb", "sh", "-c", SERVE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=180)
    assert (out, process.returncode) == (b"got term\n", 5)


@pytest.mark.parametrize("verb", ["wait", "logs"])
def test_interrupting_a_command_that_waits(cove: Cove, verb: str) -> None:
    with detached(cove, "endless", "sh", "-c", "echo up; sleep 1000"):
        wait_for_output(cove, "endless", "up")
        words = ("logs", "-f") if verb == "logs" else ("wait",)
        process = cove.spawn(*words, "endless")
        if verb == "logs":
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=180)
        assert process.returncode in (130, -signal.SIGINT)


def test_inspect_says_what_stands_between(cove: Cove) -> None:
    cove("create", "--name", "open", "--privileged", "bb", "true")
    assert "privileged" in json.dumps(cove.inspect("open"))
    cove("rm", "open")
