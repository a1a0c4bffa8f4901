"""A volume into a tar, out of one, and into another volume. What is made is made beside, and takes
its place in one step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cove.engine.calls import Call
from cove.engine.calls.volumes import VolumeClone, VolumeRestore
from cove.engine.events import Cancel, Cancelled
from cove.engine.home import Home
from cove.engine.visits.visits import send_out, take_in
from cove.engine.volumes import disks, limited, making
from cove.engine.volumes.filling import archiver_in, is_empty, pass_on
from cove.engine.volumes.opening import open_data
from cove.engine.volumes.users import is_mounted, mountpoint
from cove.errors import BadArchive, Conflict, Unsupported, UsageError
from cove.executor.archiver import Archiver
from cove.linux.pump import Stopped
from cove.linux.syscalls import exchange
from cove.roots.copy import copy_tree
from cove.roots.remove import remove_tree
from cove.spec.volume import VolumeSpec, is_disk, is_limited
from cove.store.lock import translated
from cove.store.records import VolumeRecord

OUT, IN = ("out", "/", ".", "0"), ("in", "/", "tree")
"""Words of the archiver: all of it."""


@contextmanager
def _wanted(archiver: Archiver, call: Call) -> Iterator[None]:
    """Ended with the caller."""
    try:
        if isinstance(call.cancelled, Cancel):
            with call.cancelled.then(archiver.stop):
                yield
        else:
            yield
    except (Stopped, Conflict, BrokenPipeError):
        if call.cancelled is not None and call.cancelled.is_set():
            raise Cancelled("interrupted") from None
        raise


def backup(home: Home, name: str, call: Call) -> VolumeRecord:
    record = home.store.find_volume(name)
    with (
        _archiver(home, record, OUT, f"back up volume {name}") as archiver,
        _wanted(archiver, call),
    ):
        send_out(archiver, call)
    return record


@contextmanager
def _archiver(
    home: Home, record: VolumeRecord, words: tuple[str, ...], what: str, *, path: str = ""
) -> Iterator[Archiver]:
    """In a volume, which it reads; or in a file that will be a limited one, which it fills."""
    if is_limited(record.options):
        own = home.store.layout.volume_image(record.name)
        disks.make_at(home, record, path or own, None)
        writes = bool(path)
        fd = limited.mount(home, record, path=path)
        with archiver_in(home, fd, words, what, writes=writes, mounted=True) as archiver:
            yield archiver
        return
    directory = open_data(home, record)
    try:
        with archiver_in(home, directory, words, what, writes=False) as archiver:
            yield archiver
    finally:
        os.close(directory)


def restore(home: Home, params: VolumeRestore, call: Call) -> VolumeRecord:
    if call.body < 0:
        raise UsageError("cannot restore a volume: nothing was sent")
    held = _check_target(home, params)
    what = f"restore volume {params.volume}"
    if held is not None and is_limited(held.options):
        return _restore_limited(home, held, params, call, what)
    with _staging(home, what) as staging:
        os.mkdir(f"{staging}/_data", 0o755)
        os.chmod(f"{staging}/_data", 0o755)
        directory = os.open(f"{staging}/_data", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with (
                archiver_in(home, directory, IN, what, writes=True) as archiver,
                _wanted(archiver, call),
            ):
                take_in(archiver, call, coded=params.coded)
        except BadArchive as error:
            error.hint = error.hint or "the volume is as it was"
            raise
        finally:
            os.close(directory)
        with home.lock:
            held = _check_target(home, params)
            if held is None:
                return making.make(home, VolumeSpec(params.volume), ready=staging)
            exchange(f"{staging}/_data", home.store.layout.volume_data(held.name))
            return held


def _restore_limited(
    home: Home, held: VolumeRecord, params: VolumeRestore, call: Call, what: str
) -> VolumeRecord:
    """Its file is another one then, in one step; what is too much for it leaves it as it was."""
    with _staging(home, what) as staging:
        path = f"{staging}/image"
        try:
            with _archiver(home, held, IN, what, path=path) as archiver, _wanted(archiver, call):
                take_in(archiver, call, coded=params.coded)
        except BadArchive as error:
            error.hint = error.hint or "the volume is as it was"
            raise
        limited.write_out(home, held, path)
        with home.lock:
            now = _check_target(home, params)
            if now is None or now.options != held.options:
                raise Conflict(f"cannot {what}: it was removed meanwhile")
            os.rename(path, home.store.layout.volume_image(held.name))
    return held


def _check_target(home: Home, params: VolumeRestore) -> VolumeRecord | None:
    name = params.volume
    held = home.store.volume(name)
    if held is None:
        return None
    if held.removing:
        raise Conflict(f"cannot restore volume {name}: it is being removed")
    if is_disk(held.options):
        raise Unsupported(
            f"cannot restore volume {name}: it is a disk, which only guests mount",
            hint=f"cove run -i --rm --vm -v {name}:/mnt IMAGE tar -x -C /mnt",
        )
    if held.options and not is_limited(held.options):
        raise Unsupported(
            f"cannot restore volume {name}: it is a directory of the host's own, "
            f"{held.options.get('device', '')}",
            hint="unpack the tar there",
        )
    if is_mounted(home, name):
        raise Conflict(
            f"cannot restore volume {name}: a machine that runs has it",
            hint="stop it first, or restore into another volume",
        )
    if not params.force and not is_empty(home, held):
        raise Conflict(
            f"cannot restore volume {name}: there is something in it",
            hint=f"cove volume restore -f {name} replaces that",
        )
    return held


def clone(home: Home, params: VolumeClone, call: Call) -> VolumeRecord:
    record = home.store.find_volume(params.volume)
    what = f"clone volume {record.name}"
    if home.store.volume(params.name) is not None:
        raise Conflict(f"cannot {what}: there is a volume {params.name}")
    wish = VolumeSpec(params.name, dict(record.labels), dict(record.options))
    if is_limited(record.options):
        with _staging(home, what) as staging:
            path = f"{staging}/image"
            with (
                _archiver(home, record, OUT, what) as reader,
                _archiver(home, record, IN, what, path=path) as writer,
                _wanted(reader, call),
            ):
                pass_on(reader, writer)
                reader.finish()
            limited.write_out(home, record, path)
            return making.make(home, wish, ready=staging)
    if is_disk(record.options):
        with _staging(home, what) as staging:
            disks.copy(home, record, staging)
            return making.make(home, wish, ready=staging)
    with _staging(home, what, make=False) as staging:
        copy_tree(mountpoint(home, record), staging, "_data", what=what, cancelled=call.cancelled)
        for name in ("links._data", "gone._data"):
            remove_tree(f"{staging}/{name}")  # its names are links of files
        return making.make(home, VolumeSpec(params.name, dict(record.labels)), ready=staging)


@contextmanager
def _staging(home: Home, what: str, *, make: bool = True) -> Iterator[str]:
    """A directory in ``tmp``, gone at the end unless it was moved away."""
    staging = f"{home.store.layout.tmp}/volume-{home.store.new_key()}"
    try:
        with translated(what):
            if make:
                os.mkdir(staging, 0o700)
            yield staging
    finally:
        home.remover.remove(staging)
