"""The archive form of an initial RAM disk (cpio, newc)."""

from __future__ import annotations

import stat


def archive(directories: tuple[str, ...], files: dict[str, tuple[int, bytes]]) -> bytes:
    """``files``: name to mode and content. The kernel's console is in it."""
    out = bytearray()
    for number, name in enumerate(directories, 1):
        out += _entry(number, name, stat.S_IFDIR | 0o755)
    out += _entry(1000, "dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for number, (name, (mode, data)) in enumerate(files.items(), 2000):
        out += _entry(number, name, stat.S_IFREG | mode, data)
    return bytes(out + _entry(0, "TRAILER!!!", 0))


def _entry(
    number: int, name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0)
) -> bytes:
    text = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(text), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + text
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
