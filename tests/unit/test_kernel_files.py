"""Kernels out of every form in which they are installed, modules in order, and the initrd."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cove.errors import BadArchive
from cove.vm import extract
from cove.vm.extract import Refused, unpack
from cove.vm.initrd import initrd, initrd_key
from cove.vm.modules import Module, Modules, lean, module_info
from tests.vm.kernels import arm64_image, bzimage, compressed, elf, lz4_block, module, zboot

FORMS = ("gzip", "bzip2", "xz", "lzma", "zstd", "lz4")
NOISE = random.Random(4).randbytes(3000) + bytes(5000) + b"end"


@pytest.mark.parametrize("form", FORMS)
def test_a_kernel_comes_out_of_every_compression(form: str) -> None:
    kernel = elf(body=NOISE)
    for whole in (
        bzimage(compressed(form, kernel), len(kernel)),
        bzimage(compressed(form, kernel + b"relocations"), len(kernel) + 11, sectors=27),
        compressed(form, kernel),
    ):
        found, out = unpack(whole)
        assert (found.arch, found.version) == ("x86_64", "6.1.0-test")
        assert out == kernel
    image = arm64_image()
    assert unpack(zboot(compressed(form, image)))[0].arch == "aarch64"


def test_what_is_uncompressed_is_taken_as_it_is() -> None:
    assert unpack(elf())[1] == elf()
    assert unpack(arm64_image())[0] == extract.Found("aarch64", "6.1.0-test", "")


def test_a_configuration_inside_is_found() -> None:
    body = b"IKCFG_ST" + compressed("gzip", b"CONFIG_PVH=y\n") + b"IKCFG_ED"
    assert unpack(elf(body=body))[0].config == "CONFIG_PVH=y\n"
    assert unpack(elf(body=b"IKCFG_ST\x1f\x8bnonsense"))[0].config == ""


KERNEL = elf(body=NOISE)
BZIMAGE = bzimage(compressed("gzip", KERNEL), len(KERNEL))
BAD = {
    "nothing": (b"", "no kernel"),
    "text": (b"#!/bin/sh\n", "no kernel"),
    "a program of 32 bits": (b"\x7fELF\x01\x01" + bytes(100), "64-bit"),
    "another CPU": (elf(machine=243), "another CPU"),
    "a vmlinux for arm64": (elf(machine=183), "give the Image"),
    "no PVH entry": (elf(pvh=False), "has no PVH entry"),
    "cut at its start": (BZIMAGE[:0x210], "truncated"),
    "cut in the payload": (BZIMAGE[:-100], "truncated"),
    "cut elf": (KERNEL[:-1], "truncated"),
    "too short": (bzimage(compressed("gzip", KERNEL), len(KERNEL) - 1), "more than it says"),
    "too long": (bzimage(compressed("gzip", KERNEL), len(KERNEL) + 1), "another length"),
    "huge": (bzimage(compressed("gzip", KERNEL), 0xFFFFFFFF), "claims to hold a kernel of 4095"),
    "lzo": (bzimage(b"\x89LZO" + bytes(100), 100), "lzo, which cove cannot read"),
    "unknown": (bzimage(b"what is this" * 9, 100), "something unknown"),
    "payload beyond": (BZIMAGE[:0x248] + struct.pack("<II", 0xFFFFFFF0, 9) + BZIMAGE[0x250:],
                       "truncated"),
    "segments beyond": (KERNEL[:32] + struct.pack("<Q", 1 << 63) + KERNEL[40:], "truncated"),
    "65535 segments": (KERNEL[:56] + b"\xff\xff" + KERNEL[58:], "truncated"),
    "zstd cut": (bzimage(compressed("zstd", KERNEL)[:-9], len(KERNEL)), "truncated|damaged"),
    "lz4 back": (compressed("lz4", b"")[:4] + struct.pack("<I", 8) + b"\x10A\x09\x00" + bytes(9),
                 "refers to what is not there"),
    "lz4 over": (b"\x02\x21\x4c\x18" + struct.pack("<I", 8) + b"\xf0\xff\xff\xff\xff\xff\x00A"
                 + bytes(9), "runs over its end"),
    "lz4 counts on": (b"\x02\x21\x4c\x18" + struct.pack("<I", 8) + b"\xf0" + b"\xff" * 7
                      + bytes(9), "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_kernel_is_refused_with_its_reason(name: str) -> None:
    data, why = BAD[name]
    with pytest.raises(Refused, match=why):
        unpack(data)


def test_a_bomb_is_refused_before_it_goes_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "KERNEL_MAX", 1 << 20)
    for form in FORMS:
        with pytest.raises(Refused, match=r"more than it says|not there|runs over"):
            unpack(compressed(form, elf(body=bytes(2 << 20))))


def test_no_damage_does_more_than_be_refused() -> None:
    """Bytes turned over, seeded: whatever they say, the answer is Refused or a kernel."""
    dice = random.Random(0)
    for form in FORMS:
        good = bytearray(bzimage(compressed(form, elf(body=bytes(700))), len(elf(body=bytes(700)))))
        for _ in range(150):
            bad = bytearray(good)
            for _ in range(dice.randint(1, 4)):
                bad[dice.choice((0x1F1, *range(0x248, 0x250), *range(2576, len(bad))))] = (
                    dice.randrange(256)
                )
            try:
                unpack(bytes(bad))
            except Refused:
                pass


def test_an_lz4_block_as_others_write_it() -> None:
    """The example of the format's own description: a match that overlaps what it makes."""
    assert extract._lz4_block(lz4_block(b"A" + bytes(700) + b"B"), 1 << 20) == (
        b"A" + bytes(700) + b"B"
    )


