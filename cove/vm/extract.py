"""A child process: the kernel proper out of a vmlinuz, whose every number is doubted.

Run by ``kernels`` as ``python -I -S extract.py SYS_PATH``: the file is fd 0, the kernel goes to
fd 1, one line of JSON about it to fd 2. x86-64: an ELF file with a PVH entry; arm64: an Image.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import zlib
from dataclasses import asdict, dataclass
from typing import Protocol

FILE_MAX = 256 << 20
"""Of what is read."""
KERNEL_MAX = 512 << 20
"""Of what comes out."""
MEMORY_MAX = 2 << 30
"""Of this process."""
CONFIG_MAX = 1 << 20
CHUNK = 1 << 20

ELF = b"\x7fELF"
X86_64, ARM64 = 62, 183
PVH_ENTRY = 18
"""XEN_ELFNOTE_PHYS32_ENTRY: where a hypervisor enters an uncompressed kernel."""
LZ4_BLOCK = 8 << 20
"""Of the legacy format, which the kernel's makefiles write."""

MAGICS = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x89LZO", "lzo"),
)

VERSION = re.compile(rb"Linux version ([0-9]+\.[0-9A-Za-z.+~_-]{1,100})[ \x00]")


class Refused(Exception):
    """What is wrong with the file, after ``it``: ``is truncated``."""


@dataclass(frozen=True)
class Found:
    """A kernel as QEMU loads it."""

    arch: str
    """As ``uname -m``."""
    version: str
    """Empty: it does not say."""
    config: str
    """The configuration it carries, if it does."""


def unpack(data: bytes) -> tuple[Found, bytes]:
    """The kernel in ``data``, which may be any of the forms in which kernels are installed."""
    if data[0x202:0x206] == b"HdrS":
        kernel = _from_bzimage(data)
    elif data[:2] == b"MZ" and data[4:8] == b"zimg":
        kernel = _from_zboot(data)
    elif compression(data):
        kernel = decompress(data, KERNEL_MAX)
    else:
        kernel = data
    if kernel.startswith(ELF):
        kernel = kernel[: _check_elf(kernel)]
        arch = "x86_64"
    elif kernel[0x38:0x3C] == b"ARM\x64":
        arch = "aarch64"
    else:
        raise Refused("is no kernel that cove knows")
    match = VERSION.search(kernel)
    return Found(arch, match[1].decode() if match else "", _config(kernel)), kernel


def compression(data: bytes) -> str:
    """Empty: none that is known."""
    return next((name for magic, name in MAGICS if data.startswith(magic)), "")


# ---- containers ----


