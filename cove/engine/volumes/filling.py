"""What an image has where a volume is mounted, copied into one that is empty.

Both ends are cove's archiver behind its walls: one in the image's root, where a link leads where it
leads inside, one in the new directory. That directory takes the place of the empty one when it is
whole: a copy that was cut off is in ``tmp``, and nobody has seen any of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cove.engine.descriptors import Descriptors
from cove.engine.home import Base, Home
from cove.engine.ranges import range_base
from cove.engine.volumes import limited
from cove.engine.volumes.users import is_mounted
from cove.errors import Conflict, CoveError, HostError, NotFound
from cove.executor.archiver import Archiver, run_archiver
from cove.linux.mounts import clone_mount
from cove.linux.pump import Stopped, pump, write_all
from cove.planner import Place
from cove.planner.files.archive import plan_stopped, plan_tree
from cove.planner.files.mounts import ROOT
from cove.roots import prepare_root
from cove.spec.machine import MachineSpec, Mount
from cove.spec.volume import is_limited
from cove.store.lock import translated
from cove.store.records import VolumeRecord

FIRST = 1 << 16
"""Bytes read of an archive before anything is made for it: of nothing there are none."""


@contextmanager
def id_range(home: Home) -> Iterator[int]:
    """Of an archiver: the first id. No record needs it, because the archiver ends with the
    daemon.
    """
    key = home.store.new_key()
    try:
        yield range_base(home.store.take_range(key))
    finally:
        home.store.free_range(key)


@contextmanager
def archiver_in(
    home: Home,
    directory: int,
    words: tuple[str, ...],
    what: str,
    *,
    writes: bool,
    mounted: bool = False,
) -> Iterator[Archiver]:
    """The archiver with ``directory`` as its root. ``mounted``: that is a mount of its own, given
    to it.
    """
    with id_range(home) as base, Descriptors() as fds:
        if mounted:
            fds.mine(ROOT, directory)
        else:
            fds.mine(ROOT, clone_mount(directory, recursive=False, what=f"cannot {what}"))
        plan = plan_tree(home.facts, base, words, writes=writes)
        with run_archiver(plan, fds, what=what, reads=writes) as archiver:
            yield archiver


@contextmanager
def _archiver_in_image(
    home: Home, base: Base, strata: tuple[int, ...], path: str, what: str
) -> Iterator[Archiver]:
    """In the root of a machine that is never made."""
    key = home.store.new_key()
    above = strata[-1] if strata else 0
    try:
        with id_range(home) as first:
            prepare_root(home.root, key, views=len(base.views), above=above)
            place = Place(key, home.root, first, base.layers, strata, views=base.views)
            words = ("out", path, "_data", "1")
            plan = plan_stopped(MachineSpec(image=""), home.facts, place, words, bare=True)
            with run_archiver(plan, {}, what=what) as archiver:
                yield archiver
    finally:
        home.remover.remove(home.store.layout.upper(key))


def is_empty(home: Home, record: VolumeRecord) -> bool:
    if is_limited(record.options):
        return limited.is_empty(home, record)
    try:
        with os.scandir(home.store.layout.volume_data(record.name)) as entries:
            return not any(True for _ in entries)
    except FileNotFoundError:  # whoever mounts it is told
        return False


def fill(
    home: Home, record: VolumeRecord, mount: Mount, base: Base, strata: tuple[int, ...]
) -> None:
    """Copy what the image has at the mount's target, if there is anything, and nobody else has put
    something into the volume or uses it by then.
    """
    what = f"copy {mount.target} of the image into volume {record.name}"
    with filled(home, mount, base, strata, what) as made:
        if made:
            _put(home, record, mount, made, what)


@contextmanager
def filled(
    home: Home, mount: Mount, base: Base, strata: tuple[int, ...], what: str
) -> Iterator[str]:
    """A directory of ``tmp`` with what the image has at the mount's target, ``_data``, in it; empty
    if that is nothing. What is not moved away goes.
    """
    staging = f"{home.store.layout.tmp}/volume-{home.store.new_key()}"
    with translated(what, origin=mount.origin):
        try:
            with _archiver_in_image(home, base, strata, mount.target, what) as reader:
                first = os.read(reader.stdout, FIRST)
                if first:
                    os.mkdir(staging, 0o700)
                    _copy(home, reader, first, staging, what)
                there = True
                try:
                    reader.finish()
                except NotFound:
                    there = False
            made = f"{staging}/_data"
            if there and (not os.path.isdir(made) or os.path.islink(made)):
                raise HostError(f"cannot {what}: in the image it is no directory", exit_code=125)
            yield made if there else ""
        except CoveError as error:
            error.origin = error.origin or mount.origin
            error.exit_code = 125
            raise
        finally:
            home.remover.remove(staging)


def _copy(home: Home, reader: Archiver, first: bytes, staging: str, what: str) -> None:
    directory = os.open(staging, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with archiver_in(home, directory, ("in", "/", "archive"), what, writes=True) as writer:
            pass_on(reader, writer, first)
    finally:
        os.close(directory)


def pass_on(reader: Archiver, writer: Archiver, first: bytes = b"") -> None:
    """All that one reads, to the other. Whatever went wrong in the writer is raised first: the
    reader then only knows that nobody listens.
    """

    def gone() -> bool:
        return reader.stopped.is_set() or writer.stopped.is_set()

    try:
        write_all(writer.stdin, first)
        pump(reader.stdout, writer.stdin, gone)
    except BrokenPipeError:
        pass
    except Stopped:
        raise Conflict(f"cannot {writer.what}: it was interrupted") from None
    finally:
        writer.close_stdin()
    writer.read_result()
    writer.finish()


def _put(home: Home, record: VolumeRecord, mount: Mount, made: str, what: str) -> None:
    """In one step, onto the empty directory."""
    with home.lock:
        now = home.store.volume(record.name)
        if now is None or now.removing:
            raise Conflict(f"cannot {what}: it was removed meanwhile", origin=mount.origin)
        if is_mounted(home, record.name):
            return
        try:
            os.rename(made, home.store.layout.volume_data(record.name))
        except OSError as error:
            if error.errno != 39:  # somebody was faster
                raise
