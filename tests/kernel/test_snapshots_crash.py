"""A daemon that is killed at any step of a snapshot, a restore or a fork: the machine is as it was
or as it was to be, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, wait_until
from tests.kernel.test_changes import frozen
from tests.kernel.test_changes_crash import runs_for_good, walk
from tests.kernel.test_walks import STRIDE

NAME = "walker"


@pytest.fixture
def walker(fresh_cove: Cove) -> Iterator[Cove]:
    cove = fresh_cove
    cove("run", "-d", "--name", NAME, "bb", "sleep", "1000")
    cove("exec", NAME, "sh", "-c", "echo old >/f; rm /etc/group")
    yield cove
    cove("rm", "-f", *cove("ps", "-aq").out.split())
    kept = cove("snapshot", "ls", "-q").out.split()
    if kept:
        cove("snapshot", "rm", *kept)


def check_whole(cove: Cove, where: str) -> None:
    """Nothing without a record, and no record without what it names."""
    assert "nothing was found" in cove("system", "check", code=None).out, where


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_daemon_killed_at_any_step_of_a_snapshot(
    walker: Cove, tmp_path: Path, stopped: bool
) -> None:
    cove = walker
    if stopped:
        cove("stop", "-t", "0", NAME)
    more = tmp_path / "more"
    more.write_text("more")
    verb, words = "cove.engine.snapshots.snapshots:create", ("snapshot", "create", NAME, "kept")
    again = ("snapshot", "rm", "-f", "kept")
    for where, told in walk(cove, tmp_path / "at", verb, words, again=again):
        made = cove("snapshot", "ls", "-q").out == "kept\n"
        assert made or not told, where
        if stopped:
            look = ("cp", f"{NAME}:/f", str(tmp_path / "f"))
            cove(*look)
            assert (tmp_path / "f").read_text() == "old\n", where
        else:
            assert not frozen(cove, NAME), where
            assert cove("exec", NAME, "cat", "/f").out == "old\n", where
        if made:
            said = cove("run", "--rm", "--from-snapshot", "kept", "sh", "-c", "cat /f; ls /etc")
            assert said.out == "old\nhostname\nhosts\npasswd\nresolv.conf\n", where
        check_whole(cove, where)
        cove("cp", str(more), f"{NAME}:/more")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_daemon_killed_at_any_step_of_a_restore(
    walker: Cove, tmp_path: Path, stopped: bool
) -> None:
    cove = walker
    cove("snapshot", "create", NAME, "kept")
    new = tmp_path / "new"
    new.write_text("new\n")
    if stopped:
        cove("stop", "-t", "0", NAME)
    cove("cp", str(new), f"{NAME}:/f")
    verb, stride = "cove.engine.snapshots.snapshots:restore", STRIDE if stopped else 3 * STRIDE
    for where, told in walk(cove, tmp_path / "at", verb, ("restore", NAME), stride=stride):
        if not stopped:
            wait_until(runs_for_good(cove), f"a machine that runs after {where}")
        cove("cp", f"{NAME}:/f", str(tmp_path / "f"))
        found = (tmp_path / "f").read_text()
        assert found == "old\n" or (found == "new\n" and not told), where
        check_whole(cove, where)
        cove("cp", str(new), f"{NAME}:/f")


@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_fork(walker: Cove, tmp_path: Path) -> None:
    cove = walker
    verb, words = "cove.engine.snapshots.snapshots:fork", ("fork", NAME, "-n", "2", "--name", "kid")
    for where, told in walk(cove, tmp_path / "at", verb, words, stride=3 * STRIDE):
        kids = cove("ps", "-a", "--format", "{{.Names}}", "-f", "name=kid").out.split()
        assert len(kids) == 2 or not told, where
        for kid in cove("ps", "--format", "{{.Names}}", "-f", "name=kid").out.split():
            assert cove("exec", kid, "cat", "/f").out == "old\n", where
        assert cove("exec", NAME, "cat", "/f").out == "old\n", where
        check_whole(cove, where)
        if kids:
            cove("rm", "-f", *kids)
