"""A volume's files, opened once: what is put in their place afterwards is not what gets mounted."""

from __future__ import annotations

import errno
import os
import stat

from cove.engine.home import Home
from cove.errors import CoveError, HostError, NotFound, Unsupported, UsageError
from cove.linux.mounts import Source, open_source
from cove.linux.syscalls import (
    AT_FDCWD,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)
from cove.spec.machine import Mount
from cove.spec.volume import device_of, is_disk
from cove.store.records import VolumeRecord


def open_data(home: Home, record: VolumeRecord, *, origin: str = "") -> int:
    """O_PATH; the receiver's to close."""
    if is_disk(record.options):
        raise Unsupported(
            f"cannot use volume {record.name} here: it is a disk that a guest wrote, which only "
            "guests mount",
            origin=origin,
            hint=f"with a virtual machine: cove run --rm --vm -v {record.name}:/mnt IMAGE …",
        )
    device = device_of(record.options)
    if device:
        source = open_source(device, f"volume {record.name}", origin=origin)
        if not source.is_dir:
            os.close(source.fd)
            raise HostError(
                f"cannot use volume {record.name}: {device} is no directory", origin=origin
            )
        return source.fd
    path = home.store.layout.volume_data(record.name)
    try:
        return openat2(
            AT_FDCWD, path, flags=os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS
        )
    except OSError as error:
        raise HostError(
            f"cannot use volume {record.name}: {(error.strerror or '').lower()}",
            origin=origin,
            host=path,
            hint=f"what was in it is gone: cove volume rm {record.name}",
        ) from error


def open_mount(home: Home, mount: Mount) -> Source:
    """What a machine's mount shows: the volume, or a part of it."""
    record = find_mounted(home, mount)
    fd = open_data(home, record, origin=mount.origin)
    if mount.subpath:
        try:
            part = _open_part(fd, mount)
        finally:
            os.close(fd)
        fd = part
    found = os.fstat(fd)
    return Source(fd, stat.S_ISDIR(found.st_mode), found.st_uid, found.st_gid)


def find_mounted(home: Home, mount: Mount) -> VolumeRecord:
    record = home.store.volume(mount.source)
    if record is None or record.removing:
        raise NotFound(
            f"cannot mount volume {mount.source} on {mount.target}: no such volume",
            origin=mount.origin,
            hint=f"cove volume create {mount.source}",
            exit_code=125,
        )
    return record


def _open_part(fd: int, mount: Mount) -> int:
    """Links in a volume lead to places in it, whoever wrote them, and never out."""
    what = f"cannot mount {mount.subpath} of volume {mount.source}"
    try:
        part = openat2(
            fd, mount.subpath, flags=os.O_PATH, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
        )
    except OSError as error:
        raise _part_error(what, mount, error) from error
    mode = os.fstat(part).st_mode
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        os.close(part)
        raise UsageError(
            f"{what}: it is neither a directory nor a file", origin=mount.origin, exit_code=125
        )
    return part


def _part_error(what: str, mount: Mount, error: OSError) -> CoveError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(
            f"{what}: no such directory in it",
            origin=mount.origin,
            hint="a machine with the whole volume can make it",
            exit_code=125,
        )
    return HostError(f"{what}: {(error.strerror or '').lower()}", origin=mount.origin)
