"""Snapshots and forks: what a machine was comes back whole, is nobody else's to change, and goes
with the last who stands on it. That a virtual machine's processes go on: tests/vm.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.driver import Cove, wait_until
from tests.shared import container_only

NAME = "origin"

MAKE = r"""
mkdir -p /d/e; echo one >/f; ln /f /hard; echo x >/d/e/x; rm /etc/group; rm -r /home; mkdir /home
ln -s /nowhere /sl; mkfifo /ff; chown 1000:1000 /d; chmod 4755 /hard; chmod 701 /; touch /.wh.mine
dd if=/dev/zero of=/sparse bs=1 count=1 seek=90000000 2>/dev/null
"""
LOOK = r"""
cat /f /d/e/x; stat -c '%n %h %a %u %g %F' / /f /hard /d /sl /ff /home /.wh.mine
ls /home; test -e /etc/group || echo no group; stat -c '%s' /sparse
test $(du -k /sparse | cut -f1) -lt 100 && echo holes
"""
HARM = "rm -rf /bin /etc /f /hard /d /home /sl; echo lost"


@pytest.fixture
def origin(fresh_cove: Cove) -> Iterator[Cove]:
    fresh_cove("run", "-d", "--name", NAME, "bb", "sleep", "10000")
    fresh_cove("exec", NAME, "sh", "-c", MAKE)
    yield fresh_cove
    listed = fresh_cove("ps", "-aq").out.split()
    if listed:
        fresh_cove("rm", "-f", *listed)
    kept = fresh_cove("snapshot", "ls", "-q").out.split()
    if kept:
        fresh_cove("snapshot", "rm", *kept)
    assert "nothing was found" in fresh_cove("system", "check").out
    layers = lambda: [p for p in fresh_cove.root.glob("roots/u*") if any((p / "fs").iterdir())]  # noqa: E731
    wait_until(lambda: not layers(), "layers that nobody stands on are removed")
    tmp = fresh_cove.root / "tmp"
    wait_until(lambda: not any(tmp.iterdir()), "what is removed has gone")


def look(cove: Cove, name: str = NAME) -> str:
    return cove("exec", name, "sh", "-c", LOOK).out


def snapshot(cove: Cove, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cove("snapshot", "inspect", name).out)[0]
    return found


def begun(cove: Cove, kept: str, verb: str, path: str, *flags: str) -> str:
    """What a command says in a machine begun from a snapshot; a virtual machine's runs already."""
    if cove.isolation == "container":
        return cove("run", "--rm", "--from-snapshot", kept, verb, path).out
    cove("run", "-d", *flags, "--name", "begun", "--from-snapshot", kept)
    said = cove("exec", "begun", verb, path).out
    cove("rm", "-f", "begun")
    return said


def stop(cove: Cove, name: str = NAME) -> None:
    cove("stop", "-t", "0", name)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_what_was_kept_comes_back_whole(origin: Cove, stopped: bool) -> None:
    cove, before = origin, look(origin)
    if stopped:
        stop(cove)
    assert cove("snapshot", "create", NAME).out == f"{NAME}-1\n"
    if stopped:
        cove("start", NAME)
    assert look(cove) == before
    cove("exec", NAME, "sh", "-c", HARM)
    assert cove("exec", NAME, "true", code=None).returncode == 127
    done = cove("restore", NAME)
    assert done.out == f"{NAME}\n"
    anew = stopped or cove.isolation == "container"
    said = "its command has begun anew" if anew else f"goes on as it was when {NAME}-1 was taken"
    assert said in done.err
    assert look(cove) == before


def test_a_stopped_machine_is_restored_and_stays_stopped(origin: Cove) -> None:
    cove, before = origin, look(origin)
    cove("snapshot", "create", NAME, "good")
    cove("exec", NAME, "sh", "-c", HARM)
    stop(cove)
    assert cove("restore", NAME, "good").err == ""
    assert cove.inspect(NAME)["State"]["Running"] is False
    cove("start", NAME)
    assert look(cove) == before
    assert cove("restore", NAME, "other", code=1).err.startswith(
        'cove: cannot find snapshot "other"'
    )