# ---- modules ----


def write_modules(directory: Path, **modules: bytes) -> Modules:
    for name, data in modules.items():
        path = directory / "kernel/drivers" / f"{name.replace('_', '-')}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Modules(str(directory))


def test_each_module_comes_after_what_it_needs(tmp_path: Path) -> None:
    found = write_modules(
        tmp_path,
        virtio_blk=module("virtio_blk", depends="virtio,virtio_ring"),
        virtio=module("virtio", depends="virtio_ring"),
        virtio_ring=module("virtio_ring"),
        ext4=module("ext4", depends="jbd2", softdep="pre: crc32c post: nothing"),
        crc32c_generic=module("crc32c_generic"),
        other=module("other"),
    )
    (tmp_path / "modules.builtin").write_text("kernel/fs/jbd2.ko\n")
    found = Modules(str(tmp_path))
    assert [m.name for m in found.load(("virtio_blk", "ext4"))] == [
        "virtio_ring", "virtio", "virtio_blk", "crc32c_generic", "ext4",
    ]  # fmt: skip
    assert "virtio_blk" in found and "jbd2" not in found


@pytest.mark.parametrize("ending", ["xz", "zst", "gz"])
def test_modules_are_decompressed(tmp_path: Path, ending: str) -> None:
    form = {"xz": "xz", "zst": "zstd", "gz": "gzip"}[ending]
    path = tmp_path / "kernel" / f"erofs.ko.{ending}"
    path.parent.mkdir()
    path.write_bytes(compressed(form, module("erofs", signed=False)))
    assert module_info(Modules(str(tmp_path)).load(("erofs",))[0].data)["name"] == "erofs"


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ({"a": module("a", depends="b")}, "b is missing, which a needs"),
        ({"a": module("a", depends="b"), "b": module("b", depends="a")}, "a needs itself"),
        ({}, "a is missing"),
    ],
)
def test_modules_that_cannot_be_loaded(tmp_path: Path, modules: dict[str, bytes], why: str) -> None:
    with pytest.raises(BadArchive, match=why):
        write_modules(tmp_path, **modules).load(("a",))


def test_a_module_loses_signature_and_types_and_nothing_else() -> None:
    signed, plain = module("a"), module("a", signed=False)
    assert lean(signed) == lean(plain)
    assert len(lean(plain)) == len(plain)
    assert sum(a != b for a, b in zip(lean(plain), plain, strict=True)) == 1, "the name's offset"
    assert module_info(lean(plain)) == module_info(plain) == {"name": "a", "depends": ""}


def test_what_is_no_module_is_left_alone() -> None:
    dice = random.Random(1)
    assert module_info(b"") == {} and lean(b"x" * 100) == b"x" * 100
    for _ in range(300):
        bad = bytearray(module("a", depends="b"))
        for _ in range(3):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        module_info(bytes(bad)), lean(bytes(bad))


# ---- initrd ----

MODULES = (Module("virtio", b"one"), Module("virtio_blk", b"another"))


def test_an_initrd_is_a_cpio_of_init_and_modules(tmp_path: Path) -> None:
    archive = tmp_path / "initrd.cpio"
    archive.write_bytes(initrd(b"program", MODULES, (Module("fuse", b"three"),)))
    listed = subprocess.run(
        [sys.executable, "-c", READ, archive],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert listed.stdout.splitlines() == [
        "040755 dev", "040755 modules", "040755 proc", "040755 root", "040755 sys",
        "020600 dev/console 5:1", "100755 init b'program'", "100644 modules/virtio.ko b'one'",
        "100644 modules/virtio_blk.ko b'another'",
        "100644 modules/order b'virtio.ko\\nvirtio_blk.ko\\n'",
        "100644 modules/fuse.ko b'three'", "100644 modules/later b'fuse.ko\\n'",
    ]  # fmt: skip


READ = """
import sys
data, at = open(sys.argv[1], 'rb').read(), 0
while True:
    assert at % 4 == 0 and data[at:at + 6] == b'070701'
    f = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
    name = data[at + 110:at + 109 + f[11]].decode()
    assert data[at + 109 + f[11]] == 0 and f[2] == f[3] == f[5] == 0
    start = at + 110 + f[11] + -(110 + f[11]) % 4
    at = start + f[6] + -f[6] % 4
    if name == 'TRAILER!!!':
        break
    more = f' {f[9]}:{f[10]}' if f[9] else f' {data[start:start + f[6]]}' if f[6] else ''
    print(f'{f[1]:06o} {name}{more}')
assert at == len(data)
"""


def test_an_initrd_is_the_same_for_the_same_and_kept_under_its_inputs() -> None:
    assert initrd(b"p", MODULES) == initrd(b"p", MODULES)
    keys = {
        initrd_key(b"p", MODULES),
        initrd_key(b"q", MODULES),
        initrd_key(b"p", MODULES[::-1]),
        initrd_key(b"p", MODULES[:1]),
        initrd_key(b"p", MODULES[:1], MODULES[1:]),
        initrd_key(b"p", (Module("virtio", b"two"), MODULES[1])),
    }
    assert len(keys) == 6 and all(len(key) == 32 for key in keys)
