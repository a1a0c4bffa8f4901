"""How many descriptors the daemon may have: not as few as the shell that happened to start it."""

from __future__ import annotations

import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.driver import Cove, front_path, new_cove, wait_until
from tests.kernel.settled import fds_of
from tests.leaks import check_nothing_left
from tests.shared import no_scenario

FILES = resource.RLIMIT_NOFILE
MANY = 1100
"""select(2) knows no number above 1023."""


@pytest.fixture
def hard() -> Iterator[int]:
    """How many files this process could have, and whoever it starts: enough for the test, which a
    login of 1,024 is not.
    """
    soft, before = resource.getrlimit(FILES)
    hard = max(before, 2 * MANY)
    try:
        resource.setrlimit(FILES, (soft, hard))
    except (OSError, ValueError):
        pytest.skip(f"needs {hard} open files: the hard limit is {before}")
    try:
        yield hard
    finally:
        resource.setrlimit(FILES, (soft, before))


@pytest.fixture
def cove(bb_tar: Path, hard: int) -> Iterator[Cove]:
    """Its daemon is started by a command that may have 64 open files, and could have more."""
    made = new_cove()
    words = ["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh", str(front_path()), "image", "import"]
    try:
        subprocess.run([*words, str(bb_tar), "bb"], env=made.env, check=True, capture_output=True)
        yield made
    finally:
        made.close()
    check_nothing_left(made.root)


@contextmanager
def room_for_many() -> Iterator[None]:
    """In this process, which holds the other ends."""
    soft, hard = resource.getrlimit(FILES)
    resource.setrlimit(FILES, (max(soft, min(2 * MANY, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(FILES, (soft, hard))


@no_scenario("it is about the daemon, whatever its machines are")
def test_a_shells_limit_is_nobody_elses(cove: Cove, hard: int, tmp_path: Path) -> None:
    """Forty followers need two hundred; machines have the limits that their plans say."""
    assert resource.prlimit(cove.daemon_pid(), FILES) == (min(hard, 1 << 20), hard)
    cove("run", "-di", "--name", "star", "bb", "sh", "-c", "ulimit -Sn; ulimit -Hn; read x")
    said = f"{min(1024, hard)}\n{min(524288, hard)}\n"
    followers = [cove.spawn("logs", "-f", "star") for _ in range(40)]
    assert cove("exec", "star", "sh", "-c", "ulimit -Sn; ulimit -Hn").out == said
    cove.spawn("attach", "star", stdin=subprocess.PIPE).communicate(b"x\n", timeout=180)
    for follower in followers:
        assert follower.communicate(timeout=180) == (said.encode(), b"")
    # Numbers above all that select(2) knows: nothing that the daemon waits for is waited for so.
    with room_for_many(), ExitStack() as stack:
        for _ in range(MANY):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(cove.root / "run/api.sock"))
        wait_until(lambda: fds_of(cove.daemon_pid()) > MANY, "all of them to be let in")
        cove("start", "star")
        cove("exec", "star", "sh", "-c", "echo kept > /kept")
        cove("cp", "star:/kept", str(tmp_path))
        cove("stop", "-t", "0", "star")
        cove("commit", "star", "again")
        cove("image", "save", "-o", str(tmp_path / "saved"), "again")
    assert cove("run", "--rm", "again", "cat", "/kept").out == "kept\n"
    assert (tmp_path / "kept").read_text() == "kept\n"
