"""System calls that Python has no function for, through the C library's ``syscall``.

The library is loaded at the first call: ctypes costs 6 ms to import.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

# From 424 on, a system call has the same number on every architecture.
OPEN_TREE = 428
OPENAT2 = 437
PIDFD_GETFD = 438

AT_FDCWD = -100
RENAME_EXCHANGE = 2
RESOLVE_NO_MAGICLINKS = 2
RESOLVE_NO_SYMLINKS = 4
RESOLVE_BENEATH = 8
RESOLVE_IN_ROOT = 16

TRIES = 1000
"""To open one path: somebody who does nothing but rename spoils most of them, of microseconds."""

_library: Any = None


def call(name: str, *args: int | bytes | None) -> int:
    """A function of the C library. Raises OSError; bytes are only read by the kernel."""
    import ctypes

    global _library
    if _library is None:
        _library = ctypes.CDLL(None, use_errno=True)
        _library.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in args]
    result = int(getattr(_library, name)(*words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def syscall(number: int, *args: int | bytes | None) -> int:
    """By number. Raises OSError."""
    return call("syscall", number, *args)


def openat2(
    dirfd: int, path: str, *, flags: int, resolve: int = RESOLVE_NO_MAGICLINKS, mode: int = 0
) -> int:
    """openat2(2); the descriptor is close-on-exec. With RESOLVE_BENEATH and RESOLVE_IN_ROOT the
    kernel lets no ``..`` pass while anything of the host is renamed or mounted, whoever does it:
    EAGAIN, "the caller may choose to retry".
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for left in reversed(range(TRIES)):
        try:
            return syscall(OPENAT2, dirfd, os.fsencode(path) + b"\0", how, len(how))
        except OSError as error:
            if error.errno != errno.EAGAIN or not left:
                raise OSError(error.errno, error.strerror, path) from None
    raise AssertionError("the last try returns or raises")


def exchange(one: str, other: str) -> None:
    """renameat2(2): each gets the other's name, at once. Raises OSError."""
    old, new = (os.fsencode(path) + b"\0" for path in (one, other))
    call("renameat2", AT_FDCWD, old, AT_FDCWD, new, RENAME_EXCHANGE)
