"""Kernels made by hand: the smallest files that are what the real ones are, and every form of
compression around them.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct

VERSION = "6.1.0-test"


def elf(
    *,
    machine: int = 62,
    pvh: bool = True,
    body: bytes = b"",
    version: str = VERSION,
    code: bytes = b"",
) -> bytes:
    """A vmlinux: one segment to load, and a note with the PVH entry."""
    note = struct.pack("<III4sQ", 4, 8, 18 if pvh else 1, b"Xen\0", 0x1000000)
    text = code + f"Linux version {version} (cove) #1".encode() + b"\0" + body
    at = 64 + 2 * 56
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x1000000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, at + len(note), 0, 0x1000000, len(text), len(text), 0)
    notes = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(note), len(note), 4)
    return header + load + notes + note + text


def arm64_image(version: str = VERSION) -> bytes:
    head = bytearray(64)
    head[0x38:0x3C] = b"ARM\x64"
    return bytes(head) + f"Linux version {version} (cove) #1".encode() + b"\0"


def bzimage(payload: bytes, size: int, *, sectors: int = 4) -> bytes:
    """The boot protocol's header over a compressed kernel, whose length stands at its end."""
    head = bytearray((sectors + 1) * 512)
    head[0x1F1] = sectors
    head[0x202:0x206] = b"HdrS"
    payload += struct.pack("<I", size)
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload


def zboot(payload: bytes) -> bytes:
    head = bytearray(64)
    head[:2], head[4:8] = b"MZ", b"zimg"
    struct.pack_into("<II", head, 8, 64, len(payload))
    return bytes(head) + payload


def compressed(name: str, data: bytes) -> bytes:
    if name == "gzip":
        return gzip.compress(data)
    if name == "bzip2":
        return bz2.compress(data)
    if name == "xz":
        chain = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}]
        return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=chain)
    if name == "lzma":
        return lzma.compress(data, lzma.FORMAT_ALONE)
    if name == "zstd":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    assert name == "lz4"
    blocks = [lz4_block(data[at : at + (8 << 20)]) for at in range(0, len(data), 8 << 20)]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(b)) + b for b in blocks)


def lz4_block(data: bytes) -> bytes:
    """Literals, with a match for a run of zeros: enough to go through every branch of a reader."""
    at = data.find(bytes(600))
    if at <= 0:
        return _literals(data, 0)
    # One zero as a literal, then a copy from one byte back.
    first, rest = data[: at + 1], data[at + 600 :]
    return _literals(first, 15) + b"\1\0" + _count(599 - 4 - 15) + _literals(rest, 0)


def _literals(data: bytes, match: int) -> bytes:
    if len(data) < 15:
        return bytes([len(data) << 4 | match]) + data
    return bytes([0xF0 | match]) + _count(len(data) - 15) + data


def _count(rest: int) -> bytes:
    return b"\xff" * (rest // 255) + bytes([rest % 255])


def module(name: str, *, depends: str = "", softdep: str = "", signed: bool = True) -> bytes:
    """A .ko with ``.modinfo``, type information, and an appended signature."""
    info = f"name={name}\0depends={depends}\0" + (f"softdep={softdep}\0" if softdep else "")
    names = b"\0.modinfo\0.BTF\0.shstrtab\0"
    contents = [b"", info.encode(), b"types", names]
    at, parts, headers = 64, [], []
    for index, (content, text) in enumerate(zip(contents, (b"", b".modinfo", b".BTF", b".shstrtab"),
                                                strict=True)):  # fmt: skip
        offset = names.find(text + b"\0") if text else 0
        headers.append(struct.pack("<IIQQQQIIQQ", offset, 1 if index else 0, 0, 0, at,
                                   len(content), 0, 0, 1, 0))  # fmt: skip
        parts.append(content)
        at += len(content)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, at, 0, 64, 0, 0, 64, 4, 3)
    whole = header + b"".join(parts) + b"".join(headers)
    if signed:
        signature = b"s" * 100
        whole += signature + struct.pack(">8xI", len(signature)) + b"~Module signature appended~\n"
    return whole
