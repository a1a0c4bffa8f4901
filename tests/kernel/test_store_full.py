"""A state directory that is full, read-only or not ours: told in words, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cove.errors import CoveError, HostError
from cove.roots import prepare_root
from cove.spec.machine import MachineSpec
from cove.store.blobs import Blobs
from cove.store.db import Store
from cove.store.records import MachineRecord
from tests.conftest import need_root
from tests.leaks import leaks


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    need_root()
    with leaks(tmp_path):
        (tmp_path / "small").mkdir()
        options = "size=4m,mode=700"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", tmp_path / "small"], check=True
        )
        yield tmp_path / "small"
        subprocess.run(["umount", tmp_path / "small"], check=True)


def machine(key: int) -> MachineRecord:
    spec = MachineSpec(image="host", env=("X=" + "y" * 20_000,))
    return MachineRecord(key, f"{key:064x}", f"m{key}", spec, "host", "created", 1.0)


def test_full(small: Path) -> None:
    root = small / "state"
    with Store.open(root) as store:
        with pytest.raises(HostError) as error:
            for key in range(1, 1000):
                store.add_machine(machine(key))
        assert (
            error.value.message == f"cannot use the state directory {root}: no space left on device"
        )
        assert error.value.hint
        kept = store.machines()
        assert kept
        with pytest.raises(HostError, match="no space left on device"), store.transaction():
            for key in range(1000, 2000):
                store.add_machine(machine(key))
        assert store.machines() == kept
        with pytest.raises(HostError, match="no space left on device"):
            Blobs(store.layout).put(b"x" * (4 << 20))
        assert os.listdir(store.layout.tmp) == []
        store.put_machine(msgspec.structs.replace(kept[1], state="exited"))
        store.remove_machine(kept[0].key)
    with Store.open(root) as store:
        assert [machine.state for machine in store.machines()][:2] == ["exited", "created"]
        assert [machine.key for machine in store.machines()] == [m.key for m in kept[1:]]


def test_full_from_the_start(small: Path) -> None:
    with open(small / "ballast", "wb", buffering=0) as file, pytest.raises(OSError) as full:
        while True:
            file.write(b"x" * 4096)
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(HostError, match="no space left on device"):
        Store.open(small / "state").close()
    os.unlink(small / "ballast")
    Store.open(small / "state").close()


def test_read_only(small: Path) -> None:
    Store.open(small / "state").close()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    for root in (small / "state", small / "new"):
        with pytest.raises(HostError) as error:
            Store.open(root)
        assert (
            error.value.message == f"cannot use the state directory {root}: read-only file system"
        )
    with pytest.raises(HostError, match="read-only file system"):
        prepare_root(str(small / "state"), 7)
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)


NOT_ROOT = """
import os, sys
from cove.errors import CoveError
from cove.store.db import Store
os.setresuid(65534, 65534, 65534)
try:
    Store.open(sys.argv[1])
except CoveError as error:
    sys.stdout.write(error.render())
"""


@pytest.mark.parametrize("made", [False, True])
def test_not_root(made: bool) -> None:
    need_root()
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        root = f"{scratch}/state"
        if made:
            Store.open(root).close()
        command = [sys.executable, "-c", NOT_ROOT, root]
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert found.startswith(f"cove: cannot use the state directory {root}: ")
    assert ("it belongs to uid 0" if made else "permission denied") in found
    assert "hint: run " in found


def test_errors_are_for_people() -> None:
    with pytest.raises(CoveError) as error:
        Store.open("/proc/nothing/here")
    assert error.value.message.startswith("cannot use the state directory /proc/nothing/here: ")