def test_an_ephemeral_machine_outlives_its_restore(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--rm", "--name", NAME, "bb", "sleep", "1000")
    cove("exec", NAME, "sh", "-c", "echo kept >/f")
    cove("snapshot", "create", NAME)
    cove("exec", NAME, "rm", "/f")
    cove("restore", NAME)
    assert cove("exec", NAME, "cat", "/f").out == "kept\n"
    cove("rm", "-f", NAME)
    assert cove("snapshot", "ls", "-q").out == f"{NAME}-1\n"
    assert begun(cove, f"{NAME}-1", "cat", "/f", "--rm") == "kept\n"
    cove("snapshot", "rm", f"{NAME}-1")


@container_only(
    "disk and memory are of one moment: a virtual machine is not copied while it goes on"
)
def test_a_paused_machine_stays_paused(origin: Cove) -> None:
    origin("pause", NAME)
    origin("snapshot", "create", NAME)
    assert origin.inspect(NAME)["State"]["Paused"] is True
    origin("unpause", NAME)
    origin("snapshot", "create", "--pause=false", NAME)
    assert origin.inspect(NAME)["State"]["Paused"] is False


def test_forks_have_what_the_machine_had_and_nothing_of_each_other(origin: Cove) -> None:
    cove, before = origin, look(origin)
    assert len(cove("fork", NAME, "-n", "3").out.split()) == 3
    names = [f"{NAME}-{n}" for n in (1, 2, 3)]
    assert [look(cove, name) for name in names] == [before] * 3
    for name in names:
        cove("exec", name, "sh", "-c", f"echo {name} >/f; rm -r /d")
    # An overlay copies a file up under one name; on a disk two names of one file stay that.
    layered = cove.isolation == "container"
    hard = ["one\n"] * 3 if layered else [f"{name}\n" for name in names]
    assert [cove("exec", name, "cat", "/hard").out for name in names] == hard
    assert [cove("exec", name, "cat", "/f").out for name in names] == [f"{n}\n" for n in names]
    hosts = {cove("exec", name, "hostname").out for name in (NAME, *names)}
    assert len(hosts) == 4
    assert look(cove) == before
    stop(cove)
    cove("fork", NAME, "--name", "late")
    assert look(cove, "late") == before
    taken = cove("fork", NAME, "--name", "late", code=1).err
    assert taken.startswith('cove: cannot use the name "late"')


def test_a_fork_that_cannot_be_started_leaves_none(origin: Cove) -> None:
    origin("run", "-d", "--name", "kid-2", "bb", "sleep", "1000")
    assert origin("fork", NAME, "-n", "3", "--name", "kid", code=1).err.startswith(
        'cove: cannot use the name "kid-2"'
    )
    assert set(origin("ps", "-a", "--format", "{{.Names}}").out.split()) == {NAME, "kid-2"}


def test_a_machine_begun_from_a_snapshot_is_made_as_its_machine_was(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", NAME, "-e", "A=1", "-e", "B=2", "-l", "x=y", "-m", "64m", "-w",
         "/tmp", "bb", "sleep", "1000")  # fmt: skip
    cove("exec", NAME, "sh", "-c", "echo kept >/f")
    if cove.isolation == "vm":  # with its memory it would be what it was, to the word
        stop(cove)
    cove("snapshot", "create", NAME, "base")
    cove("rm", "-f", NAME)
    said = cove("run", "--rm", "--from-snapshot", "base", "-e", "B=3", "sh", "-c",
                "cat /f; pwd; echo $A$B").out  # fmt: skip
    assert said == "kept\n/tmp\n13\n"
    cove("run", "-d", "--name", "again", "-m", "32m", "--from-snapshot", "base")
    seen = cove.inspect("again")
    assert seen["HostConfig"]["Memory"] == 32 << 20
    assert seen["HostConfig"]["AutoRemove"] is False
    assert (seen["Config"]["Labels"], seen["Args"]) == ({"x": "y"}, ["1000"])
    cove("rm", "-f", "again")
    cove("snapshot", "rm", "base")


def test_changes_between_what_was_and_what_is(origin: Cove) -> None:
    cove = origin
    cove("snapshot", "create", NAME, "one")
    assert cove("snapshot", "diff", "one").out == ""
    cove(
        "exec",
        NAME,
        "sh",
        "-c",
        "echo more >>/f; rm -r /d; mkdir -p /new/in; echo root >/etc/group",
    )
    lines = "D /d\nC /etc\nA /etc/group\nC /f\nC /hard\nA /new\nA /new/in\n"
    assert cove("snapshot", "diff", "one").out == lines
    stop(cove)
    cove("snapshot", "create", NAME, "two")
    assert cove("snapshot", "diff", "one", "two").out == lines
    assert cove("snapshot", "diff", "two").out == ""
    back = cove("snapshot", "diff", "two", "one").out
    assert back == "A /d\nA /d/e\nA /d/e/x\nC /etc\nD /etc/group\nC /f\nC /hard\nD /new\n"
    cove("fork", NAME, "--name", "kid")
    assert cove("snapshot", "diff", "one", "kid").out == lines


def test_diff_and_commit_tell_of_all_that_a_machine_wrote(origin: Cove) -> None:
    cove = origin
    stop(cove)
    before = cove("diff", NAME).out
    cove("snapshot", "create", NAME)
    assert cove("diff", NAME).out == before
    cove("start", NAME)
    cove("exec", NAME, "rm", "/.wh.mine")
    cove("exec", NAME, "sh", "-c", "rm -r /d; echo late >/late")
    cove("commit", NAME, "made")
    said = cove(
        "run", "--rm", "made", "sh", "-c", "cat /f /late; ls /home; test -e /d || echo gone"
    )
    assert said.out == "one\nlate\ngone\n"
    cove("rmi", "made")


@container_only("a virtual machine has a disk and no layers")
def test_sizes_are_true(origin: Cove) -> None:
    cove = origin
    cove("exec", NAME, "dd", "if=/dev/zero", "of=/big", "bs=1M", "count=8")
    stop(cove)
    cove("snapshot", "create", NAME, "big")
    sizes = cove("inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", NAME).out.split()
    assert int(sizes[0]) < 1 << 20 < 8 << 20 < int(sizes[1])
    assert snapshot(cove, "big")["Size"] > 8 << 20
    assert snapshot(cove, "big")["UniqueSize"] == 0  # the machine needs it too
    rows = cove(
        "system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}} {{.Reclaimable}}"
    ).out
    (row,) = [line for line in rows.splitlines() if line.startswith("Snapshots")]
    assert row.startswith("Snapshots 1 8.4") and row.endswith(" 0B (0%)")
    cove("rm", NAME)
    assert snapshot(cove, "big")["UniqueSize"] > 8 << 20
    cove("run", "-d", "--name", NAME, "--from-snapshot", "big", "--storage-opt", "size=4m")
    assert cove.inspect(NAME)["State"]["Running"] is True  # what it writes counts, not what it has
    cove("exec", NAME, "dd", "if=/dev/zero", "of=/more", "bs=1M", "count=16", code=None)
    cove("wait", NAME)
    assert cove.inspect(NAME)["Cause"]["kind"] == "storage"


def test_what_snapshots_need_is_not_removed(origin: Cove) -> None:
    cove = origin
    cove("snapshot", "create", NAME, "held")
    cove("rm", "-f", NAME)
    refused = cove("rmi", "bb", code=1)
    assert refused.err.startswith('cove: cannot remove image "bb": snapshot held stands on it')
    cove("image", "prune", "-af")
    cove("system", "prune", "-af")
    cove("rmi", "-f", "bb")  # the name alone
    assert begun(cove, "held", "cat", "/f") == "one\n"
    cove("image", "prune", "-f")
    assert begun(cove, "held", "cat", "/f") == "one\n"
    cove("snapshot", "rm", "held")

    def gone() -> bool:
        cove("image", "prune", "-f")
        return cove("images", "-q", "-f", "dangling=true").out == ""

    wait_until(gone, "an image that nobody needs is pruned")


def test_removing_snapshots_changes_no_machine(origin: Cove) -> None:
    cove, before = origin, look(origin)
    stop(cove)
    cove("snapshot", "create", NAME, "aa")
    cove("start", NAME)
    cove("exec", NAME, "touch", "/later")
    cove("snapshot", "create", NAME, "bb")
    cove("snapshot", "create", NAME, "cc")
    assert snapshot(cove, "cc")["Parent"] == snapshot(cove, "bb")["Id"]
    cove("snapshot", "rm", "bb")
    assert snapshot(cove, "cc")["Parent"] == snapshot(cove, "aa")["Id"]
    cove("snapshot", "rm", "aa")
    assert look(cove) == before
    cove("restart", "-t", "0", NAME)
    assert look(cove) == before
    cove("exec", NAME, "sh", "-c", HARM)
    cove("restore", NAME)
    assert look(cove) == before


@container_only("a virtual machine has a disk and no layers")
def test_many_layers_become_one(origin: Cove, tmp_path: Path) -> None:
    """A machine never stands on more than 64."""
    cove, before = origin, look(origin)
    stop(cove)
    for number in range(70):
        data = tmp_path / "number"
        data.write_text(str(number))
        cove("cp", str(data), f"{NAME}:/number")
        cove("snapshot", "create", NAME, f"s{number:02}")
    assert len(snapshot(cove, "s63")["Layers"]) == 64
    assert len(snapshot(cove, "s64")["Layers"]) == 2
    cove("start", NAME)
    assert look(cove) == before
    assert cove("exec", NAME, "cat", "/number").out == "69"
    for number in (3, 63, 64, 69):
        words = ("run", "--rm", "--from-snapshot", f"s{number:02}", "sh", "-c", "cat /number /f")
        assert cove(*words).out == f"{number}one\n"


@container_only("the image host is the host's own directories, which no guest has")
def test_the_host_image_too(fresh_cove: Cove) -> None:
    cove = fresh_cove
    cove("run", "-d", "--name", NAME, "host", "sleep", "1000")
    cove("exec", NAME, "sh", "-c", "echo mine >/f; echo usr >/usr/bin/mine; rm /usr/bin/env")
    cove("snapshot", "create", NAME)
    cove("exec", NAME, "sh", "-c", "rm -rf /usr/bin /f")
    cove("restore", NAME)
    assert cove("exec", NAME, "cat", "/f", "/usr/bin/mine").out == "mine\nusr\n"
    assert cove("exec", NAME, "test", "-e", "/usr/bin/env", code=1)
    stop(cove)
    cove("snapshot", "create", NAME)
    said = cove("run", "--rm", "--from-snapshot", f"{NAME}-2", "cat", "/f", "/usr/bin/mine").out
    assert said == "mine\nusr\n"
    cove("start", NAME)
    cove("exec", NAME, "touch", "/usr/later")
    assert cove("snapshot", "diff", f"{NAME}-1").out == "C /usr\nA /usr/later\n"
    cove("rm", "-f", NAME)
    cove("snapshot", "rm", f"{NAME}-1", f"{NAME}-2")


# ---- hostile ----


@container_only(
    "disk and memory are of one moment: a virtual machine is not copied while it goes on"
)
def test_what_a_machine_changes_meanwhile_leads_nowhere(origin: Cove) -> None:
    """Directories that become links to the host's, while they are copied without a pause."""
    cove = origin
    swap = """
    mkdir /s; cd /s; for i in 1 2 3 4 5 6 7 8 9; do mkdir d$i; touch d$i/shadow; done
    while true; do for i in 1 2 3 4 5 6 7 8 9; do
      mv d$i x; ln -s /etc d$i; rm d$i; mkfifo d$i; rm d$i; mv x d$i; done; done"""
    cove("exec", "-d", NAME, "sh", "-c", swap)
    cove("exec", NAME, "sh", "-c", "until [ -e /s/d9/shadow ]; do sleep 0.1; done")
    for number in range(12):
        cove("snapshot", "create", "--pause=false", NAME, f"n{number}")
        for layer in snapshot(cove, f"n{number}")["Layers"]:
            for place in Path(layer, "s").iterdir():
                names = os.listdir(place) if place.is_dir() and not place.is_symlink() else []
                assert set(names) <= {"shadow", "x"}, place


def test_a_tree_deeper_than_a_path_is_kept(origin: Cove) -> None:
    deep = "d/" * 900
    make = (
        f"mkdir -p /x/{deep} /y/{deep} /z/{deep}; echo >/x/{deep}end; mv /x /y/{deep}; "
        f"mv /y /z/{deep}"
    )
    origin("exec", NAME, "sh", "-c", make)
    origin("snapshot", "create", NAME, "deep")
    origin("exec", NAME, "mv", "/z", "/elsewhere")
    origin("restore", NAME, "deep")
    assert origin("exec", NAME, "sh", "-c", f"cd /z/{deep}; ls y/{deep}x/{deep}").out == "end\n"
    origin("snapshot", "rm", "deep")


def test_a_visitor_does_not_hold_a_stopped_machine(origin: Cove) -> None:
    stop(origin)
    reader = origin.spawn("export", NAME)
    assert reader.stdout is not None
    os.read(reader.stdout.fileno(), 1)
    origin("snapshot", "create", NAME)
    reader.communicate(timeout=180)
    origin("restore", NAME)


def test_a_snapshot_is_of_one_kind(origin: Cove) -> None:
    origin("snapshot", "create", NAME, "plain")
    other = "vm" if origin.isolation == "container" else "container"
    said = origin("run", "--rm", "--isolation", other, "--from-snapshot", "plain", "true", code=125)
    assert said.err.startswith(f"cove: cannot run snapshot plain with isolation {other}")
