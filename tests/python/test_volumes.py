"""``cove.volumes``: the verbs of volumes in Python."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest

import cove as package
from tests.driver import Cove


def test_volumes_are_made_copied_and_removed(cove: Cove, tmp_path: Path) -> None:
    volumes = package.connect(str(cove.root)).volumes
    made = volumes.create("one", labels={"of": "ada"})
    assert made.record.labels == {"of": "ada"} and made.users == ()
    assert volumes.create("one") == made and volumes.get("one") == made
    Path(made.mountpoint, "file").write_text("kept\n")
    small = volumes.create("small", size="20m")
    theirs = volumes.create("theirs", device=tmp_path)
    assert small.record.options == {"size": "20m"} and theirs.mountpoint == str(tmp_path)
    assert [v.record.name for v in volumes.list()] == ["one", "small", "theirs"]
    with pytest.raises(package.Conflict, match="other options"):
        volumes.create("one", size="20m")
    with pytest.raises(package.UsageError, match="only letters"):
        volumes.create("../one")
    # Into files by name, which are whole or not there, and open ones.
    tar = tmp_path / "one.tar"
    volumes.backup("one", tar)
    with pytest.raises(package.NotFound):
        volumes.backup("none", tmp_path / "none.tar")
    with pytest.raises(package.UsageError, match="cannot write"):
        volumes.backup("one", tmp_path / "no" / "where")
    assert os.listdir(tmp_path) == ["one.tar"]
    volumes.restore("small", tar)
    with tar.open("rb") as file:
        again = volumes.restore("again", file)
    assert Path(again.mountpoint, "file").read_text() == "kept\n"
    with pytest.raises(package.Conflict, match="there is something in it"):
        volumes.restore("again", tar)
    volumes.restore("again", tar, force=True)
    volumes.clone("small", "copy")
    with (tmp_path / "copy.tar").open("wb") as out:
        volumes.backup("copy", out)
    assert b"kept" in (tmp_path / "copy.tar").read_bytes()
    with pytest.raises((OSError, io.UnsupportedOperation)):
        volumes.backup("one", io.BytesIO())
    cove("create", "--name", "user", "-v", "one:/x", "bb", "true")
    assert volumes.get("one").users == ("user",)
    with pytest.raises(package.Conflict, match="user has it"):
        volumes.remove("one")
    assert set(volumes.prune(all=True).names) == {"small", "theirs", "again", "copy"}
    cove("rm", "user")
    volumes.remove("one")
    assert volumes.list() == ()


def test_as_coroutines(cove: Cove) -> None:
    async def main() -> None:
        volumes = package.aio.connect(str(cove.root)).volumes
        await volumes.create("later")
        assert [v.record.name for v in await volumes.list()] == ["later"]
        await volumes.remove("later")

    asyncio.run(main())
