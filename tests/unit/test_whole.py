"""What appears under a name when it is whole: what lies beside it until then is its writer's, and
nobody's when the writer is gone.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cove.cli import whole
from cove.linux import syscalls


def layout(path: Path, word: str) -> None:
    path.mkdir()
    (path / "index.json").write_text(word)


def write(path: Path, word: str) -> None:
    with whole.directory(str(path), check=lambda there: None) as part:
        Path(part, "index.json").write_text(word)


def test_a_directory_takes_the_place_of_another(tmp_path: Path) -> None:
    layout(tmp_path / "x", "old")
    with whole.directory(str(tmp_path / "x"), check=lambda there: None) as part:
        Path(part, "index.json").write_text("new")
        assert (tmp_path / "x/index.json").read_text() == "old"
    assert (tmp_path / "x/index.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


def test_where_there_is_no_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(one: str, other: str) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    layout(tmp_path / "x", "old")
    monkeypatch.setattr(syscalls, "exchange", refuse)
    write(tmp_path / "x", "new")
    assert (tmp_path / "x/index.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    layout(tmp_path / ".x.cove-0", "left")
    (tmp_path / ".x.cove-1").write_text("left")
    write(tmp_path / "x", "new")
    write(tmp_path / "x", "newer")
    with whole.directory(str(tmp_path / "y")):
        assert (tmp_path / ".x.cove-1").exists(), "of another name"
    assert sorted(os.listdir(tmp_path)) == [".x.cove-1", "x", "y"]


def test_what_somebody_writes_or_keeps_stays(tmp_path: Path) -> None:
    layout(tmp_path / ".x.cove-0", "a user's")
    (tmp_path / ".x.cove-0/precious").write_text("p")
    (tmp_path / ".x.cove-1").symlink_to(tmp_path / ".x.cove-0")
    with whole.directory(str(tmp_path / "x")) as one:
        with whole.directory(str(tmp_path / "x"), check=lambda there: None) as other:
            assert one != other
            Path(other, "index.json").write_text("other")
        Path(one, "index.json").write_text("one")
        with pytest.raises(OSError, match="not empty"), whole.directory(str(tmp_path / "x")):
            pass
        os.unlink(tmp_path / "x/index.json")
    assert (tmp_path / "x/index.json").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == [".x.cove-0", ".x.cove-1", "x"]


def test_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name, code in (("file", errno.ENOTDIR), ("link", errno.ENOTDIR), ("no/x", errno.ENOENT)):
        with pytest.raises(OSError) as caught, whole.directory(str(tmp_path / name)):
            pass
        assert caught.value.errno == code, name
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]
