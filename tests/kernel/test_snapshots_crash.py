"""A daemon that is killed at any step of a snapshot, a restore or a fork: the machine is as it was
or as it was to be, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, kill_process, wait_until
from tests.kernel.test_changes import frozen
from tests.kernel.test_changes_crash import runs_for_good, walk
from tests.kernel.test_recovery import monitor_of
from tests.kernel.test_walks import STRIDE
from tests.shared import no_scenario

pytestmark = no_scenario(
    "it kills the daemon between its steps: tests/vm walks through the steps of virtual machines"
)

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


def test_a_monitor_killed_in_the_middle_leaves_nothing(walker: Cove) -> None:
    """The machine ends with it; what it wrote is there, and the snapshot whole or not at all."""
    cove = walker
    cove("exec", NAME, "sh", "-c", "head -c 30000000 /dev/urandom >/big; md5sum /big >/sum")
    making = cove.spawn("snapshot", "create", NAME, "kept")
    started = lambda: bool(list(cove.root.glob("tmp/stratum-*")))  # noqa: E731
    wait_until(lambda: started() or making.poll() is not None)
    kill_process(monitor_of(cove, NAME))
    making.communicate(timeout=120)
    cove("wait", NAME)
    made = cove("snapshot", "ls", "-q").out
    assert made == ("kept\n" if making.returncode == 0 else "")
    cove("start", NAME)
    assert cove("exec", NAME, "md5sum", "-c", "/sum").out == "/big: OK\n"
    if made:
        said = cove("run", "--rm", "--from-snapshot", "kept", "md5sum", "-c", "/sum")
        assert said.out == "/big: OK\n"
    check_whole(cove, "a killed monitor")
