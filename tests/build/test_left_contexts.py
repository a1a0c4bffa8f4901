"""Who leaves while a context of very many files is read: it ends at once, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.test_web import nameless
from tests.driver import Cove, wait_until

pytestmark = pytest.mark.usefixtures("tidied")

FOLDERS, FILES = 60, 500


@pytest.fixture(scope="module")
def many() -> Iterator[Path]:
    """In memory: no disk is waited for."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        top = Path(made)
        for folder in range(FOLDERS):
            (top / f"d{folder}").mkdir()
            for file in range(FILES):
                os.close(os.open(top / f"d{folder}/f{file}", os.O_CREAT | os.O_WRONLY))
        yield top


def is_read(pid: int, top: Path) -> bool:
    """Whether a process has a folder below it open."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(fd).startswith(f"{top}/d"):
                return True
    return False


@pytest.mark.parametrize("source", [".", "d*/f49*"])
def test_who_leaves_while_a_context_is_read(cove: Cove, many: Path, source: str) -> None:
    """No step begins before all of it is there: who reads it is interrupted."""
    (many / "Dockerfile").write_text(f"FROM bb\nRUN sleep 1000\nCOPY {source} /to/\n")
    caller = cove.spawn("build", "--no-cache", str(many))
    daemon = cove.daemon_pid()
    try:
        wait_until(lambda: is_read(daemon, many) or caller.poll() is not None, "who reads it")
    finally:
        caller.send_signal(signal.SIGINT)
    _, said = caller.communicate(timeout=120)
    assert caller.returncode == 130 and b"RUN sleep" not in said, said
    assert said.decode().endswith("cove: interrupted\n")
    wait_until(lambda: not nameless(cove), "the end of the build")
    assert not is_read(daemon, many)
