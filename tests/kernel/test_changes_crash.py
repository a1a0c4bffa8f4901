"""A daemon that is killed at any step of a pause, an update or a restart: the next one makes true
what was recorded, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.test_changes import frozen, state
from tests.kernel.test_walks import STRIDE, Crashing
from tests.shared import no_scenario

pytestmark = no_scenario(
    "it kills the daemon between its steps: tests/vm walks through the steps of virtual machines"
)

NAME = "walker"


def walk(
    cove: Cove,
    report: Path,
    verb: str,
    words: tuple[str, ...],
    *,
    again: tuple[str, ...] = (),
    stride: int = min(STRIDE, 3),  # a pause has a dozen steps
) -> Iterator[tuple[str, bool]]:
    """The machine after each crash, as a new daemon has it: before which step it came, and whether
    the command was told of success. ``again`` undoes the verb.
    """
    last, steps = 1, 0
    while True:
        cove.stop_daemon()
        daemon = Crashing(cove, last, report, verb)
        done = cove(*words, code=None)
        assert done.returncode in (0, 1, 125), done
        if not daemon.died():
            break
        steps += 1
        yield report.read_text(), done.returncode == 0
        if again:
            cove(*again, code=None)
        last += stride
    assert steps > 1, "the walk never began"


@pytest.fixture
def running(fresh_cove: Cove) -> Iterator[Cove]:
    fresh_cove("run", "-d", "--name", NAME, "-m", "64m", "bb", "sleep", "1000")
    yield fresh_cove
    fresh_cove("rm", "-f", NAME)


@pytest.mark.timeout(600)
def test_a_daemon_killed_at_any_step_of_a_pause(running: Cove, tmp_path: Path) -> None:
    for verb in ("pause", "unpause"):
        undo = "unpause" if verb == "pause" else "pause"
        if verb == "unpause":
            running("pause", NAME, code=None)
        steps = walk(
            running,
            tmp_path / "at",
            f"cove.engine.machines.pause:{verb}",
            (verb, NAME),
            again=(undo, NAME),
        )
        for where, told in steps:
            paused = state(running, NAME)["Paused"]
            assert paused == frozen(running, NAME), where
            assert not told or paused == (verb == "pause"), where


@pytest.mark.timeout(600)
def test_a_daemon_killed_at_any_step_of_an_update(running: Cove, tmp_path: Path) -> None:
    forks = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; echo all"
    verb, words = "cove.engine.machines.update:update", ("update", "--pids-limit", "4", NAME)
    for where, told in walk(
        running, tmp_path / "at", verb, words, again=("update", "--pids-limit", "100", NAME)
    ):
        few = running.inspect(NAME)["HostConfig"]["PidsLimit"] == 4
        out = running("exec", NAME, "sh", "-c", forks, code=None).out
        assert ("all" in out) == (not few), where
        assert few or not told, where


@pytest.mark.timeout(600)
@pytest.mark.parametrize("flags", [(), ("--rm",)], ids=["kept", "ephemeral"])
def test_a_machine_runs_whenever_its_restart_is_cut(
    fresh_cove: Cove, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    cove, verb = fresh_cove, "cove.engine.verbs.machines:restart"
    stride = 1 if STRIDE == 1 else 3 * STRIDE
    cove("run", "-d", "--name", NAME, *flags, "bb", "sh", "-c", "date >> /f; exec sleep 1000")
    for where, _ in walk(cove, tmp_path / "at", verb, ("restart", "-t", "0", NAME), stride=stride):
        wait_until(runs_for_good(cove), f"a machine that runs after {where}")
        assert cove("exec", NAME, "test", "-s", "/f").err == "", where
    cove("rm", "-f", NAME)
    assert cove("ps", "-aq").out == ""


def runs_for_good(cove: Cove) -> Callable[[], bool]:
    """Whether it runs, in the same process for two looks: no restart is under way."""
    before: list[object] = []

    def look() -> bool:
        seen = state(cove, NAME)
        before.append(seen["Pid"] if seen["Running"] else None)
        return len(before) > 1 and before[-1] is not None and before[-1] == before[-2]

    return look


@pytest.mark.timeout(600)
def test_a_daemon_killed_at_any_step_of_other_mounts(fresh_cove: Cove, tmp_path: Path) -> None:
    """Afterwards the record says what the kernel has: the old ones, the new ones, or some of both;
    all of the new ones if that was told.
    """
    cove, verb = fresh_cove, "cove.engine.machines.remounting:change"
    source = tmp_path / "source"
    source.mkdir()
    bind = f"type=bind,source={source},target=/new"
    cove("run", "-d", "--name", NAME, "-v", "kept:/old", "bb", "sleep", "100000")
    cove("exec", NAME, "sh", "-c", "echo kept > /old/file")
    words = ("update", "--mount-add", bind, "--mount-add", "source=v,target=/v", "--mount-rm",
             "/old", NAME)  # fmt: skip
    stride = 1 if STRIDE == 1 else 3 * STRIDE
    for where, told in walk(cove, tmp_path / "at", verb, words, stride=stride):
        recorded = {mount["Destination"] for mount in cove.inspect(NAME)["Mounts"]}
        mounts = cove("exec", NAME, "cat", "/proc/mounts").out.splitlines()
        assert recorded == {line.split()[1] for line in mounts} & {"/old", "/new", "/v"}, where
        assert recorded == {"/new", "/v"} or not told, where
        if "/old" not in recorded:
            cove("update", "--mount-add", "source=kept,target=/old", NAME)
        for target in sorted(recorded - {"/old"}):
            cove("update", "--mount-rm", target, NAME)
        assert cove("exec", NAME, "cat", "/old/file").out == "kept\n", where
    cove("rm", "-f", NAME)
    cove("volume", "rm", "-f", "kept", "v")
