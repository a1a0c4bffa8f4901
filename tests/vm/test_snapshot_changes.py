"""``cove snapshot diff``: the same words for the same changes, of a container's file system and of
a virtual machine's disk, which a guest of the visit's own reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.driver import Cove, wait_until
from tests.vm.test_same_verbs import Machine, machine
from tests.vm.test_templates import _emulators

BEFORE = """
mkdir -p /d/e; echo one >/f; ln /f /hard; echo x >/d/e/x; echo same >/same; rm -r /home; mkdir /home
ln -s /nowhere /sl
"""
CHANGE = "echo more >>/f; rm -r /d; mkdir -p /new/in; echo root >/etc/group; chmod 700 /same"
CHANGES = "D /d\nC /etc\nC /etc/group\nC /f\nC /hard\nA /new\nA /new/in\nC /same\n"
BACK = "A /d\nA /d/e\nA /d/e/x\nC /etc\nC /etc/group\nC /f\nC /hard\nD /new\nC /same\n"


@pytest.fixture
def origin(cove: Cove, isolation: str) -> Iterator[Machine]:
    before = set(cove("snapshot", "ls", "-q").out.split())
    with machine(cove, isolation, "sleep", "10000", flags=("--name", "origin")) as made:
        made.exec("sh", "-c", BEFORE)
        yield made
    kept = set(cove("snapshot", "ls", "-q").out.split()) - before
    if kept:
        cove("snapshot", "rm", *kept)
    wait_until(lambda: cove("system", "check", code=None).returncode == 0, "nothing is left")


def test_changes_between_what_was_and_what_is(cove: Cove, origin: Machine) -> None:
    cove("snapshot", "create", "origin", "one")
    assert cove("snapshot", "diff", "one").out == ""
    origin.exec("sh", "-c", CHANGE)  # at once: what is still in the guest's memory counts
    assert cove("snapshot", "diff", "one").out == CHANGES
    cove("snapshot", "create", "origin", "two")
    assert cove("snapshot", "diff", "one", "two").out == CHANGES
    assert cove("snapshot", "diff", "two", "one").out == BACK
    cove("stop", "-t", "0", "origin")
    assert cove("snapshot", "diff", "one").out == CHANGES
    cove("snapshot", "create", "origin", "three")
    assert cove("snapshot", "diff", "two", "three").out == ""
    cove("start", "origin")
    origin.exec("touch", "/late")
    assert cove("snapshot", "diff", "three").out == "A /late\n"
    cove("rm", "-f", "origin")
    said = cove("snapshot", "diff", "one", code=1).err
    assert said.startswith("cove: cannot compare one: machine origin is gone")


def test_what_a_machine_with_a_snapshot_of_the_other_kind_has_in_common(
    cove: Cove, origin: Machine
) -> None:
    other = "container" if origin.isolation == "vm" else "vm"
    cove("snapshot", "create", "origin", "mine")
    cove("create", "--name", "other", "--isolation", other, "bb", "true")
    try:
        said = cove("snapshot", "diff", "mine", "other", code=1).err
        assert said.startswith("cove: cannot compare mine with other: one is of a container")
        assert cove("snapshot", "diff", "mine", "nothing", code=1).err.startswith(
            'cove: cannot find snapshot "nothing"'
        )
    finally:
        cove("rm", "other")


def test_a_daemon_killed_in_a_comparison_costs_nothing(cove: Cove) -> None:
    with machine(cove, "vm", "sleep", "10000", flags=("--name", "origin")) as made:
        cove("snapshot", "create", "origin", "one")
        made.exec("touch", "/new")
        own = set(_emulators(cove))
        reading = cove.spawn("snapshot", "diff", "one")
        begun = lambda: bool(set(_emulators(cove)) - own) or reading.poll() is not None  # noqa: E731
        wait_until(begun, "the guest that reads")
        cove.kill_daemon()
        reading.communicate(timeout=120)
        assert cove("snapshot", "diff", "one").out == "A /new\n"
        cove("snapshot", "rm", "one")
    wait_until(lambda: os.listdir(cove.root / "tmp") == [], "nothing is left")
