"""kill -9 of the daemon while a guest kernel comes in: it is there and whole, or never was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.driver import Cove
from tests.shared import no_scenario
from tests.vm.kernels import elf

pytestmark = no_scenario("guest kernels that come in: no machine is made")

BUILT_IN = "".join(
    f"CONFIG_{name}=y\n"
    for name in ("VIRTIO_MMIO", "VIRTIO_BLK", "VIRTIO_CONSOLE", "VIRTIO_NET", "EROFS_FS", "EXT4_FS",
                 "OVERLAY_FS")
)  # fmt: skip


@pytest.mark.parametrize("stage", [b"unpacking the kernel\n", b"collecting its drivers\n"])
def test_a_kernel_is_whole_or_was_never_there(
    fresh_cove: Cove, tmp_path: Path, stage: bytes
) -> None:
    (tmp_path / "vmlinux").write_bytes(elf(body=bytes(64 << 20)))
    (tmp_path / "config").write_text(BUILT_IN)
    words = ("kernel", "add", str(tmp_path / "vmlinux"), "--config", str(tmp_path / "config"))
    fresh_cove(*words, "--name", "before")
    with fresh_cove.spawn(*words, "--name", "new") as adding:
        assert adding.stderr is not None
        while (line := adding.stderr.readline()) != stage:
            assert line, "it ended before its time"
        fresh_cove.kill_daemon()
        adding.stderr.read()
        adding.wait(180)
    names = fresh_cove("kernel", "ls", "-q").out.split()
    assert "before" in names and set(names) <= {"before", "new"}
    for name in names:
        directory = fresh_cove.root / "kernels" / name
        assert json.loads((directory / "meta.json").read_text())["name"] == name
        assert (directory / "kernel").read_bytes() == (tmp_path / "vmlinux").read_bytes()
    assert os.listdir(fresh_cove.root / "kernels") == names or len(names) == 2
    assert [n for n in os.listdir(fresh_cove.root / "tmp") if n.startswith("kernel-")] == []


def test_what_a_killed_daemon_left_is_swept(fresh_cove: Cove) -> None:
    fresh_cove.kill_daemon()
    half = fresh_cove.root / "tmp/work-1-1/source"
    half.mkdir(parents=True)
    (half / "Makefile").write_text("half\n")
    assert fresh_cove("kernel", "ls", "-q").out == ""
    fresh_cove.stop_daemon()
    assert not half.exists()
