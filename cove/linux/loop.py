"""A file system in a file: a loop device for it, and a mount of that which is attached nowhere.

The device goes by itself with the last mount of it. Two devices for one file would be two caches of
one file system: whoever comes second gets the first one's.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import struct
import threading
from collections.abc import Callable

from cove.linux.mounts import clone_mount
from cove.linux.syscalls import (
    AT_FDCWD,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    syscall,
)
from cove.linux.syscalls import call as libc

FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT = 430, 431, 432, 429
SET_FLAG, SET_STRING, CREATE = 0, 1, 6
MOUNT_ATTR_NODEV = 4
MOVE_EMPTY_PATH = 4
CLONE_NEWNS, MS_PRIVATE, MS_REC = 0x20000, 1 << 18, 1 << 14

LOOP_CONFIGURE, LOOP_GET_STATUS64, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C05, 0x4C82
AUTOCLEAR, DIRECT_IO = 4, 16
STATUS = struct.Struct("=QQQQQIIII64s64s32sQQ")
CONFIG = struct.Struct(f"=II{STATUS.size}s64x")
TRIES = 64
"""Of a device that was free and is not."""

_lock = threading.Lock()


def mount_file(path: str, options: tuple[tuple[str, str], ...], top: str, part: str) -> int:
    """A detached mount of ``part``, a directory or file in the directory ``top`` of the ext4 that
    ``path`` is; links on the way lead to places in that directory. Close-on-exec; the receiver's to
    close. Raises OSError.
    """
    with _lock:
        device = _device(path)
        try:
            whole = _mount(os.readlink(f"/proc/self/fd/{device}"), options)
        finally:
            os.close(device)
    try:
        return _elsewhere(lambda: _part(whole, top, part))
    finally:
        os.close(whole)


def has_loop() -> bool:
    return os.path.exists("/dev/loop-control")


# ---- the device ----


def _device(path: str) -> int:
    """Held open, it stays until it is mounted."""
    image = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = _existing(os.fstat(image))
        return _new(image) if found is None else found
    finally:
        os.close(image)


def _existing(image: os.stat_result) -> int | None:
    for name in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            device = os.open(f"/dev/{name.split('/')[3]}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = STATUS.unpack(fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(STATUS.size)))
        except OSError:  # it has gone meanwhile
            status = (0, 0)
        if status[:2] == (image.st_dev, image.st_ino):
            return device
        os.close(device)
    return None


def _new(image: int) -> int:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for left in reversed(range(TRIES)):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                _configure(device, image)
                return device
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY or not left:
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _configure(device: int, image: int) -> None:
    """Past the page cache, which would hold everything twice, where the disk below can do that."""
    for flags in (AUTOCLEAR | DIRECT_IO, AUTOCLEAR):
        status = STATUS.pack(*(0,) * 8, flags, b"cove", b"", b"", 0, 0)
        try:
            fcntl.ioctl(device, LOOP_CONFIGURE, CONFIG.pack(image, 0, status))
            return
        except OSError as error:
            if error.errno != errno.EINVAL or flags == AUTOCLEAR:
                raise


# ---- the mount ----


def _mount(device: str, options: tuple[tuple[str, str], ...]) -> int:
    context = syscall(FSOPEN, b"ext4\0", 1)
    try:
        for name, value in (("source", device), *options):
            key = name.encode() + b"\0"
            if value:
                syscall(FSCONFIG, context, SET_STRING, key, os.fsencode(value) + b"\0", 0)
            else:
                syscall(FSCONFIG, context, SET_FLAG, key, None, 0)
        syscall(FSCONFIG, context, CREATE, None, None, 0)
        return syscall(FSMOUNT, context, 1, MOUNT_ATTR_NODEV)
    finally:
        os.close(context)


def _elsewhere(do: Callable[[], int]) -> int:
    """By a thread in a mount namespace of its own, which ends with it: until Linux 6.15 only what
    is attached can be copied, and nothing is to be attached on the host.
    """
    done: list[int | BaseException] = []

    def run() -> None:
        try:
            libc("unshare", CLONE_NEWNS)
            libc("mount", b"none\0", b"/\0", None, MS_REC | MS_PRIVATE, None)
            done.append(do())
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    (result,) = done
    if isinstance(result, BaseException):
        raise result
    return result


def _part(whole: int, top: str, part: str) -> int:
    syscall(MOVE_MOUNT, whole, b"\0", AT_FDCWD, b"/proc\0", MOVE_EMPTY_PATH)
    root = openat2(whole, top, flags=os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
    try:
        resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        fd = openat2(root, part or ".", flags=os.O_PATH, resolve=resolve)
    finally:
        os.close(root)
    try:
        return clone_mount(fd, recursive=False, what=f"cannot mount {part or top}")
    finally:
        os.close(fd)
