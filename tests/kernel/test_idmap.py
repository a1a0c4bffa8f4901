"""``idmap=caller``: root inside is the caller on the host's disk, and nobody else is anybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove
from tests.shared import container_only

ADA, BOB = 1000, 1001
SUDO = {"SUDO_UID": str(ADA), "SUDO_GID": str(ADA + 100)}
"""As ada's shell has it for what she calls by sudo."""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Ada's directory, with files of others in it; one of bob's runs with his rights."""
    root = tmp_path / "tree"
    root.mkdir()
    for name, owner, mode in (
        ("ada", ADA, 0o600), ("bob", BOB, 0o600), ("root", 0, 0o600), ("read", BOB, 0o644),
        ("set", BOB, 0o4755),
    ):  # fmt: skip
        (root / name).write_text(f"{name}\n")
        os.chown(root / name, owner, owner + 100 if owner else 0)
        (root / name).chmod(mode)
    os.chown(root, ADA, ADA + 100)
    yield root


def owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


LOOK = """
cd /x && stat -c '%n %u:%g' ada bob root read set
cat ada read; echo made > made; mkdir dir; ln ada dir/same
for file in bob root; do cat $file 2> /dev/null || echo no $file; done
rm -f bob 2> /dev/null || echo bob stays
chown 7 made 2> /dev/null || echo no 7
chmod 4755 set 2> /dev/null || echo no rights of bob
"""
SEEN = """\
ada 0:0
bob 65534:65534
root 65534:65534
read 65534:65534
set 65534:65534
ada
read
no bob
no root
bob stays
no 7
no rights of bob
"""


def test_root_inside_is_the_caller_on_disk(cove: Cove, tree: Path) -> None:
    """Also for who has every right in the machine: others' ids are not its to have rights over."""
    bind = f"type=bind,source={tree},idmap="
    words = ("--cap-add", "ALL", "--mount", f"{bind}caller,target=/x", "-v",
             f"{tree}:/self:idmap=none", "--mount", f"{bind}{BOB}:{ADA},target=/bob")  # fmt: skip
    cove("run", "-d", "--name", "callers", *words, "bb", "sleep", "100000", env=SUDO)
    assert cove("exec", "callers", "sh", "-c", LOOK).out == SEEN
    for name in ("made", "dir", "dir/same"):
        assert owner(tree / name) == (ADA, ADA + 100), name
    assert owner(tree / "set") == (BOB, BOB + 100)
    # Root may say that it is somebody else; what nobody asked for is as it is on the disk.
    script = "cat /bob/bob /self/root; cat /bob/ada 2> /dev/null || echo no; stat -c %u /self/ada"
    assert cove("exec", "callers", "sh", "-c", script).out == "bob\nroot\nno\n1000\n"
    # Another user of the machine's is nobody there, whatever the directory's mode is.
    tree.chmod(0o777)
    script = "touch /x/seven 2> /dev/null || echo no; cat /x/ada 2> /dev/null || echo no"
    assert cove("exec", "--user", "7", "callers", "sh", "-c", script).out == "no\nno\n"
    assert not (tree / "seven").exists()
    cove("rm", "-f", "callers")


@container_only("a virtual machine has mounts of its next start, and a root that is not the host's")
@pytest.mark.parametrize("flag", ["--privileged", "--userns=host"])
def test_the_hosts_own_root_is_nobody_there_either(cove: Cove, tree: Path, flag: str) -> None:
    words = (flag, "-v", f"{tree}:/x:idmap=caller", "bb", "sh", "-c", LOOK)
    assert cove("run", "--rm", *words, env=SUDO).out == SEEN
    assert owner(tree / "made") == (ADA, ADA + 100)


@container_only("a virtual machine has mounts of its next start, and a root that is not the host's")
def test_who_the_caller_was_is_kept(cove: Cove, tree: Path) -> None:
    """A machine is started again by others, and by a daemon that nobody called."""
    cove("run", "-d", "--name", "kept", "bb", "sleep", "100000")
    add = f"type=bind,source={tree},target=/x,idmap=caller"
    cove("update", "--mount-add", add, "--mount-add", add.replace("/x", "/y"), "kept", env=SUDO)
    cove("exec", "kept", "sh", "-c", "touch /x/live && cat /y/ada")
    cove.kill_daemon()
    cove("restart", "-t", "0", "kept")
    cove("exec", "kept", "sh", "-c", "touch /x/again && cat /y/ada")
    assert owner(tree / "live") == owner(tree / "again") == (ADA, ADA + 100)
    cove("cp", "kept:/x/ada", str(tree.parent / "out"))
    assert (tree.parent / "out").read_text() == "ada\n"
    cove("rm", "-f", "kept")


@container_only("a virtual machine has mounts of its next start, and a root that is not the host's")
def test_the_callers_who_call_themselves(cove: Cove, tree: Path) -> None:
    """Root is root, unless sudo says whom it serves."""
    script = "cat /x/root 2> /dev/null || echo no root; cat /x/ada 2> /dev/null || echo no ada"
    words = ("-v", f"{tree}:/x:idmap=caller", "bb", "sh", "-c", script)
    broken = {"SUDO_UID": "-1", "SUDO_GID": "x"}
    for env, seen in (({}, "root\nno ada\n"), (broken, "root\nno ada\n"), (SUDO, "no root\nada\n")):
        assert cove("run", "--rm", *words, env=env).out == seen


def test_what_cannot_be_mapped_is_refused_by_name(cove: Cove, tree: Path) -> None:
    for words, why in (
        (("-v", "/proc/sys:/x:idmap=caller"), "its file system, proc, takes no idmapped mount"),
        (("-v", "/:/x:idmap=caller"), "mounted below it takes no idmapped mount"),
        (("-v", "data:/x:idmap=caller"), "idmap=caller does not go with a volume"),
        (("-v", f"{tree}:/x:idmap=me"), "idmap is none, caller or UID:GID of the host"),
        (("--mount", f"type=bind,source={tree},target=/x,idmap=4294967295:0"), "idmap is none"),
        (("--mount", "type=volume,source=data,target=/x,idmap=caller"), "does not go with type="),
    ):
        assert why in cove("run", "--rm", *words, "bb", "true", code=125).err, words
    assert cove("ps", "-aq").out == cove("volume", "ls", "-q").out == ""
