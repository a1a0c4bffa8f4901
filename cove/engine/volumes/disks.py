"""Volumes that are disks: an ext4 in a file, made behind walls and from then on mounted by guests
alone, one at a time unless all of them only read.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress

from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.ranges import range_base
from cove.engine.volumes.binds import open_binds
from cove.engine.volumes.filling import filled
from cove.engine.volumes.users import holders
from cove.errors import Conflict, HostError, Unsupported
from cove.executor.archiver import run_archiver
from cove.plan.facts import Facts
from cove.plan.ops import Plan
from cove.planner import Place
from cove.planner.files.archive import ends_with_daemon
from cove.planner.tools.mkfs import (
    FSCK,
    MKFS,
    OUT,
    TREE,
    mkfs_spec,
    plan_mkfs,
    plan_replay,
    replay_spec,
)
from cove.roots.scratch import copy_sparse
from cove.spec.machine import MachineSpec, Mount
from cove.spec.volume import disk_size
from cove.store.lock import translated
from cove.store.records import VolumeRecord

PATIENCE = 20.0
"""Seconds that an emulator which was ended may still have the disk."""


def check_mount(mount: Mount) -> None:
    if mount.subpath:
        raise Unsupported(
            f"cannot mount {mount.subpath} of volume {mount.source}: it is a disk, of which there "
            "are no parts",
            origin=mount.origin,
        )


def make(
    home: Home, record: VolumeRecord, mount: Mount, base: Base, strata: tuple[int, ...]
) -> None:
    """Unless it is there: with what the image has at the mount's target."""
    make_at(home, record, home.store.layout.volume_disk(record.name), (mount, base, strata))


def make_at(
    home: Home,
    record: VolumeRecord,
    path: str,
    contents: tuple[Mount, Base, tuple[int, ...]] | None,
) -> None:
    if os.path.exists(path):
        return
    what = f"make the disk of volume {record.name}"
    if contents is not None and contents[0].copy:
        with filled(home, *contents, what) as made:
            _make(home, record, path, os.path.dirname(made) if made else "", what)
    else:
        _make(home, record, path, "", what)


def _make(home: Home, record: VolumeRecord, path: str, tree: str, what: str) -> None:
    staging = f"{home.store.layout.tmp}/disk-{home.store.new_key()}"
    size = disk_size(record.options)
    try:
        with translated(what):
            for name in (staging, f"{staging}/{OUT}", f"{staging}/{TREE}"):
                os.mkdir(name, 0o700)
            if not tree:
                tree = f"{staging}/{TREE}"
                os.mkdir(f"{tree}/_data", 0o755)
                os.chmod(f"{tree}/_data", 0o755)
            made = f"{staging}/{OUT}/disk"
            fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, size)
                _run(home, mkfs_spec(tree, f"{staging}/{OUT}"), plan_mkfs, what)
                os.fsync(fd)
            finally:
                os.close(fd)
            with home.lock:
                now = home.store.volume(record.name)
                if now is None or now.removing:
                    raise Conflict(f"cannot {what}: it was removed meanwhile")
                with suppress(FileExistsError):  # somebody was faster
                    os.link(made, path, follow_symlinks=False)
    finally:
        home.remover.remove(staging)


def _run(
    home: Home,
    spec: MachineSpec,
    planned: Callable[[MachineSpec, Facts, Place], Plan],
    what: str,
) -> None:
    """What reads a stranger's names is alone with them."""
    if not (os.access(MKFS, os.X_OK) and os.access(FSCK, os.X_OK)):
        raise HostError(f"cannot {what}: there is no mkfs.ext4", hint="apt-get install e2fsprogs")
    key = home.store.new_key()
    try:
        with Descriptors() as fds:
            binds = open_binds(home, fds, spec)
            base = range_base(home.store.take_range(key))
            place = Place(key=key, root=home.root, base=base, binds=binds)
            plan = ends_with_daemon(planned(spec, home.facts, place))
            with run_archiver(plan, fds, what=what) as tool:
                tool.read_result()
                tool.finish()
    finally:
        home.store.free_range(key)


def open_disk(home: Home, record: VolumeRecord, *, read_only: bool, key: int, origin: str) -> int:
    """For the emulator of machine ``key``, which has it alone, or with others that only read: the
    lock goes with the descriptor.
    """
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(home.store.layout.volume_disk(record.name), flags)
    except OSError as error:
        raise HostError(
            f"cannot use volume {record.name}: {(error.strerror or '').lower()}",
            origin=origin,
            hint=f"what was in it is gone: cove volume rm {record.name}",
        ) from error
    try:
        if read_only:
            _replay(home, record, fd)
        _lock(home, record, fd, shared=read_only, key=key, origin=origin)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _replay(home: Home, record: VolumeRecord, fd: int) -> None:
    """An ext4 whose guest ended without unmounting it is whole with its journal alone. Nobody else
    has it meanwhile; those that only read have it when this was done.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    disk = home.store.layout.volume_disk(record.name)
    _run(home, replay_spec(disk), plan_replay, f"read the disk of volume {record.name}")


def _lock(
    home: Home, record: VolumeRecord, fd: int, *, shared: bool, key: int, origin: str
) -> None:
    late = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            others = holders(home, record.name, but=key)
            if others or time.monotonic() > late:
                who = ", ".join(sorted(others)[:5]) or "an emulator that does not end"
                raise Conflict(
                    f"cannot use volume {record.name}: it is a disk, and {who} has it",
                    origin=origin,
                    hint="one machine at a time writes to it; any number may have it with readonly",
                    exit_code=125 if key else 1,
                ) from None
            time.sleep(0.005)


def copy(home: Home, record: VolumeRecord, staging: str) -> None:
    """Into a directory that becomes a volume, unless a machine writes to it meanwhile."""
    if not os.path.exists(home.store.layout.volume_disk(record.name)):
        return
    source = open_disk(home, record, read_only=True, key=0, origin="")
    try:
        target = os.open(f"{staging}/disk", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            copy_sparse(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)
