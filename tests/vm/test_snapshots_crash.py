"""A daemon that is killed at any step of a snapshot, a restore or a fork of a virtual machine: disk
and memory are as they were or as they were to be, of one moment in either case; nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import open_cove
from tests.driver import Cove, kill_process, wait_until
from tests.kernel.test_changes_crash import walk
from tests.kernel.test_recovery import monitor_of
from tests.kernel.test_walks import STRIDE
from tests.shared import give_guests
from tests.vm.conftest import Stored
from tests.vm.test_templates import _emulators

NAME = "walker"
KEEPER = """
mkfifo /ask /tell; word=old; echo old >/f
while true; do
  read verb rest </ask
  if test "$verb" = put; then word=$rest; echo "$rest" >/f; fi
  echo "$word $(cat /f)" >/tell
done
"""
"""It has one word, in its memory and on its disk."""


@pytest.fixture
def walker(one_stored: Stored, bb_tar: Path) -> Iterator[Cove]:
    with open_cove(bb_tar) as cove:
        give_guests(cove)
        cove("run", "--rm", "--vm", "bb", "true")
        wait_until(lambda: cove("template", "ls", "-q").out != "", "a template")
        cove("run", "-d", "--vm", "--name", NAME, "bb", "sh", "-c", KEEPER)
        answers = lambda: cove("exec", NAME, "test", "-p", "/tell", code=None).returncode == 0  # noqa: E731
        wait_until(answers)
        yield cove
        cove("rm", "-f", *cove("ps", "-aq").out.split())
        kept = cove("snapshot", "ls", "-q").out.split()
        if kept:
            cove("snapshot", "rm", *kept)
        assert list((cove.root / "snapshots").iterdir()) == []
        wait_until(lambda: _emulators(cove) == {}, "no emulator is left")


def say(cove: Cove, words: str, name: str = NAME) -> str:
    """What it holds in memory and on disk, which is the same."""
    said = cove("exec", name, "sh", "-c", f"echo {words} >/ask; cat /tell").out.split()
    assert len(said) == 2 and said[0] == said[1], said
    return said[0]


def check_whole(cove: Cove, where: str) -> None:
    """Nothing without a record, and no record without what it names."""
    assert "nothing was found" in cove("system", "check", code=None).out, where


@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_snapshot(walker: Cove, tmp_path: Path) -> None:
    cove, verb = walker, "cove.engine.snapshots.snapshots:create"
    words, again = ("snapshot", "create", NAME, "kept"), ("snapshot", "rm", "-f", "kept")
    for where, told in walk(cove, tmp_path / "at", verb, words, again=again, stride=3 * STRIDE):
        made = cove("snapshot", "ls", "-q").out == "kept\n"
        assert made or not told, where
        assert say(cove, "get") == "old", where
        if made:
            cove("run", "-d", "--name", "again", "--from-snapshot", "kept")
            assert say(cove, "get", "again") == "old", where
            cove("rm", "-f", "again")
        check_whole(cove, where)


@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_restore(walker: Cove, tmp_path: Path) -> None:
    cove, verb = walker, "cove.engine.snapshots.snapshots:restore"
    cove("snapshot", "create", NAME, "kept")
    assert say(cove, "put new") == "new"

    def answers() -> bool:
        done = cove("exec", NAME, "test", "-p", "/tell", code=None)
        return done.returncode == 0 and not restarting()

    def restarting() -> bool:
        return bool(cove.inspect(NAME)["State"]["Restarting"])

    words = ("restore", NAME)
    for where, told in walk(cove, tmp_path / "at", verb, words, stride=9 * STRIDE):
        wait_until(answers, f"a machine that runs after {where}")
        found = say(cove, "get")
        assert found == "old" or (found == "new" and not told), where
        check_whole(cove, where)
        assert say(cove, "put new") == "new"


@pytest.mark.timeout(900)
def test_a_daemon_killed_at_any_step_of_a_fork(walker: Cove, tmp_path: Path) -> None:
    cove, verb = walker, "cove.engine.snapshots.snapshots:fork"
    words = ("fork", NAME, "-n", "2", "--name", "kid")
    for where, told in walk(cove, tmp_path / "at", verb, words, stride=8 * STRIDE):
        kids = cove("ps", "-a", "--format", "{{.Names}}", "-f", "name=kid").out.split()
        assert len(kids) == 2 or not told, where
        for kid in cove("ps", "--format", "{{.Names}}", "-f", "name=kid").out.split():
            assert say(cove, "get", kid) == "old", where
        assert say(cove, "get") == "old", where
        check_whole(cove, where)
        if kids:
            cove("rm", "-f", *kids)


@pytest.mark.parametrize("victim", ["emulator", "monitor"])
def test_one_killed_in_the_middle_is_an_error_and_leaves_nothing(walker: Cove, victim: str) -> None:
    """The memory is being read: what is there of it is no snapshot."""
    cove = walker
    (emulator,) = _emulators(cove)
    pid = emulator if victim == "emulator" else monitor_of(cove, NAME)
    making = cove.spawn("snapshot", "create", NAME, "kept")
    started = lambda: bool(list(cove.root.glob("tmp/snapshot-*")))  # noqa: E731
    wait_until(lambda: started() or making.poll() is not None)
    kill_process(pid)
    making.communicate(timeout=120)
    cove("wait", NAME)
    made = cove("snapshot", "ls", "-q").out
    assert made == ("kept\n" if making.returncode == 0 else "")
    check_whole(cove, f"a killed {victim}")
    if made:
        cove("restore", NAME)
        cove("start", NAME)
        assert say(cove, "get") == "old"
