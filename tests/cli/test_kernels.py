"""``cove kernel``: guest kernels come in whole or not at all; what is wrong with one is said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.driver import Cove
from tests.vm.kernels import arm64_image, bzimage, compressed, elf, module

pytestmark = pytest.mark.usefixtures("no_leaks")

DRIVERS = ("VIRTIO_MMIO", "VIRTIO_BLK", "VIRTIO_CONSOLE", "VIRTIO_NET", "EROFS_FS", "EXT4_FS",
           "OVERLAY_FS")  # fmt: skip
BUILT_IN = "".join(f"CONFIG_{name}=y\n" for name in DRIVERS)
MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "erofs", "ext4", "overlay")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a kernel in every form, its configuration and its modules."""
    kernel = elf()
    (tmp_path / "vmlinux").write_bytes(kernel)
    (tmp_path / "vmlinuz").write_bytes(bzimage(compressed("xz", kernel), len(kernel)))
    (tmp_path / "Image").write_bytes(arm64_image())
    (tmp_path / "config").write_text(f"{BUILT_IN}CONFIG_HZ=1000\nCONFIG_PSI=y\n")
    drivers = tmp_path / "modules/kernel/drivers"
    drivers.mkdir(parents=True)
    for name in MODULES:
        (drivers / f"{name}.ko").write_bytes(module(name, depends="virtio"))
    (drivers / "virtio.ko").write_bytes(module("virtio"))
    return tmp_path


def listed(cove: Cove) -> list[dict[str, str]]:
    lines = cove("kernel", "ls", "--format", "json").out.splitlines()
    return [row for row in map(json.loads, lines) if row["Status"] == "ready"]


def test_a_kernel_is_added_listed_and_removed(cove: Cove, files: Path) -> None:
    done = cove("kernel", "add", "./vmlinuz", "--config", "config", cwd=files)
    assert done.out == "6.1.0-test\n"
    assert done.err == "unpacking the kernel\ncollecting its drivers\n"
    (row,) = listed(cove)
    assert (row["Name"], row["Arch"], row["Source"]) == ("6.1.0-test", "amd64", "file")
    assert row["Origin"] == str(files / "vmlinuz")
    assert cove("kernel", "ls", "-q").out == "6.1.0-test\n"
    table = cove("kernel", "list").out.splitlines()
    assert table[0].split() == ["NAME", "VERSION", "ARCH", "SOURCE", "STATUS", "CREATED", "SIZE"]
    assert cove("kernel", "rm", "6.1.0-test").out == "6.1.0-test\n"
    assert listed(cove) == []
    assert os.listdir(cove.root / "kernels") == os.listdir(cove.root / "tmp") == []


def test_a_kernel_comes_with_the_modules_it_needs(cove: Cove, files: Path) -> None:
    cove("kernel", "add", "-q", str(files / "vmlinux"), "--modules", str(files / "modules"),
         "--name", "mine")  # fmt: skip
    meta = json.loads((cove.root / "kernels/mine/meta.json").read_text())
    assert meta["modules"] == ["virtio", *MODULES]
    assert meta["digest"].startswith("sha256:") and meta["hz"] == 250
    have = {path.stem for path in (cove.root / "kernels/mine/modules").iterdir()}
    assert have == set(meta["modules"])
    assert (cove.root / "kernels/mine/kernel").read_bytes() == elf()
    cove("kernel", "rm", "mine")


def test_an_arm64_image_is_taken_on_any_host(cove: Cove, files: Path) -> None:
    cove("kernel", "add", "-q", str(files / "Image"), "--config", str(files / "config"),
         "--name", "arm")  # fmt: skip
    (row,) = listed(cove)
    assert row["Arch"] == "arm64"
    meta = json.loads((cove.root / "kernels/arm/meta.json").read_text())
    assert (meta["hz"], meta["options"]) == (1000, ["PSI"])
    cove("kernel", "rm", "arm")


def test_a_name_that_is_taken_is_a_conflict(cove: Cove, files: Path) -> None:
    words = ("kernel", "add", str(files / "vmlinux"), "--config", str(files / "config"))
    cove(*words)
    said = cove(*words, code=1).err
    assert said.endswith(
        f"cove: cannot add {files}/vmlinux: there is a kernel 6.1.0-test\n"
        "  hint: another name: --name NAME, or cove kernel rm 6.1.0-test\n"
    )
    cove("kernel", "rm", "6.1.0-test")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "nothing"), 125, "cannot add nothing: no such file"),
        (("add", "/dev/zero"), 125, "cannot add /dev/zero: it is no regular file"),
        (("add", "/etc/passwd"), 1, "cannot add /etc/passwd: it is no kernel that cove knows"),
        (("add", "./vmlinux"), 1, "it does not say which drivers it has"),
        (("add", "./vmlinux", "--config", "none"), 125, "/none: no such file or directory"),
        (("add", "./vmlinux", "--config", "config", "--name", "../x"), 125,
         '"../x" is no name for a kernel'),
        (("add", "./cut", "--config", "config"), 1, "/cut: it is truncated"),
        (("add", "./lacking", "--config", "no-blk"), 125, "/lacking: no such file"),
        (("add", "./vmlinux", "--config", "no-blk"), 1,
         "virtio_blk (its disks) is neither built in nor a module"),
        (("add", "./vmlinux", "--config", "m-blk"), 1,
         "virtio_blk (its disks) is a module that is not there"),
        (("fetch", "--platform", "windows/amd64"), 125, "only linux/amd64 and linux/arm64"),
        (("fetch", "--", "-oDir=/"), 125, '"-oDir=/": it is no name of a package'),
        (("build", "-j0"), 125, 'cannot read --jobs "0": not a number from 1 to 1024'),
        (("rm", "../machines"), 1, "cannot find kernel ../machines: no such kernel"),
        (("rm", "none"), 1, "cannot find kernel none: no such kernel"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_leaves_nothing(
    cove: Cove, files: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (files / "cut").write_bytes((files / "vmlinuz").read_bytes()[:-50])
    config = (files / "config").read_text()
    (files / "no-blk").write_text(config.replace("CONFIG_VIRTIO_BLK=y\n", ""))
    (files / "m-blk").write_text(config.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m"))
    done = cove("kernel", *words, code=code, cwd=files)
    assert said in done.err
    assert listed(cove) == []
    assert os.listdir(cove.root / "tmp") == []


def test_removing_one_that_is_missing_goes_on_with_the_others(cove: Cove, files: Path) -> None:
    cove("kernel", "add", "-q", str(files / "vmlinux"), "--config", str(files / "config"))
    done = cove("kernel", "rm", "none", "6.1.0-test", code=1)
    assert done.out == "6.1.0-test\n" and "cannot find kernel none" in done.err


def test_a_damaged_record_is_left_out_and_can_be_removed(cove: Cove, files: Path) -> None:
    cove("kernel", "add", "-q", str(files / "vmlinux"), "--config", str(files / "config"))
    (cove.root / "kernels/6.1.0-test/meta.json").write_text("{")
    assert listed(cove) == []
    assert cove("kernel", "rm", "6.1.0-test").out == "6.1.0-test\n"
