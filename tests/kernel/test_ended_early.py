"""A machine that is ended while it is being started: it ends, and its caller hears of that."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.shared import no_scenario

pytestmark = no_scenario("it stops the forker in the middle of a container's start")


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def forker_of(cove: Cove) -> int:
    (found,) = (
        pid
        for pid in children(cove.daemon_pid())
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"cove-init\0forker\0")
    )
    return found


@contextlib.contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def is_there(cove: Cove, name: str) -> bool:
    return cove("ps", "-aq", "--filter", f"name={name}").out != ""


def was_killed(cove: Cove, name: str) -> bool:
    past = ("events", "--since", "1", "--until", "0s", "--filter", f"container={name}")
    return "kill" in cove(*past, "--format", "{{.Action}}").out.split()


@pytest.mark.parametrize("verb", [("kill",), ("rm", "-f"), ("stop",)], ids=" ".join)
def test_what_was_run_ahead_is_gone_when_the_order_comes(
    fresh_cove: Cove, verb: tuple[str, ...]
) -> None:
    cove = fresh_cove
    forker = forker_of(cove)

    def waiting() -> list[int]:
        monitors = children(forker)
        return monitors if monitors and all(map(children, monitors)) else []

    wait_until(lambda: bool(waiting()), "slots wait")
    with standing_still(*waiting()):
        run = cove.spawn("run", "--name", "early", "bb", "sleep", "1000")
        wait_until(lambda: is_there(cove, "early"), "its record is written")
        end = cove.spawn(*verb, "early")
        wait_until(lambda: was_killed(cove, "early"), "it was asked to end")
    _, err = run.communicate(timeout=180)
    assert run.returncode in (125, 137), err
    assert b"lost the daemon" not in err, err
    end.communicate(timeout=180)
    assert cove("ps", "-q").out == ""


@pytest.mark.parametrize("verb", [("kill",), ("rm", "-f"), ("stop",)], ids=" ".join)
def test_what_is_asked_before_anybody_is_there(fresh_cove: Cove, verb: tuple[str, ...]) -> None:
    """A kill of nobody is kept for who comes."""
    cove = fresh_cove
    with standing_still(forker_of(cove)):
        run = cove.spawn("run", "-d", "--privileged", "--name", "early", "bb", "sleep", "1000")
        wait_until(lambda: is_there(cove, "early"), "its record is written")
        end = cove.spawn(*verb, "early")
        wait_until(lambda: was_killed(cove, "early"), "it was asked to end")
    run.communicate(timeout=180)
    end.communicate(timeout=180)
    assert end.returncode == 0
    assert cove("ps", "-q").out == ""
    if verb != ("rm", "-f"):
        assert cove.inspect("early")["State"]["ExitCode"] in (125, 137)
