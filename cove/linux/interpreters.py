"""QEMU's programs that run those of another CPU, as interpreters of ``binfmt_misc``: where this
host has them.

Looked for with each machine that needs one: who installs the missing package need not restart
anything.
"""

from __future__ import annotations

import os
import struct

DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/bin")

_PT_INTERP = 3
_HEADER = 1 << 16
"""Bytes in which the program headers are: they follow the ELF header."""


def find_interpreter(cpu: str) -> str:
    """The static program for ``cpu``, as QEMU calls it; empty: there is none. A dynamic one would
    look for its libraries in the machine's root.
    """
    for name in (f"qemu-{cpu}-static", f"qemu-{cpu}"):
        for directory in DIRECTORIES:
            path = f"{directory}/{name}"
            if os.access(path, os.X_OK) and is_static(path):
                return path
    return ""


def is_static(path: str) -> bool:
    """An ELF program that names no dynamic loader."""
    try:
        with open(path, "rb") as file:
            data = file.read(_HEADER)
        if data[:5] != b"\x7fELF\2":  # of 64 bits, as all hosts of cove are
            return False
        (start,), (size, count) = (
            struct.unpack_from("<Q", data, 32),
            struct.unpack_from("<HH", data, 54),
        )
        kinds = [struct.unpack_from("<I", data, start + i * size)[0] for i in range(count)]
    except (OSError, struct.error):
        return False
    return _PT_INTERP not in kinds
