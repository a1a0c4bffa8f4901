"""What the commands of snapshots print, and their refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.driver import Cove


@pytest.fixture(scope="module")
def kept(cove: Cove) -> Iterator[Cove]:
    """Three snapshots: ``one``, and below it ``two`` and ``three``."""
    cove("run", "-d", "--name", "words", "bb", "sleep", "10000")
    for name in ("one", "two"):
        cove("exec", "words", "sh", "-c", f"echo {name} >>/f")
        assert cove("snapshot", "create", "words", name).out == f"{name}\n"
    cove("restore", "words", "one")
    cove("snapshot", "create", "words", "three")
    yield cove
    cove("rm", "-f", "words")
    cove("snapshot", "rm", "one", "two", "three")


def test_the_list_is_a_tree(kept: Cove) -> None:
    lines = kept("snapshot", "ls").out.splitlines()
    assert lines[0].split() == ["NAME", "MACHINE", "KIND", "CREATED", "SIZE", "USED", "BY"]
    assert [line.split("  ")[0].rstrip() for line in lines[1:]] == ["one", "├─ two", "└─ three"]
    assert lines[3].endswith("words")
    assert kept("snapshot", "ls", "-q").out == "one\ntwo\nthree\n"
    assert kept("snapshot", "ls", "words", "--format", "{{.Name}} {{.Parent}}").out == (
        "one \ntwo one\nthree one\n"
    )
    (row, *_) = kept("snapshot", "list", "--format", "json", "--no-trunc").out.splitlines()
    assert len(json.loads(row)["ID"]) == 64


def test_inspect_has_all_of_it(kept: Cove) -> None:
    (seen,) = json.loads(kept("snapshot", "inspect", "two").out)
    assert (seen["Name"], seen["Kind"], seen["Machine"]["Name"]) == ("two", "file system", "words")
    assert seen["Spec"]["image"] == "bb"
    assert kept("snapshot", "inspect", "-f", "{{.Parent}}", seen["Id"][:20]).out.strip()
    done = kept("snapshot", "inspect", "one", "none", code=1)
    assert json.loads(done.out)[0]["Name"] == "one"
    assert done.err.startswith('cove: cannot find snapshot "none": no such snapshot')


def test_refusals_name_what_to_do(kept: Cove) -> None:
    taken = kept("snapshot", "create", "words", "one", code=1).err
    assert taken.startswith('cove: cannot use the name "one": a snapshot of words has it')
    assert "hint: cove snapshot rm one" in taken
    assert "only letters" in kept("snapshot", "create", "words", "a/b", code=125).err
    none = kept("snapshot", "create", "nobody", code=1).err
    assert none.startswith('cove: cannot find machine "nobody"')
    assert "hint: did you mean three?" in kept("snapshot", "rm", "thre", code=1).err
    assert kept("snapshot", "rm", "-f", "nothing").out == ""
    assert "1 to 1000" in kept("fork", "words", "-n", "0", code=125).err
    assert "IMAGE is missing" in kept("run", code=125).err
    absent = kept("run", "--from-snapshot", "nothing", code=125).err
    assert absent.startswith('cove: cannot find snapshot "nothing"')


def test_a_machine_without_snapshots_cannot_be_restored(cove: Cove) -> None:
    cove("create", "--name", "bare", "bb", "true")
    said = cove("restore", "bare", code=1).err
    assert said.startswith("cove: cannot restore bare: it has no snapshot")
    cove("rm", "bare")


def test_a_snapshot_of_another_image_is_refused(kept: Cove) -> None:
    kept("create", "--name", "other", "host")
    said = kept("restore", "other", "one", code=1).err
    assert said.startswith("cove: cannot restore other to one: that stands on another image, bb")
    assert "cove run --from-snapshot one" in said
    kept("rm", "other")


def test_the_verbs_are_told_as_events(kept: Cove) -> None:
    kept("snapshot", "create", "words", "told")
    kept("restore", "words", "told")
    (fork,) = kept("fork", "words").out.split()
    kept("rm", "-f", fork)
    kept("snapshot", "rm", "told")
    form = "{{.Action}} {{.Actor.Attributes.snapshot}}"
    found = kept("events", "--since", "10m", "--until", "0s", "--format", form, "-f",
                 "container=words").out.splitlines()  # fmt: skip
    wanted = ["snapshot told", "restore told", "snapshot-rm told"]
    assert [line for line in found if line.endswith(" told")] == wanted
    assert any(line.startswith("fork ") for line in found)