def _from_bzimage(data: bytes) -> bytes:
    """By the boot protocol's own header (2.08 and later): where the payload is, and its length."""
    sectors = data[0x1F1] or 4
    offset, length = _numbers("<II", data, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = _span(data, start, length)
    if length < 8:
        raise Refused("has no payload")
    (size,) = _numbers("<I", payload, length - 4)
    if size > KERNEL_MAX:
        raise Refused(f"claims to hold a kernel of {size >> 20} MiB")
    kernel = decompress(payload, size)
    if len(kernel) != size:
        raise Refused("is damaged: what it holds has another length than it says")
    return kernel


def _from_zboot(data: bytes) -> bytes:
    """The EFI form of newer arm64 kernels."""
    offset, length = _numbers("<II", data, 8)
    return decompress(_span(data, offset, length), KERNEL_MAX)


def _span(data: bytes, start: int, length: int) -> bytes:
    if start + length > len(data):
        raise Refused("is truncated")
    return data[start : start + length]


def _numbers(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except (struct.error, OverflowError):
        raise Refused("is truncated") from None


# ---- decompression ----


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompress(data: bytes, limit: int) -> bytes:
    """At most ``limit`` bytes; what follows the compressed stream is left alone."""
    name = compression(data)
    if name == "lz4":
        return _lz4(data, limit)
    if name == "zstd":
        return _zstd(data, limit)
    if name not in ("gzip", "xz", "lzma", "bzip2"):
        raise Refused(f"is compressed with {name or 'something unknown'}, which cove cannot read")
    import bz2
    import lzma

    decoder: _Decoder
    if name == "gzip":
        decoder = zlib.decompressobj(wbits=31)
    elif name == "bzip2":
        decoder = bz2.BZ2Decompressor()
    else:
        form = lzma.FORMAT_XZ if name == "xz" else lzma.FORMAT_ALONE
        decoder = lzma.LZMADecompressor(form, memlimit=256 << 20)
    try:
        out = decoder.decompress(data, limit + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise Refused(f"is damaged: {error}") from None
    if len(out) > limit:
        raise Refused("holds more than it says")
    if not decoder.eof:
        raise Refused("is truncated")
    return out


def _zstd(data: bytes, limit: int) -> bytes:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=128 << 20).decompressobj()
    out, size = [], 0
    try:
        for at in range(0, len(data), 1 << 16):
            piece = decoder.decompress(data[at : at + (1 << 16)])
            size += len(piece)
            if size > limit:
                raise Refused("holds more than it says")
            out.append(piece)
            if decoder.eof:
                return b"".join(out)
    except zstandard.ZstdError as error:
        raise Refused(f"is damaged: {error}") from None
    raise Refused("is truncated")


def _lz4(data: bytes, limit: int) -> bytes:
    """Blocks one after the other, each with its length; the kernel's own length may follow."""
    out, at = bytearray(), 4
    while at + 8 <= len(data):
        (length,) = _numbers("<I", data, at)
        if length > LZ4_BLOCK + LZ4_BLOCK // 255 + 16:
            break
        out += _lz4_block(_span(data, at + 4, length), min(LZ4_BLOCK, limit - len(out)))
        at += 4 + length
    return bytes(out)


def _lz4_block(data: bytes, limit: int) -> bytes:
    out, at, end = bytearray(), 0, len(data)
    try:
        while at < end:
            token = data[at]
            at += 1
            count, at = _lz4_count(data, token >> 4, at)
            if at + count > end or len(out) + count > limit:
                raise Refused("is damaged: an lz4 block runs over its end")
            out += data[at : at + count]
            at += count
            if at == end:
                break
            back = data[at] | data[at + 1] << 8
            count, at = _lz4_count(data, token & 15, at + 2)
            count += 4
            start = len(out) - back
            if not back or start < 0 or len(out) + count > limit:
                raise Refused("is damaged: an lz4 block refers to what is not there")
            if back >= count:
                out += out[start : start + count]
            else:
                piece = bytes(out[start:])
                out += (piece * (count // back + 1))[:count]
    except IndexError:
        raise Refused("is truncated") from None
    return bytes(out)


def _lz4_count(data: bytes, count: int, at: int) -> tuple[int, int]:
    if count == 15:
        while True:
            more = data[at]
            at += 1
            count += more
            if more != 255:
                break
    return count, at


# ---- the kernel proper ----


def _check_elf(data: bytes) -> int:
    """It is one that QEMU can enter; its length."""
    if data[4:6] != b"\x02\x01":
        raise Refused("is no 64-bit little-endian program")
    (machine,) = _numbers("<H", data, 18)
    if machine == ARM64:
        raise Refused("is a vmlinux for arm64, which QEMU does not start: give the Image")
    if machine != X86_64:
        raise Refused("is for another CPU than x86-64 and arm64")
    headers, sections = _numbers("<QQ", data, 32)
    size, count, section, total = _numbers("<HHHH", data, 54)
    if size != 56 or not count:
        raise Refused("is no program: it has no segments")
    end, pvh = sections + section * total, False
    for index in range(count):
        kind, _, offset, _, _, length = _numbers("<IIQQQQ", data, headers + index * size)
        end = max(end, offset + length)
        if end > len(data):
            raise Refused("is truncated")
        if kind == 4:
            pvh = pvh or _has_pvh(data[offset : offset + min(length, 1 << 16)])
    if end > len(data):
        raise Refused("is truncated")
    if not pvh:
        raise Refused("has no PVH entry (CONFIG_PVH)")
    return max(end, headers + size * count)


def _has_pvh(notes: bytes) -> bool:
    at = 0
    while at + 12 <= len(notes):
        name, content, kind = struct.unpack_from("<III", notes, at)
        if kind == PVH_ENTRY and notes[at + 12 : at + 16] == b"Xen\0" and content in (4, 8):
            return True
        at += 12 + (name + 3 & ~3) + (content + 3 & ~3)
    return False


def _config(kernel: bytes) -> str:
    """What CONFIG_IKCONFIG keeps inside."""
    at = kernel.find(b"IKCFG_ST\x1f\x8b")
    if at < 0:
        return ""
    try:
        text = zlib.decompressobj(wbits=31).decompress(kernel[at + 8 : at + CONFIG_MAX], CONFIG_MAX)
    except zlib.error:
        return ""
    return text.decode("ascii", "replace")


# ---- the process ----


def main(argv: list[str]) -> int:
    import resource

    sys.path += [path for path in argv[1].split(os.pathsep) if path not in sys.path]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    try:
        with open(0, "rb", closefd=False) as file:
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise Refused(f"is larger than {FILE_MAX >> 20} MiB")
        found, kernel = unpack(data)
        rest = memoryview(kernel)
        while rest:
            rest = rest[os.write(1, rest[:CHUNK]) :]
        line = json.dumps(asdict(found))
    except Refused as error:
        line = json.dumps({"refused": str(error)})
    except MemoryError:
        line = json.dumps({"refused": "wants more memory to be unpacked than is allowed"})
    except OSError as error:
        line = json.dumps({"failed": (error.strerror or str(error)).lower()})
    os.write(2, line.encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
