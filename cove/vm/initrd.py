"""The initrd of a guest: ``/init`` and the modules its kernel needs, in order.

A cpio of the form ``newc``, uncompressed: under emulation the kernel unpacks slower than it reads.
The same inputs give the same bytes. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from cove.vm.modules import Module

DIRECTORY, FILE, DEVICE = 0o040755, 0o100644, 0o020600
PROGRAM = 0o100755

VERSION = 1
"""Raised when other bytes are made of the same inputs."""

DIRECTORIES = ("dev", "modules", "proc", "root", "sys")
"""For the kernel's file systems and the machine's root to be mounted on."""

ORDER, LATER = "modules/order", "modules/later"
"""Names of the files beside them, one a line: ``/init`` loads the ones of ``order`` from top to
bottom, and those of ``later`` when a directory of the host is to be mounted."""


def initrd(init: bytes, modules: Iterable[Module], later: Iterable[Module] = ()) -> bytes:
    """``init`` is a static program for the guest's CPU."""
    archive = _Archive()
    for name in DIRECTORIES:
        archive.add(name, DIRECTORY)
    # What the kernel opens for /init before anything is mounted.
    archive.add("dev/console", DEVICE, device=(5, 1))
    archive.add("init", PROGRAM, init)
    for listing, files in ((ORDER, tuple(modules)), (LATER, tuple(later))):
        for module in files:
            archive.add(f"modules/{module.name}.ko", FILE, module.data)
        archive.add(listing, FILE, "".join(f"{module.name}.ko\n" for module in files).encode())
    return archive.end()


def initrd_key(init: bytes, modules: Iterable[Module], later: Iterable[Module] = ()) -> str:
    """What an initrd is kept under: hexadecimal digits that change with every input."""
    digest = hashlib.sha256(b"cove-initrd %d\0" % VERSION)
    digest.update(hashlib.sha256(init).digest())
    for module in (*modules, Module("", b""), *later):
        digest.update(module.name.encode() + b"\0" + hashlib.sha256(module.data).digest())
    return digest.hexdigest()[:32]


class _Archive:
    def __init__(self) -> None:
        self._out = bytearray()
        self._number = 0

    def add(
        self, name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._number += 1
        self._entry(self._number, name, mode, data, device)

    def end(self) -> bytes:
        self._entry(0, "TRAILER!!!", 0, b"", (0, 0))
        return bytes(self._out)

    def _entry(
        self, number: int, name: str, mode: int, data: bytes, device: tuple[int, int]
    ) -> None:
        path = name.encode() + b"\0"
        links = 2 if mode == DIRECTORY else 1
        # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + path, data):
            self._out += part + bytes(-len(part) % 4)
