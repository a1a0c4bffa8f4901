"""Contexts that cannot be read, or change while they are: what is wrong is named, and nothing that
is not whole becomes an image.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.build.files.entries import Files
from cove.build.files.wanted import Wanted
from cove.client.packing import Attributes, Packer
from cove.engine.builds.packs import read_sent
from cove.errors import HostError
from tests.build.conftest import Build
from tests.conftest import need_root

MANY = 20_000
NOBODY = 65534


@pytest.fixture
def top(tmp_path: Path) -> Path:
    place = tmp_path / "top"
    place.mkdir()
    return place


def sent(top: Path, kind: type[Packer] = Packer) -> Files:
    """What is sent of a context, as a daemon reads it."""
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with tempfile.TemporaryFile() as body, tempfile.TemporaryFile() as kept:
            packer = kind(root, str(top), Wanted(("/",), None), body.fileno(), threading.Event())
            packer.pack()
            body.seek(0)
            return read_sent(body.fileno(), kept.fileno(), lambda: None)
    finally:
        os.close(root)


# ---- what changes after a name was looked at, and before it is opened or read ----


class Changed(Packer):
    """Attributes are asked for between the measuring of a file and its reading."""

    def _attributes(self, fd: int, path: str) -> Attributes:
        if path.startswith("file"):
            change(f"/proc/self/fd/{fd}", os.path.getsize(f"/proc/self/fd/{fd}"))
        return ()


def change(path: str, size: int) -> None:
    os.truncate(path, size * 2 if size % 2 else size // 2)


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_file_that_shrinks_while_it_is_read_is_an_error(top: Path, size: int) -> None:
    (top / "file").write_bytes(bytes(size))
    with pytest.raises(HostError, match="file shrank while it was read"):
        sent(top, Changed)


@pytest.mark.parametrize("size", [101, (1 << 20) + 1])
def test_one_that_grows_is_as_long_as_it_was(top: Path, size: int) -> None:
    (top / "file").write_bytes(bytes(size))
    (top / "last").write_bytes(b"last")
    files = sent(top, Changed)
    assert (files["file"].size, files["last"].size) == (size, 4)


class Gone(Packer):
    """Names are there when a folder is listed, and something else when they are opened."""

    def _one(self, parent: int, name: str, path: str, *, inside: bool, depth: int) -> None:
        if name == "fifo":
            os.unlink(name, dir_fd=parent)
        super()._one(parent, name, path, inside=inside, depth=depth)

    def _file(self, parent: int, name: str, path: str) -> None:
        if name == "gone" or name.startswith("to-"):
            os.unlink(name, dir_fd=parent)
        if name == "to-link":
            os.symlink("/etc/passwd", name, dir_fd=parent)
        if name == "to-fifo":
            os.mkfifo(name, dir_fd=parent)
        super()._file(parent, name, path)

    def _enter(self, parent: int, name: str, *words: object, **more: object) -> None:
        os.rename(name, "was", src_dir_fd=parent, dst_dir_fd=parent)
        os.symlink("/etc", name, dir_fd=parent)
        super()._enter(parent, name, *words, **more)  # type: ignore[arg-type]


def test_names_that_become_something_else_are_not_followed(top: Path) -> None:
    for name in ("gone", "stays", "to-fifo", "to-link", "to-nothing"):
        (top / name).write_text(name)
    (top / "folder").mkdir()
    os.mkfifo(top / "fifo")
    assert sorted(sent(top, Gone).by_path) == ["", "stays"]


# ---- what cannot be read ----


@pytest.fixture
def readable(top: Path) -> Iterator[Path]:
    """A place that everybody may read, and this thread as somebody who may no more than that."""
    need_root()
    setfsuid = ctypes.CDLL(None).setfsuid
    top.chmod(0o755)
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    setfsuid(NOBODY)
    try:
        yield Path(f"/proc/self/fd/{root}")
    finally:
        setfsuid(0)
        os.close(root)


@pytest.mark.parametrize(("kind", "name"), [("file", "locked"), ("folder", "closed")])
def test_what_the_caller_may_not_read_is_named(
    top: Path, readable: Path, kind: str, name: str
) -> None:
    """A daemon that is root does not read it for them."""
    ctypes.CDLL(None).setfsuid(0)
    (top / name).mkdir(mode=0o700) if kind == "folder" else (top / name).touch(0o600)
    ctypes.CDLL(None).setfsuid(NOBODY)
    with pytest.raises(HostError) as raised:
        sent(readable)
    assert raised.value.message.endswith(f"{name}: permission denied")
    assert raised.value.hint == "leave it out: .dockerignore"


# ---- what is large, or has no end ----


def test_a_context_of_many_files() -> None:
    """Read and sent; benchmarks/builds.py builds of 50,000."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        for number in range(MANY):
            folder = Path(name, f"d{number // 500}")
            folder.mkdir(exist_ok=True)
            (folder / f"f{number}").write_bytes(b"%d" % number)
        files = sent(Path(name))
    assert len(files.by_path) == MANY + MANY // 500 + 1
    assert files["d39/f19999"].digest == hashlib.sha256(b"19999").hexdigest()


ENDLESS = {
    "a line": ("FROM bb\nRUN echo " + "x" * (10 << 20), "a line of 10485769 characters"),
    "lines": ("FROM bb\nRUN echo \\\n" + "x \\\n" * (1 << 19), "lines, more than 200000"),
    "an instruction": (
        "FROM bb\nRUN echo \\\n" + ("x" * 1000 + " \\\n") * 2000, "an instruction of more than"
    ),
    "a heredoc": ("FROM bb\nRUN <<E\n" + ("x" * 1000 + "\n") * 20_000, ""),
    "an ARG of itself": ("FROM bb\n" + "ARG A=$A$A\n" * 100 + "RUN echo $A\n", None),
    "an ARG that grows": (
        "ARG A=xxxxxxxx\n" + "ARG A=$A$A$A$A$A$A$A$A\n" * 20 + "FROM bb\n", "Dockerfile"
    ),
    "stages in a circle": (
        "FROM bb AS one\nCOPY --from=two /a /b\nFROM one AS two\n", "Dockerfile:2"
    ),
    "a mount in a circle": (
        "FROM bb AS one\nRUN --mount=from=two,target=/m true\nFROM one AS two\n", "Dockerfile:2"
    ),
}  # fmt: skip


@pytest.mark.usefixtures("tidied")
@pytest.mark.parametrize("case", ENDLESS)
def test_a_dockerfile_without_end_is_an_error_that_says_where(build: Build, case: str) -> None:
    text, words = ENDLESS[case]
    failed = build(text, code=None)
    assert words is None or words in failed.err, failed.err[-2000:]
    assert len(failed.err) < 4000, "what is said of it is short"
    assert failed.returncode == (0 if words is None else 1)
