"""Moments of virtual machines: memory, devices and disk of a guest as they were at once, or the
disk alone of one that did not run. In use the memory is sealed; kept, it is a directory,
``snapshots/<id>/``, that is whole or not there.

What is kept is checked whole against its record whenever it is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass

import msgspec

from cove.errors import NOT_JSON, HostError
from cove.linux.pump import write_all
from cove.vm import templates
from cove.vm.templates import META_MAX, STATE_MAX

FORMAT = 1
END_OF_STATE = b"\x06\0\0\0\0"
"""An empty description of what came before, which QEMU looks for behind the devices."""
ROOT_MAX = 4096
"""Bytes of a root disk by which it is known: its superblock, with when it was made."""


class Shape(msgspec.Struct, frozen=True):
    """What an emulator must be like to go on with a guest."""

    arch: str
    memory: int
    cpus: int
    acpi: bool
    accel: str
    """``kvm`` or ``tcg``."""
    emulator: tuple[int, ...]
    """QEMU's version."""
    root: str
    """Digest of the beginning of the image's disk, of which the guest knows more than is read."""
    cards: int = 0
    """Network cards; none of guests that were kept before they had any."""


class Kept(msgspec.Struct, frozen=True):
    """``meta.json``."""

    shape: Shape | None = None
    """None: there is the disk alone."""
    extents: tuple[tuple[int, int], ...] = ()
    memory_digest: str = ""
    state_digest: str = ""
    disk_digest: str = ""
    """Of what it holds, and where; looked at by ``cove system check`` alone."""
    format: int = FORMAT


@dataclass(slots=True, eq=False)
class Held:
    """A moment in use; its descriptors live as long as it does."""

    disk: int
    shape: Shape | None = None
    memory: int = -1
    state: int = -1
    pause: float = 0.0
    """Seconds for which the machine stood still."""

    def close(self) -> None:
        for fd in (self.disk, self.memory, self.state):
            if fd >= 0:
                os.close(fd)
        self.disk = self.memory = self.state = -1


def check_shape(shape: Shape, accel: str, emulator: tuple[int, ...], what: str) -> None:
    """Whether this host's emulator for guests of its CPU can go on with it.

    Raises:
        HostError: it cannot.
    """
    if shape.accel != accel:
        raise HostError(f"cannot {what}: its guest ran under {shape.accel}, here it is {accel}")
    if shape.emulator != emulator[:2]:
        made, here = (".".join(map(str, version)) for version in (shape.emulator, emulator[:2]))
        raise HostError(f"cannot {what}: its guest ran in QEMU {made}, here is {here}")


def root_digest(root: int) -> str:
    return hashlib.sha256(os.pread(root, ROOT_MAX, 0)).hexdigest()


# ---- kept ----


def keep(directory: str, held: Held) -> None:
    """Beside its disk, which is in ``directory`` already."""
    disk = _disk_digest(held.disk)
    if held.shape is None:
        kept = Kept(disk_digest=disk)
    else:
        extents, memory_digest = templates.copy_out(held.memory, f"{directory}/memory")
        data = os.pread(held.state, STATE_MAX, 0)
        templates.write(f"{directory}/state", data)
        state = hashlib.sha256(data).hexdigest()
        kept = Kept(held.shape, extents, memory_digest, state, disk)
    templates.write(f"{directory}/meta.json", msgspec.json.encode(kept))


def load(directory: str, what: str) -> Held:
    """The memory into a sealed file.

    Raises:
        HostError: it is damaged, or of a newer cove.
    """
    kept = find(directory, what)
    try:
        with contextlib.ExitStack() as stack:
            disk = os.open(f"{directory}/disk", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, disk)
            held = Held(disk)
            if kept.shape is not None:
                held.memory, held.state = (
                    os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
                    for name in ("memory", "state")
                )
                stack.callback(os.close, held.memory)
                stack.callback(os.close, held.state)
                held.shape = kept.shape
                _load_guest(directory, kept, kept.shape, held, what)
            stack.pop_all()
            return held
    except OSError as error:
        raise _damaged(what, (error.strerror or "i/o error").lower()) from error


def _load_guest(directory: str, kept: Kept, shape: Shape, held: Held, what: str) -> None:
    with templates.open_file(f"{directory}/state") as file:
        data = file.read(STATE_MAX)
    write_all(held.state, data)
    os.ftruncate(held.memory, shape.memory)
    if any(begin < 0 or n < 0 or begin + n > shape.memory for begin, n in kept.extents):
        raise _damaged(what, "its record does not fit its memory")
    if templates.copy_in(f"{directory}/memory", held.memory, kept.extents) != kept.memory_digest:
        raise _damaged(what, "its memory is not what was written")
    if hashlib.sha256(data).hexdigest() != kept.state_digest:
        raise _damaged(what, "the state of its devices is not what was written")
    templates.seal(held.memory, held.state)


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(Kept).decode


def find(directory: str, what: str) -> Kept:
    """The record alone."""
    try:
        with templates.open_file(f"{directory}/meta.json") as file:
            kept = _decode(file.read(META_MAX))
    except (OSError, *NOT_JSON) as error:
        raise _damaged(what, "its record is damaged") from error
    if kept.format != FORMAT:
        raise _damaged(what, "it is of another cove")
    return kept


def check(directory: str, what: str) -> None:
    """Whether all of it is what was written, without going on with it."""
    held = load(directory, what)
    try:
        if _disk_digest(held.disk) != find(directory, what).disk_digest:
            raise _damaged(what, "its disk is not what was written")
    finally:
        held.close()


def size_of(directory: str) -> int:
    """Bytes on disk."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    return 0


def _disk_digest(disk: int) -> str:
    digest = hashlib.sha256()
    for begin, length in templates.holes(disk, os.fstat(disk).st_size):
        digest.update(b"%d %d\n" % (begin, length))
        for at in range(begin, begin + length, templates.CHUNK):
            digest.update(os.pread(disk, min(templates.CHUNK, begin + length - at), at))
    return digest.hexdigest()


def _damaged(what: str, why: str) -> HostError:
    return HostError(f"cannot {what}: {why}")
