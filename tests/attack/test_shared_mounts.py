"""On a host whose mounts are shared, as systemd makes them: what is mounted inside stays inside,
and what is taken from such a mount can be a root. A container that these tests run in may have
private mounts, which hide both.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.driver import Cove, front_path
from tests.shared import container_only

IMAGE = "keeper"
Shared = Callable[..., str]


@pytest.fixture
def shared(fresh_cove: Cove) -> Iterator[Shared]:
    """Commands to a daemon that the first of them starts on such a host."""
    cove = fresh_cove
    cove.stop_daemon()

    def run(*words: str) -> str:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "shared", str(front_path()), *words],
            env=cove.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, f"{done.stderr}{cove.post_mortem()}"
        return done.stdout

    yield run
    cove.stop_daemon()


NAMES = ("hosts", "hostname", "resolv.conf")


def mounts_of_daemon(cove: Cove) -> list[str]:
    return Path(f"/proc/{cove.daemon_pid()}/mountinfo").read_text().splitlines()


def over_names(mounts: list[str]) -> list[str]:
    """The mount points that are such files. (The daemon itself mounts a root for the next machine,
    whenever it comes to it.)"""
    places = [line.split()[4] for line in mounts]
    return [place for place in places if place.rpartition("/")[2] in NAMES]


@container_only("a guest has mounts of its own")
@pytest.mark.parametrize("ids", [("--cap-add", "SYS_ADMIN"), ("--privileged",)])
def test_a_mount_over_a_generated_file(
    fresh_cove: Cove, shared: Shared, ids: tuple[str, ...]
) -> None:
    """The file lies in the daemon's state directory."""
    shared("run", "-d", "--name", "mounter", *ids, "bb", "sleep", "1000")
    before = mounts_of_daemon(fresh_cove)
    assert any(" shared:" in line for line in before), "the daemon is on such a host"
    for name in NAMES:
        shared("exec", "mounter", "mount", "--bind", "/etc/passwd", f"/etc/{name}")
    assert "ada" in shared("exec", "mounter", "cat", "/etc/hosts")
    assert over_names(mounts_of_daemon(fresh_cove)) == over_names(before)
    shared("rm", "-f", "mounter")


def test_a_volume_is_filled_kept_and_brought_back(
    fresh_cove: Cove, shared: Shared, bb_tar: Path, tmp_path: Path
) -> None:
    shared("image", "import", "-c", "VOLUME /home", str(bb_tar), IMAGE)
    look = ("-v", "homes:/home", IMAGE, "ls", "-ln", "/home")
    filled = shared("run", "--rm", *look)
    assert "1000     1000" in filled and "ada" in filled
    shared("volume", "backup", "-o", str(tmp_path / "v.tar"), "homes")
    shared("volume", "rm", "homes")
    shared("volume", "create", "homes")
    shared("volume", "restore", "homes", str(tmp_path / "v.tar"))
    assert shared("run", "--rm", *look) == filled
