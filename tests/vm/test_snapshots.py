"""Snapshots and forks of virtual machines: processes go on where they stood, in the machine itself
or in another one, and no two machines are the same.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import forks
from tests.conftest import open_cove
from tests.driver import Cove, kill_process, wait_until
from tests.shared import give_guests
from tests.vm.conftest import Stored
from tests.vm.test_templates import _emulators

NAME = "origin"
ORACLE = """
mkfifo /ask /tell
secret=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')
while true; do read question </ask; echo "$question $secret" >/tell; done
"""
"""What it says is nowhere but in its memory."""
OWN = """cat /proc/sys/kernel/random/boot_id /etc/machine-id /etc/hostname; hostname
head -c 16 /dev/urandom | od -An -tx1"""


@pytest.fixture(scope="module")
def vms(one_stored: Stored, bb_tar: Path) -> Iterator[Cove]:
    with open_cove(bb_tar) as driver:
        give_guests(driver)
        driver("run", "--rm", "--vm", "bb", "true")
        wait_until(lambda: driver("template", "ls", "-q").out != "", "a template")
        yield driver


@pytest.fixture
def cove(vms: Cove) -> Iterator[Cove]:
    """With no machine and no snapshot before and after, and nothing of one."""
    yield vms
    for listed, remove in (("ps", "-aq"), ("rm", "-f")), (("snapshot", "ls", "-q"), _RM):
        found = vms(*listed).out.split()
        if found:
            vms(*remove, *found)
    assert "nothing was found" in vms("system", "check").out
    for name in ("snapshots", "machines"):
        wait_until(lambda name=name: _strays(vms, name) == [], f"nothing is left in {name}")  # type: ignore[misc]
    wait_until(lambda: _emulators(vms) == {}, "no emulator is left")


_RM = ("snapshot", "rm")


def _strays(cove: Cove, name: str) -> list[str]:
    """What is there of machines; slots that wait have no disk."""
    return [str(path) for path in cove.root.glob(f"{name}/*/*") if path.name in _FILES]


_FILES = ("scratch", "memory", "disk", "meta.json")


def ask(cove: Cove, name: str = NAME) -> str:
    said: str = cove("exec", name, "sh", "-c", "echo what >/ask; cat /tell").out
    return said


def begin(cove: Cove, *flags: str) -> str:
    """The oracle, and its answer."""
    cove("run", "-d", "--vm", "--name", NAME, *flags, "bb", "sh", "-c", ORACLE)
    wait_until(lambda: cove("exec", NAME, "test", "-p", "/tell", code=None).returncode == 0)
    said = ask(cove)
    assert len(said) > 30
    return said


def snapshot(cove: Cove, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cove("snapshot", "inspect", name).out)[0]
    return found


# ---- going back ----


def test_processes_live_again_after_everything_was_removed(cove: Cove) -> None:
    said = begin(cove)
    count = "i=0; while true; do i=$((i+1)); echo $i >/c; mv /c /count; done"  # never empty
    cove("exec", "-d", NAME, "sh", "-c", count)
    wait_until(lambda: cove("exec", NAME, "cat", "/count", code=None).out != "")
    made = cove("snapshot", "create", NAME, "good")
    assert made.out == "good\n"
    assert made.err.startswith(f"cove: note: {NAME} stood still for ")
    assert (snapshot(cove, "good")["Kind"], snapshot(cove, "good")["Layers"]) == (
        "disk and memory", [],
    )  # fmt: skip
    assert snapshot(cove, "good")["Pause"] > 0
    assert ask(cove) == said
    cove("exec", NAME, "sh", "-c", "rm -rf /* 2>/dev/null; echo done")
    assert cove("exec", NAME, "true", code=None).returncode != 0
    done = cove("restore", NAME)
    assert "goes on as it was when good was taken" in done.err
    assert ask(cove) == said
    first = int(cove("exec", NAME, "cat", "/count").out)
    wait_until(lambda: int(cove("exec", NAME, "cat", "/count").out or 0) > first, "it counts on")
    assert abs(float(cove("exec", NAME, "date", "+%s").out) - time.time()) < 60
    cove("stop", "-t", "0", NAME)
    cove("start", NAME)  # from what it wrote by now, as any other
    assert cove("exec", NAME, "test", "-s", "/count").out == ""


def test_one_that_does_not_run_goes_on_at_its_next_start(cove: Cove) -> None:
    said = begin(cove)
    cove("snapshot", "create", NAME, "good")
    cove("stop", "-t", "0", NAME)
    assert cove("restore", NAME, "good").err == ""
    assert cove.inspect(NAME)["State"]["Running"] is False
    refused = cove("snapshot", "rm", "good", code=1).err
    assert refused.startswith("cove: cannot remove snapshot good: origin is to go on from it")
    again = cove("snapshot", "create", NAME, code=1).err
    assert again.startswith(f"cove: cannot snapshot {NAME}: it has not run since")
    refused = cove("cp", f"{NAME}:/etc/hostname", "-", code=1).err
    assert f"cannot reach the files of {NAME}: it goes on from a snapshot" in refused
    refused = cove("snapshot", "diff", "good", code=1).err
    assert f"cannot reach the files of {NAME}: it goes on from a snapshot" in refused
    cove.kill_daemon()
    cove("start", NAME)
    assert ask(cove) == said
    cove("snapshot", "rm", "good")
    assert ask(cove) == said


def test_of_one_that_does_not_run_it_is_the_disk(cove: Cove) -> None:
    cove("run", "--vm", "--name", NAME, "bb", "sh", "-c", "test -e /f || echo kept >/f; cat /f")
    assert "kept" in cove("cp", f"{NAME}:/f", "-").out
    cove("snapshot", "create", NAME, "one")
    assert snapshot(cove, "one")["Kind"] == "disk"
    cove("run", "--rm", "--vm", "--from-snapshot", "one", "sh", "-c", "rm /f")
    said = cove("run", "--rm", "--from-snapshot", "one", "sh", "-c", "cat /f; uname -r").out
    assert said.splitlines()[0] == "kept" and said.splitlines()[1] != os.uname().release
    cove("create", "--name", "other", "--from-snapshot", "one", "sh", "-c", "echo more >>/f")
    cove("start", "-a", "other")
    cove("snapshot", "create", "other", "two")
    cove("restore", NAME, "two")
    assert cove("start", "-a", NAME).out == "kept\nmore\n"
    cove("restore", NAME, "one")
    assert cove("start", "-a", NAME).out == "kept\n"
    cove("create", "--name", "contained", "bb", "true")
    refused = cove("restore", "contained", "one", code=1).err
    assert "to one: that is of a machine with isolation vm" in refused
    cove("rm", "contained")


# ---- and on ----


def test_forks_know_what_only_the_machine_had_computed(cove: Cove) -> None:
    said = begin(cove)
    forked = cove("fork", NAME, "-n", "3")
    assert len(forked.out.split()) == 3
    assert forked.err.startswith(f"cove: note: {NAME} stood still for ")
    names = [NAME, *(f"{NAME}-{n}" for n in (1, 2, 3))]
    assert [ask(cove, name) for name in names] == [said] * 4
    told = [cove("exec", name, "sh", "-c", OWN).out.splitlines() for name in names]
    for what in zip(*told, strict=True):
        assert len(set(what)) == 4, what
    for name in names[1:]:
        cove("exec", name, "sh", "-c", f"echo {name} >/mine")
    assert [cove("exec", name, "cat", "/mine").out for name in names[1:]] == [
        f"{name}\n" for name in names[1:]
    ]
    assert cove("exec", NAME, "test", "-e", "/mine", code=1)
    cove("fork", f"{NAME}-1", "--name", "grandchild")
    assert ask(cove, "grandchild") == said
    assert cove("exec", "grandchild", "cat", "/mine").out == f"{NAME}-1\n"


def test_a_warm_interpreter_is_forked(cove: Cove, tmp_path: Path) -> None:
    """What it had computed is in each, without computing it again."""
    cove("image", "import", str(forks.python_tar(tmp_path / "python.tar")), "python")
    cove("run", "-d", "--vm", "--name", NAME, "python", "python3", "-c", forks.SERVER, timeout=120)
    ready = lambda: cove("exec", NAME, "test", "-p", "/tell", code=None).returncode == 0  # noqa: E731
    wait_until(ready, "a warm interpreter")
    said = cove("exec", NAME, *forks.ASK).out
    assert len(said.split()) == 2
    cove("fork", NAME, "-n", "2", "--name", "kid")
    assert [cove("exec", f"kid-{n}", *forks.ASK).out for n in (1, 2)] == [said] * 2


def test_one_that_talks_all_the_time_is_forked_in_the_middle_of_a_word(cove: Cove) -> None:
    """Nothing of what it says gets lost, comes twice or breaks its channel."""
    count = "i=0; while true; do i=$((i+1)); echo $i; done"
    cove("run", "-d", "--vm", "--name", NAME, "bb", "sh", "-c", count)
    wait_until(lambda: cove("logs", "--tail", "1", NAME).out != "")
    cove("fork", NAME, "-n", "2", "--name", "kid")
    for name in (NAME, "kid-1", "kid-2"):
        first = cove("logs", "--tail", "1", name).out
        wait_until(lambda name=name, first=first: cove("logs", "--tail", "1", name).out != first)  # type: ignore[misc]
    cove("stop", "-t", "0", NAME, "kid-1", "kid-2")
    for name in (NAME, "kid-1", "kid-2"):
        lines = cove("logs", name).out.split("\n")[1:-1]
        numbers = [int(line) for line in lines]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), name


def test_an_exec_goes_on_here_and_its_process_in_the_fork(cove: Cove) -> None:
    begin(cove)
    words = ("exec", "-i", NAME, "sh", "-c", "echo $$ >/pid; while read x; do echo $x; done")
    talk = cove.spawn(*words, stdin=-1)
    assert talk.stdin is not None and talk.stdout is not None
    talk.stdin.write(b"one\n")
    talk.stdin.flush()
    assert talk.stdout.readline() == b"one\n"
    cove("fork", NAME, "--name", "kid")
    talk.stdin.write(b"two\n")
    talk.stdin.flush()
    assert talk.stdout.readline() == b"two\n"
    talk.stdin.close()
    assert talk.wait(180) == 0
    talk.stdout.close()
    assert talk.stderr is not None
    talk.stderr.close()
    pid = cove("exec", "kid", "cat", "/pid").out.strip()
    assert cove("exec", "kid", "test", "-d", f"/proc/{pid}").out == ""


def test_a_machine_begun_from_a_snapshot_is_attached_to(cove: Cove) -> None:
    said = begin(cove)
    cove("snapshot", "create", NAME, "base")
    cove("rm", "-f", NAME)
    cove("run", "-d", "--name", "again", "--hostname", "named", "--from-snapshot", "base")
    assert ask(cove, "again") == said
    assert cove("exec", "again", "cat", "/etc/hostname", "/etc/hosts").out.count("named") == 2
    assert cove("exec", "again", "hostname").out == "named\n"
    wrong = {
        ("true",): "another command",
        ("-e", "A=1"): "another env",
        ("-t",): "another tty",
        ("-m", "1g"): "another limit of memory",
        ("--storage-opt", "size=1g"): "another storage limit",
    }
    for words, what in wrong.items():
        flags, command = ((), words) if words == ("true",) else (words, ())
        refused = cove("run", "-d", *flags, "--from-snapshot", "base", *command, code=125).err
        assert refused.startswith(f"cove: cannot begin from base with {what}:"), refused
    assert cove("snapshot", "create", "--pause=false", "again", code=125).err.startswith(
        "cove: cannot copy again while it goes on"
    )
    cove("pause", "again")
    assert "it is paused" in cove("fork", "again", code=1).err
    cove("unpause", "again")
    assert ask(cove, "again") == said


def test_what_is_to_be_removed_begins_only_such(cove: Cove) -> None:
    said = begin(cove, "--rm")
    cove("snapshot", "create", NAME, "base")
    cove("fork", NAME, "--name", "kid")
    cove("rm", "-f", NAME)
    assert ask(cove, "kid") == said
    refused = cove("run", "-d", "--from-snapshot", "base", code=125).err
    assert refused.startswith("cove: cannot keep a machine that begins from base"), refused
    cove("run", "-d", "--rm", "--name", "again", "--from-snapshot", "base")
    assert ask(cove, "again") == said


# ---- what goes wrong ----


def test_what_was_changed_is_not_gone_on_with(cove: Cove) -> None:
    said = begin(cove)
    cove("snapshot", "create", NAME, "base")
    (memory,) = cove.root.glob("snapshots/*/memory")
    with memory.open("r+b") as file:
        file.seek(memory.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    refused = cove("run", "-d", "--name", "again", "--from-snapshot", "base", code=125).err
    assert "its memory is not what was written" in refused
    found = cove("system", "check", code=1).out
    assert "its memory is not what was written" in found and "base" in found
    assert ask(cove) == said
    cove("rm", "-f", "again", code=None)
    cove("snapshot", "rm", "base")


def test_a_killed_emulator_is_an_error_and_leaves_nothing(cove: Cove) -> None:
    begin(cove)
    (emulator,) = _emulators(cove)
    kill_process(emulator)
    cove("wait", NAME)
    cove("fork", NAME, "--name", "kid")  # from its disk, as of one that does not run
    assert cove("exec", "kid", "true").err == ""
