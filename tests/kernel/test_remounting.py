"""``update --mount-add`` and ``--mount-rm``: other mounts for a machine that exists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver import Cove
from tests.shared import container_only

ADD, REMOVE = "--mount-add", "--mount-rm"


@pytest.fixture
def name(cove: Cove) -> Iterator[str]:
    cove("run", "-d", "--name", "changed", "bb", "sleep", "100000")
    yield "changed"
    cove("rm", "-f", "-v", "changed")


def sh(cove: Cove, name: str, script: str, code: int | None = 0) -> str:
    return cove("exec", name, "sh", "-c", script, code=code).out


def targets(cove: Cove, name: str) -> list[str]:
    return sorted(mount["Destination"] for mount in cove.inspect(name)["Mounts"])


@container_only("a virtual machine has them from its next start on: tests/vm/test_volumes.py")
def test_a_running_container_has_them_at_once(cove: Cove, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the host\n")
    os.chown(tmp_path / "file", 1000, 1001)
    done = cove("update", ADD, "type=bind,source=.,target=/new/deep", ADD, "source=late,target=/v",
                ADD, "type=tmpfs,target=/quick,tmpfs-size=1m", ADD, "target=/anonymous",
                ADD, f"type=bind,source={tmp_path}/file,target=/one,readonly", name,
                cwd=tmp_path)  # fmt: skip
    assert (done.out, done.err) == ("changed\n", "")
    seen = sh(cove, name, "stat -c %u:%g /new/deep/file; cat /one; echo made > /new/deep/made")
    assert seen == "1000:1001\nof the host\n"
    assert (tmp_path / "made").read_text() == "made\n"
    assert "/quick tmpfs rw,nosuid,nodev,noexec" in sh(cove, name, "cat /proc/mounts")
    assert "Read-only" in cove("exec", name, "sh", "-c", "echo x > /one", code=1).err
    sh(cove, name, "echo kept > /v/kept; echo own > /anonymous/own")
    assert "changed has it" in cove("volume", "rm", "late", code=1).err
    assert {"/anonymous", "/new/deep", "/one", "/v"} <= set(targets(cove, name))
    cove("update", REMOVE, "/new/deep", REMOVE, "/quick", name)
    left = sh(cove, name, "cat /proc/mounts")
    assert "/new/deep" not in left and "/quick" not in left
    assert sh(cove, name, "ls /new/deep") == ""
    cove("restart", "-t", "0", name)
    assert sh(cove, name, "cat /v/kept /anonymous/own; ls /new/deep") == "kept\nown\n"
    cove("update", REMOVE, "/v", name)
    cove("volume", "rm", "late")


def test_one_that_does_not_run_has_them_at_its_next_start(cove: Cove) -> None:
    cove("create", "--name", "still", "-v", "first:/a", "bb", "ls", "/a", "/b")
    told = cove("update", REMOVE, "/a", ADD, "source=second,target=/b", "still")
    assert (
        told.out == "still\n" and told.err == "cove: the mounts of still change at its next start\n"
    )
    cove("volume", "rm", "first")
    assert "still has it" in cove("volume", "rm", "second", code=1).err
    assert "ls: /a: No such file" in cove("start", "-a", "still", code=1).err
    cove("rm", "still")
    cove("volume", "rm", "second")


@container_only("a virtual machine has them from its next start on: tests/vm/test_volumes.py")
def test_what_cannot_be_changes_nothing(cove: Cove, name: str, tmp_path: Path) -> None:
    """Also what was done already is taken back, in the machine and in its record."""
    gone = tmp_path / "gone"
    cove("update", ADD, f"type=bind,source={tmp_path},target=/held", name)
    before = targets(cove, name), sh(cove, name, "cat /proc/mounts")
    link = f"type=bind,source={tmp_path}/link,target=/y"
    (tmp_path / "link").symlink_to("/proc/self/root")
    sh(cove, name, "echo file > /plain")
    for words, why in (
        ((REMOVE, "/other"), "cannot unmount /other: the machine has no such mount"),
        ((ADD, f"type=bind,source={gone},target=/x"), "no such file or directory"),
        ((ADD, "source=v,target=/held"), "cannot mount on /held: it is named twice"),
        ((ADD, "source=v,target=/proc/x"), "/proc is the machine's own"),
        ((ADD, link), "too many symbolic links, or one of /proc"),
        ((ADD, "source=fresh,target=/f", ADD, "source=v,target=/plain/x"), "/plain/x"),
    ):
        refused = cove("update", *words, name, code=None)
        assert refused.returncode and why in refused.err, words
        assert (targets(cove, name), sh(cove, name, "cat /proc/mounts")) == before, words
    # Somebody is in it.
    cove("exec", "-d", name, "sh", "-c", "cd /held && touch there && sleep 100000")
    with pytest.raises(AssertionError, match="busy"):
        cove("update", REMOVE, "/held", name)
    assert (targets(cove, name), sh(cove, name, "cat /proc/mounts")) == before
    cove("volume", "prune", "-af")


@container_only("a virtual machine has them from its next start on: tests/vm/test_volumes.py")
def test_a_link_on_the_way_uncovers_nothing(cove: Cove, name: str) -> None:
    """Else who makes it would have what is hidden in /proc unmounted by cove."""
    masked = {line.split()[1] for line in sh(cove, name, "cat /proc/mounts").splitlines()}
    hidden = min(path for path in masked if path.count("/") == 2 and path.startswith("/proc/"))
    target = f"/dir/{hidden.removeprefix('/proc/')}"
    cove("update", ADD, f"type=tmpfs,target={target}", name)
    sh(cove, name, "mv /dir /elsewhere && ln -s /proc /dir")
    before = sh(cove, name, "cat /proc/mounts")
    refused = cove("update", REMOVE, target, name, code=None)
    assert refused.returncode and target in refused.err
    assert sh(cove, name, "cat /proc/mounts") == before and f" {hidden} " in before
    assert target in targets(cove, name)
