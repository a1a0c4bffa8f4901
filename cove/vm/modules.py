"""The modules of a guest kernel: which ones a machine needs, in which order, and their bytes.

What a module depends on is read from the module itself (``.modinfo``): a package that was unpacked
and not installed has no ``modules.dep``, which depmod makes of just that.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cove.errors import BadArchive, printable
from cove.vm.extract import Refused, decompress

MODULE_MAX = 64 << 20
FILES_MAX = 50_000
"""Of a modules directory."""

NAME = re.compile(r"[A-Za-z0-9_]{1,56}")
SIGNATURE = b"~Module signature appended~\n"
SIGNATURE_SIZE = 12
"""Of the header before that mark."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What a guest must have, built in or as a module."""

    option: str
    """Of the kernel's configuration."""
    module: str
    why: str
    later: bool = False
    """Loaded when it is needed, and not missed before."""


DRIVERS = (
    Driver("VIRTIO_MMIO", "virtio_mmio", "the devices of the machine"),
    Driver("VIRTIO_BLK", "virtio_blk", "its disks"),
    Driver("VIRTIO_CONSOLE", "virtio_console", "the agent's channel"),
    Driver("VIRTIO_NET", "virtio_net", "its network"),
    Driver("EROFS_FS", "erofs", "the image"),
    Driver("EXT4_FS", "ext4", "the scratch disk"),
    Driver("OVERLAY_FS", "overlay", "the writable layer over the image"),
    Driver("VIRTIO_FS", "virtiofs", "directories shared by the host", later=True),
)
"""In the order in which they are loaded."""

PREFERRED = {"crc32c": ("crc32c_generic",)}
"""What a soft dependency names by an alias."""


@dataclass(frozen=True, slots=True)
class Module:
    name: str
    """With underscores, as the kernel calls it."""
    data: bytes


class Modules:
    """The files of a ``/lib/modules/<version>``."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._files = dict(_walk(directory))
        self.builtin = frozenset(_builtin(directory))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def load(self, names: tuple[str, ...]) -> tuple[Module, ...]:
        """``names`` and what they need, each after what it needs. What is built in is left out."""
        found: dict[str, Module] = {}
        for name in names:
            self._add(name, found, ())
        return tuple(found.values())

    def _add(self, name: str, found: dict[str, Module], trail: tuple[str, ...]) -> None:
        if name in found or name in self.builtin:
            return
        if name in trail:
            raise self._wrong(f"{name} needs itself")
        if name not in self._files:
            by = f", which {trail[-1]} needs" if trail else ""
            raise self._wrong(f"{name} is missing{by}")
        data = self.read(name)
        info = module_info(data)
        for needed in info.get("depends", "").split(","):
            if needed:
                self._add(_plain(needed), found, (*trail, name))
        for needed in _before(info.get("softdep", "")):
            for candidate in (needed, *PREFERRED.get(needed, ())):
                if candidate in self._files and candidate not in trail:
                    self._add(candidate, found, (*trail, name))
        found[name] = Module(name, lean(data))

    def read(self, name: str) -> bytes:
        """A module, decompressed."""
        path = self._files[name]
        try:
            with open(path, "rb") as file:
                data = file.read(MODULE_MAX + 1)
        except OSError as error:
            reason = (error.strerror or "i/o error").lower()
            raise self._wrong(f"{os.path.basename(path)}: {reason}") from error
        if len(data) > MODULE_MAX:
            raise self._wrong(f"{name} is larger than {MODULE_MAX >> 20} MiB")
        if path.endswith(".ko"):
            return data
        try:
            return decompress(data, MODULE_MAX)
        except Refused as error:
            raise self._wrong(f"{os.path.basename(path)} {error}") from None

    def _wrong(self, reason: str) -> BadArchive:
        return BadArchive(f"cannot use the modules in {self.directory}: {printable(reason)}")


def _walk(directory: str) -> Iterator[tuple[str, str]]:
    """Name and path of each module. Links to the build tree lead elsewhere: none is followed."""
    count = 0
    for parent, folders, files in os.walk(os.path.join(directory, "kernel")):
        folders.sort()
        for file in files:
            stem, _, rest = file.partition(".ko")
            known = rest in ("", ".xz", ".zst", ".gz") and stem != file
            if known and NAME.fullmatch(_plain(stem)):
                yield _plain(stem), os.path.join(parent, file)
        count += len(files)
        if count > FILES_MAX:
            raise BadArchive(f"cannot use the modules in {directory}: more than {FILES_MAX} files")


def _builtin(directory: str) -> Iterator[str]:
    try:
        with open(os.path.join(directory, "modules.builtin"), encoding="utf-8") as file:
            for line in file.read(1 << 20).splitlines():
                yield _plain(os.path.basename(line).removesuffix(".ko"))
    except (OSError, UnicodeDecodeError):
        return


def _plain(name: str) -> str:
    return name.strip().replace("-", "_")


def _before(softdep: str) -> tuple[str, ...]:
    """The names after ``pre:``."""
    before: list[str] = []
    wanted = False
    for word in softdep.split():
        if word.endswith(":"):
            wanted = word == "pre:"
        elif wanted:
            before.append(_plain(word))
    return tuple(before)


# ---- one module ----


def module_info(data: bytes) -> dict[str, str]:
    """``name=value`` of its section ``.modinfo``; of several with one name, the first."""
    info: dict[str, str] = {}
    for name, at, size, _ in _sections(data):
        if name == b".modinfo":
            for entry in data[at : at + size].split(b"\0"):
                key, equals, value = entry.partition(b"=")
                if equals:
                    info.setdefault(
                        key.decode("ascii", "replace"), value.decode("utf-8", "replace")
                    )
    return info


def lean(data: bytes) -> bytes:
    """Without signature and type information, both of which cost time at every boot: the archive
    was checked when it came, and nobody traces a guest's modules.
    """
    if data.endswith(SIGNATURE):
        end = len(data) - len(SIGNATURE)
        header = data[end - SIGNATURE_SIZE : end]
        length = int.from_bytes(header[8:12], "big") if len(header) == SIGNATURE_SIZE else 0
        end -= SIGNATURE_SIZE + length
        if end > 0:
            data = data[:end]
    out = bytearray(data)
    for name, _, _, header_at in _sections(data):
        if name.startswith(b".BTF"):
            # The kernel finds it by name: without one it is a section like any other.
            struct.pack_into("<I", out, header_at, 0)
    return bytes(out)


def _sections(data: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, offset, size, and where the header is. Nothing of what is no such file."""
    if len(data) < 64 or not data.startswith(b"\x7fELF\x02\x01"):
        return
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if size != 64 or start + size * count > len(data) or names >= count:
        return
    headers = [struct.unpack_from("<IIQQQQ", data, start + size * i) for i in range(count)]
    table = data[headers[names][4] : headers[names][4] + headers[names][5]]
    for index, (name, _, _, _, at, length) in enumerate(headers):
        if name < len(table) and at + length <= len(data):
            yield table[name : table.find(b"\0", name)], at, length, start + size * index
