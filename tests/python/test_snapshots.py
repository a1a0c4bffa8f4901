"""machine.snapshot(), restore() and fork()."""

from __future__ import annotations

import pytest

import cove as package
from cove import Client
from tests.driver import Cove


def test_what_was_kept_comes_back(cove: Cove, client: Client) -> None:
    machine = client.start("bb", ["sleep", "1000"], name="kept")
    try:
        machine.put(b"one", "/f")
        assert machine.snapshot() == "kept-1"
        assert machine.snapshot("good", pause=False) == "good"
        machine.put(b"two", "/f")
        machine.restore()
        assert machine.get("/f") == b"one"
        machine.restore("kept-1")
        with pytest.raises(package.NotFound):
            machine.restore("nothing")
    finally:
        machine.remove(force=True)
        cove("snapshot", "rm", "-f", "kept-1", "good")


def test_forks_have_its_files(client: Client) -> None:
    with client.machine("bb", ["sleep", "1000"]) as machine:
        machine.put(b"common", "/f")
        forks = machine.fork(2, name="kid")
        try:
            assert [fork.name for fork in forks] == ["kid-1", "kid-2"]
            forks[0].put(b"own", "/f")
            assert [fork.get("/f") for fork in forks] == [b"own", b"common"]
            assert machine.get("/f") == b"common"
        finally:
            for fork in forks:
                fork.close()
    assert client.machines(all=True) == []
