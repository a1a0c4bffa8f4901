"""Images as disks: the root disk of every virtual machine of an image, made once by mkfs.erofs,
which reads a tree of somebody's making and therefore runs in a machine of its own. What a step of a
build begins with is no image yet: its disk is made for the step.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator

from cove.engine.events import Cancel, Cancelled
from cove.engine.home import Base, Home
from cove.engine.machines import life, stopping, waiting
from cove.engine.machines.causes import size_text
from cove.errors import CoveError, HostError
from cove.image.host import HOST
from cove.linux.disk import file_usage, trees_usage
from cove.planner.defaults import STORAGE
from cove.roots.remove import remove_tree
from cove.spec.machine import Limits, MachineSpec, Mount, Security, Ulimit
from cove.store.records import Cause, MachineRecord

TREE, OUT = "/mnt", "/srv"
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
NEARLY = 16 << 20
"""Bytes that a file may lack of its limit when there was no room for what came next."""
LOOK = 0.25
"""Seconds between two looks at how large a disk has become."""
Tell = Callable[[int], None]
MKFS = ("mkfs.erofs", "--quiet", "-Enoinline_data")
DISK, HINTS = "disk", "hints"
SMALLER = ("-zlz4", f"--compress-hints={OUT}/{HINTS}")
"""Of a disk that stays, not of one that goes with a step of a build."""
PLAIN = ("0 (^|/)s?bin/[^/]*$", "0 [.]so([.][0-9.]*)?$")
"""Programs and libraries are not compressed: each start reads them, and where the guest's CPU is
emulated unpacking a small program takes as long as running it. They would shrink by a quarter.
"""


class Disks:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: dict[str, tuple[threading.Lock, int]] = {}
        """With how many hold or want it: there is a key for each step of a build."""
        self._lent: dict[str, tuple[int, int]] = {}
        """Of what steps of builds begin with: a descriptor, and how many steps have it."""

    def open(self, home: Home, base: Base, tell: Tell | None = None) -> int:
        """The image's disk, read-only; made now where it is missing, and ``tell`` is told how large
        it has become.
        """
        if _is_of_step(base):
            return self._open_lent(home, base)
        path = home.store.layout.disk(base.record.id)
        with self._one(base.record.id):
            if not os.path.exists(path):
                with _made(home, base, tell) as made:
                    os.rename(made, path)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    @contextlib.contextmanager
    def lent(self, home: Home, base: Base, stopped: Cancel) -> Iterator[None]:
        """What a step of a build begins with has its disk for the block, and the disk no name:
        nothing else begins with that.
        """
        if not _is_of_step(base):
            yield
            return
        key = _key_of(base)
        with self._one(key):
            fd, users = self._lent.get(key, (-1, 0))
            if fd < 0:
                fd = _nameless(home, base, stopped)
            self._lent[key] = fd, users + 1
        try:
            yield
        finally:
            with self._one(key):
                fd, users = self._lent.pop(key)
                if users > 1:
                    self._lent[key] = fd, users - 1
                else:
                    os.close(fd)

    def _open_lent(self, home: Home, base: Base) -> int:
        key = _key_of(base)
        with self._one(key):
            fd, _ = self._lent.get(key, (-1, 0))
            if fd < 0:
                return _nameless(home, base, None)
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)

    @contextlib.contextmanager
    def _one(self, key: str) -> Iterator[None]:
        with self._lock:
            lock, users = self._making.get(key) or (threading.Lock(), 0)
            self._making[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                _, users = self._making.pop(key)
                if users > 1:
                    self._making[key] = lock, users - 1


def _is_of_step(base: Base) -> bool:
    """It is no image, or not yet."""
    return bool(base.above) or not base.record.id


def _key_of(base: Base) -> str:
    return " ".join((base.record.id, *base.above))


def _nameless(home: Home, base: Base, stopped: Cancel | None) -> int:
    with _made(home, base, None, stopped) as made:
        return os.open(made, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


@contextlib.contextmanager
def _watched(path: str, tell: Tell | None) -> Iterator[None]:
    over = threading.Event()

    def look() -> None:
        while tell is not None and not over.wait(LOOK):
            try:
                tell(file_usage(path))
            except CoveError:  # nobody listens any more
                return

    watcher = threading.Thread(target=look, name="disk", daemon=True)
    if tell is not None:
        watcher.start()
    try:
        yield
    finally:
        over.set()
        if tell is not None:
            watcher.join()


@contextlib.contextmanager
def _made(
    home: Home, base: Base, tell: Tell | None, stopped: Cancel | None = None
) -> Iterator[str]:
    """The path of a new disk, which is gone after the block."""
    directory = f"{home.store.layout.tmp}/disk-{secrets.token_hex(8)}"
    os.mkdir(directory, 0o700)
    try:
        for name, text in ((DISK, ""), (HINTS, "".join(f"{line}\n" for line in PLAIN))):
            with open(f"{directory}/{name}", "x") as file:
                file.write(text)
        largest = _largest(home, base)
        record = life.run(home, _tool(base, directory, largest), None)
        with _watched(f"{directory}/{DISK}", tell):
            code, cause = _wait(home, record, stopped)
        if code:
            if os.stat(f"{directory}/{DISK}").st_size > largest - NEARLY:
                raise _too_large(largest)
            raise _failed(code, cause.text)
        _check(f"{directory}/{DISK}")
        yield f"{directory}/{DISK}"
    finally:
        remove_tree(directory)


def _wait(home: Home, record: MachineRecord, stopped: Cancel | None) -> tuple[int, Cause]:
    """The tool ends with who wants the disk."""
    try:
        return waiting.wait(home, record, "not-running", stopped)
    except Cancelled:
        with contextlib.suppress(CoveError):  # it has ended just now
            stopping.kill(home, record, "KILL")
        waiting.wait(home, record, "removed")
        raise


def _check(made: str) -> None:
    """What made it has read a stranger's tree, and may have been taken over: a file, or nothing."""
    try:
        fd = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _failed(0, f"what it made is no file: {(error.strerror or '').lower()}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _failed(0, "what it made is no file")
        os.fchmod(fd, 0o600)
        os.fsync(fd)  # after a power cut a name without its bytes would be believed for good
    finally:
        os.close(fd)


def _largest(home: Home, base: Base) -> int:
    """Bytes that a disk may have: what the tree takes on the host's, and as much more as a machine
    may write. Holes of files count in a disk, so a tree can ask for more than any host has.
    """
    layers = [home.store.layout.layer(key) for key in base.layers]
    return sum(trees_usage(layers).values()) + STORAGE


def _tool(base: Base, directory: str, largest: int) -> MachineSpec:
    """What reads a stranger's tree is shown two files, of which it may write the one, so far."""
    image = base.record.id
    tree = Mount("image", TREE, image, read_only=True, above=base.above, origin="the image's disk")
    if not base.layers:  # of nothing there is no overlay
        tree = Mount("tmpfs", TREE, mode=0o755, read_only=True, origin="the image's disk")
    return MachineSpec(
        HOST,
        (*MKFS, *(() if _is_of_step(base) else SMALLER), f"{OUT}/{DISK}", TREE),
        remove=True,
        labels={"cove.disk": image},
        security=Security(cap_drop=("ALL",), cap_add=CAPABILITIES),
        limits=Limits(ulimits=(Ulimit("fsize", largest, largest),)),
        mounts=(
            tree,
            Mount("bind", f"{OUT}/{DISK}", f"{directory}/{DISK}", origin="the image's disk"),
            Mount("bind", f"{OUT}/{HINTS}", f"{directory}/{HINTS}", read_only=True,
                  origin="the image's disk"),
        ),
    )  # fmt: skip


def _too_large(largest: int) -> CoveError:
    return HostError(
        f"cannot make an image's disk: it would be larger than {size_text(largest)}",
        hint="files with holes have all of their length in it: du --apparent-size",
    )


def _failed(code: int, cause: str) -> CoveError:
    if code == 127:
        return HostError(
            "cannot make an image's disk: there is no mkfs.erofs",
            hint="apt-get install erofs-utils",
        )
    why = cause or f"mkfs.erofs ended with {code}"
    return HostError(f"cannot make an image's disk: {why}")
