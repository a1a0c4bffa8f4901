"""A guest kernel comes up with our initrd, by our command line, under emulation."""

from __future__ import annotations

from pathlib import Path

import pytest

from cove.plan.facts import Facts
from tests.vm.conftest import Stored
from tests.vm.guests import Running

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_a_guest_mounts_its_image_and_ends_when_told(
    stored: Stored,
    guest_init: bytes,
    root_disk: Path,
    emulating: Facts,
    tmp_path: Path,
) -> None:
    scratch = tmp_path / "scratch"
    with scratch.open("wb") as file:
        file.truncate(16 << 20)
    with Running(stored, guest_init, emulating, root_disk, scratch=scratch) as guest:
        seconds = guest.wait_ready()
        lines = guest.lines()
        print(f"{stored.kernel.name}: ready after {seconds:.2f} s, {lines['times']}")
        assert lines["hello"] == "world"
        assert lines["kernel"] == stored.kernel.version
        assert lines["cpus"] == "1"
        assert lines["entropy"] == "256", "the CPU's own generator seeds the kernel's"
        assert {"erofs", "overlay", "ext4", "tmpfs", "cgroup2", "proc", "mqueue"} <= set(
            lines["filesystems"].split()
        )
        assert "module" not in lines and "mount" not in lines
        guest.agent.sendall(b"end\n")
        assert guest.wait_end() == 1, "the agent's own end: a zero through the exit port"
        assert b"panic" not in guest.heard["console"]


def test_every_cpu_is_found(
    stored: Stored, guest_init: bytes, root_disk: Path, emulating: Facts
) -> None:
    with Running(stored, guest_init, emulating, root_disk, cpus=2) as guest:
        guest.wait_ready()
        assert guest.lines()["cpus"] == "2"


def test_a_panic_ends_the_machine_and_is_told(
    stored: Stored, guest_init: bytes, root_disk: Path, emulating: Facts
) -> None:
    """Told from the agent's own end by QEMU's exit code, and by what the console says."""
    with Running(stored, guest_init, emulating, root_disk) as guest:
        guest.wait_ready()
        guest.agent.sendall(b"panic\n")
        assert guest.wait_end() == 0
        assert b"Kernel panic - not syncing: Attempted to kill init!" in guest.heard["console"]
