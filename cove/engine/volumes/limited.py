"""Volumes that are directories with a size: an ext4 in a file, which the host's kernel mounts.

Nobody but cove's own mkfs, behind walls, and that kernel has ever written to the file: machines
write files in it, never its blocks, which is why a disk that a guest had is no such volume. It is
mounted for whoever has it, in no directory of the host's.
"""

from __future__ import annotations

import errno
import os

from cove.engine.home import Home
from cove.errors import HostError, NotFound
from cove.linux.loop import has_loop, mount_file
from cove.linux.syscalls import call as libc
from cove.planner.virtual.volumes import DATA
from cove.store.lock import ROOM
from cove.store.records import VolumeRecord

OPTIONS = (("discard", ""), ("noinit_itable", ""), ("errors", "remount-ro"))
"""What is deleted goes back to the host; nothing is written that nobody wrote."""


def mount(
    home: Home, record: VolumeRecord, *, part: str = "", origin: str = "", path: str = ""
) -> int:
    """Of the volume, or of a part of it, detached; the receiver's to close. ``path``: of another
    file than its own, which is there since its first use.
    """
    path = path or home.store.layout.volume_image(record.name)
    what = f"cannot use volume {record.name}"
    try:
        os.stat(path)
    except OSError as error:
        raise HostError(
            f"{what}: {(error.strerror or '').lower()}",
            origin=origin,
            host=path,
            hint=f"what was in it is gone: cove volume rm {record.name}",
        ) from error
    try:
        return mount_file(path, OPTIONS, DATA, part)
    except OSError as error:
        if part and error.errno in (errno.ENOENT, errno.ENOTDIR) and has_loop():
            raise NotFound(
                f"cannot mount {part} of volume {record.name}: no such directory in it",
                origin=origin,
                hint="a machine with the whole volume can make it",
                exit_code=125,
            ) from error
        hints = {
            errno.ENOENT: "its size needs a loop device: modprobe loop",
            errno.ENODEV: "its size needs ext4 and a loop device: modprobe ext4 loop",
            errno.EUCLEAN: f"its file system is damaged: e2fsck -f {path}",
            errno.EINVAL: f"its file system is damaged: e2fsck -f {path}",
            errno.ENOSPC: ROOM,
        }
        reason = f"{what}: {(error.strerror or str(error)).lower()}"
        raise HostError(reason, origin=origin, hint=hints.get(error.errno or 0, "")) from error


def write_out(home: Home, record: VolumeRecord, path: str) -> None:
    """All that was written to it is in its file, and on the disk."""
    fd = mount(home, record, path=path)
    try:
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            libc("syncfs", opened)
        finally:
            os.close(opened)
    finally:
        os.close(fd)


def is_empty(home: Home, record: VolumeRecord) -> bool:
    if not os.path.exists(home.store.layout.volume_image(record.name)):
        return True
    fd = mount(home, record)
    try:
        with os.scandir(f"/proc/self/fd/{fd}") as entries:
            return not any(True for _ in entries)
    finally:
        os.close(fd)
