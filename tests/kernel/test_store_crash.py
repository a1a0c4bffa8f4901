"""A writer is killed in the middle of what it does: what was acknowledged is there, and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cove.store.db import Store
from tests.leaks import leaks

WRITER = """
import os, sys
from cove.store.db import Store
from cove.store.records import MachineRecord, LayerRecord
from cove.spec.machine import MachineSpec
store = Store.open(sys.argv[1])
def record(key, name):
    spec = MachineSpec("x", env=("A=" + "b" * 500,))
    return MachineRecord(key, f"{key:064x}", name, spec, "i", "created", 1.0)
while True:
    with store.transaction():
        a, b = store.new_key(), store.new_key()
        store.add_machine(record(a, f"a{a}"))
        store.put_layer(LayerRecord(b, f"sha256:{a}", 1, 1.0))
        store.add_machine(record(b, f"b{a}"))
    os.write(1, f"{a} {b}\\n".encode())
    if a % 3 == 0:
        store.remove_machine(b)
        os.write(1, f"-{b}\\n".encode())
"""


def kill_after(root: Path, lines: int) -> tuple[dict[int, int], set[int]]:
    """Pairs and removals the writer acknowledged before it was killed."""
    command = [sys.executable, "-c", WRITER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        head = [writer.stdout.readline() for _ in range(lines)]
        os.kill(writer.pid, signal.SIGKILL)
        said = "".join(head) + writer.stdout.read()
    pairs, removed = {}, set()
    for line in said.splitlines():
        if line.startswith("-"):
            removed.add(int(line[1:]))
        else:
            first, second = line.split()
            pairs[int(first)] = int(second)
    return pairs, removed


@pytest.mark.parametrize("lines", [1, 2, 40, 400])
def test_nothing_acknowledged_is_lost_and_nothing_is_half(tmp_path: Path, lines: int) -> None:
    root = tmp_path / "state"
    for _ in range(2):  # the second writer goes on where the first was killed
        with leaks():
            pairs, removed = kill_after(root, lines)
        with Store.open(root) as store:
            keys = {machine.key for machine in store.machines()}
            for first, second in pairs.items():
                assert first in keys
                if second not in removed:
                    assert second in keys or first % 3 == 0
            assert not keys & removed
            layers = {layer.diff_id for layer in store.layers()}
            for machine in store.machines():
                if machine.name.startswith("a"):
                    assert f"sha256:{machine.key}" in layers
            firsts = {m.key for m in store.machines() if m.name.startswith("a")}
            for machine in store.machines():
                assert machine.name.startswith("a") or int(machine.name[1:]) in firsts
            assert store.new_key() > max(keys)


def test_a_killed_holder_s_lock_is_free_at_once(tmp_path: Path) -> None:
    with leaks():
        kill_after(tmp_path / "state", 1)
        Store.open(tmp_path / "state").close()
