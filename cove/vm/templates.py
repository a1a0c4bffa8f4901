"""Templates on disk: ``templates/<key>/`` with the memory and state of a guest that has booted and
holds nothing of any image. In use they are sealed memory, which no emulator can write: one that was
taken over by its guest must not poison the next one's.

What is on disk is checked whole against its record whenever it is loaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from cove.errors import NOT_JSON, HostError, NotFound
from cove.linux.pump import write_all
from cove.roots.remove import remove_tree
from cove.store.layout import Layout

FORMAT = 2
"""Raised when a template of before cannot be gone on with: agent, devices, what was run in it."""
KEY = re.compile(r"[0-9a-f]{32}")
META_MAX, STATE_MAX = 4 << 20, 16 << 20
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
CHUNK = 4 << 20


class Template(msgspec.Struct, frozen=True):
    """``meta.json``."""

    key: str
    """Changes with everything that a clone must have like it."""
    kernel: str
    """Name of the guest kernel; ``digest`` is its own."""
    digest: str
    version: str
    """As ``uname -r`` says in it."""
    arch: str
    accel: str
    """``kvm`` or ``tcg``."""
    memory: int
    cpus: int
    emulator: str
    """QEMU's version."""
    agent: str
    """Key of the initrd with the agent."""
    created: float
    size: int
    """Bytes on disk."""
    extents: tuple[tuple[int, int], ...]
    """Offset and length of what is not zero in the memory; the file has these, one after another.
    """
    memory_digest: str
    state_digest: str
    format: int = FORMAT


# Made at import, by one thread: msgspec crashes when two make one type's decoder at once.
_decode = msgspec.json.Decoder(Template).decode


@dataclass(slots=True, eq=False)
class Loaded:
    """A template in use. Its descriptors live as long as it does."""

    template: Template
    memory: int
    state: int

    def close(self) -> None:
        for fd in (self.memory, self.state):
            if fd >= 0:
                os.close(fd)
        self.memory = self.state = -1


def store(layout: Layout, template: Template, memory: int, state: int) -> Template:
    """Write a template whose guest has ended: whole under its key, or not at all."""
    work = f"{layout.tmp}/template-{os.getpid()}-{template.key}"
    with contextlib.suppress(FileNotFoundError):
        remove_tree(work)
    os.mkdir(work, 0o700)
    try:
        extents, memory_digest = copy_out(memory, f"{work}/memory")
        data = os.pread(state, STATE_MAX, 0)
        write(f"{work}/state", data)
        template = msgspec.structs.replace(
            template,
            extents=extents,
            memory_digest=memory_digest,
            state_digest=hashlib.sha256(data).hexdigest(),
            size=sum(length for _, length in extents) + len(data),
        )
        write(f"{work}/meta.json", msgspec.json.encode(template))
        remove(layout, template.key)
        os.rename(work, layout.template(template.key))
    except BaseException:
        remove_tree(work)
        raise
    return template


def load(layout: Layout, template: Template) -> Loaded:
    """Into sealed memory.

    Raises:
        HostError: it is damaged.
    """
    directory = layout.template(template.key)
    memory = os.memfd_create("template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    state = -1
    try:
        os.ftruncate(memory, template.memory)
        state = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # QEMU, which is nobody in its jail, opens it once more by its descriptor; it is sealed.
        with open_file(f"{directory}/state") as file:
            data = file.read(STATE_MAX)
        write_all(state, data)
        if any(at < 0 or n < 0 or at + n > template.memory for at, n in template.extents):
            raise _damaged(template, "its record does not fit its memory")
        digest = copy_in(f"{directory}/memory", memory, template.extents)
        if digest != template.memory_digest:
            raise _damaged(template, "its memory is not what was written")
        if hashlib.sha256(data).hexdigest() != template.state_digest:
            raise _damaged(template, "its state is not what was written")
        seal(memory, state)
    except OSError as error:
        _close(memory, state)
        raise _damaged(template, (error.strerror or "i/o error").lower()) from error
    except BaseException:
        _close(memory, state)
        raise
    return Loaded(template, memory, state)


def all_of(layout: Layout) -> tuple[Template, ...]:
    """Newest first; damaged records and those of a newer cove are left out."""
    found = []
    for name in os.listdir(layout.templates):
        with contextlib.suppress(NotFound, HostError):
            found.append(find(layout, name))
    return tuple(sorted(found, key=lambda template: (-template.created, template.key)))


def find(layout: Layout, key: str) -> Template:
    if not KEY.fullmatch(key):
        raise NotFound(f"cannot find template {key[:64]}: no such template")
    try:
        with open_file(f"{layout.template(key)}/meta.json") as file:
            template = _decode(file.read(META_MAX))
    except FileNotFoundError:
        raise NotFound(f"cannot find template {key}: no such template") from None
    except (OSError, *NOT_JSON) as error:
        raise HostError(f"cannot use template {key}: its record is damaged") from error
    if template.format != FORMAT or template.key != key:
        raise NotFound(f"cannot find template {key}: it is of another cove")
    return template


def remove(layout: Layout, key: str) -> None:
    """Gone at once; a missing one is no error. Clones that run keep what they have of it."""
    doomed = f"{layout.tmp}/template-{os.getpid()}-{key}-{time.monotonic_ns()}"
    try:
        os.rename(layout.template(key), doomed)
    except FileNotFoundError:
        return
    remove_tree(doomed)


def names(layout: Layout) -> tuple[str, ...]:
    """Damaged ones too."""
    return tuple(sorted(name for name in os.listdir(layout.templates) if KEY.fullmatch(name)))


# ---- bytes ----


def holes(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: offset and length."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at - begin


def copy_out(memory: int, path: str) -> tuple[tuple[tuple[int, int], ...], str]:
    """What is not zero of a memory into a new file: where it was, and its digest."""
    digest, extents = hashlib.sha256(), tuple(holes(memory, os.fstat(memory).st_size))
    with open(path, "xb", opener=_private) as file:
        for begin, length in extents:
            for at in range(begin, begin + length, CHUNK):
                data = os.pread(memory, min(CHUNK, begin + length - at), at)
                digest.update(data)
                file.write(data)
    return extents, digest.hexdigest()


def copy_in(path: str, memory: int, extents: Iterable[tuple[int, int]]) -> str:
    """The digest of what was there. The caller has checked that it fits."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        for begin, length in extents:
            for at in range(begin, begin + length, CHUNK):
                data = file.read(min(CHUNK, begin + length - at))
                digest.update(data)
                os.pwrite(memory, data, at)
    return digest.hexdigest()


def seal(*files: int) -> None:
    for fd in files:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)


def _damaged(template: Template, why: str) -> HostError:
    return HostError(f"cannot use template {template.key}: {why}")


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def open_file(path: str):  # type: ignore[no-untyped-def]
    return open(path, "rb", opener=_no_link)


def write(path: str, data: bytes) -> None:
    with open(path, "xb", opener=_private) as file:
        file.write(data)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
