"""Images as disks: the root disk of every virtual machine of an image, made once by mkfs.erofs,
which reads a tree of somebody's making and therefore runs in a machine of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator

from cove.engine.home import Base, Home
from cove.engine.machines import life, waiting
from cove.errors import CoveError, HostError
from cove.image.host import HOST
from cove.linux.disk import file_usage
from cove.roots.remove import remove_tree
from cove.spec.machine import MachineSpec, Mount, Security

TREE, OUT = "/mnt", "/srv"
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
LOOK = 0.25
"""Seconds between two looks at how large a disk has become."""
Tell = Callable[[int], None]
MKFS = ("mkfs.erofs", "-zlz4", "--quiet", "-Enoinline_data")
HINTS = "hints"
PLAIN = ("0 (^|/)s?bin/[^/]*$", "0 [.]so([.][0-9.]*)?$")
"""Programs and libraries are not compressed: each start reads them, and where the guest's CPU is
emulated unpacking a small program takes as long as running it. They would shrink by a quarter.
"""


class Disks:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def open(self, home: Home, base: Base, tell: Tell | None = None) -> int:
        """The image's disk, read-only; made now where it is missing, and ``tell`` is told how large
        it has become.
        """
        path = home.store.layout.disk(base.record.id)
        with self._one(base.record.id):
            if not os.path.exists(path):
                _make(home, base, path, tell)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    @contextlib.contextmanager
    def _one(self, image: str) -> Iterator[None]:
        with self._lock:
            lock = self._making.setdefault(image, threading.Lock())
        with lock:
            yield


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


def _make(home: Home, base: Base, path: str, tell: Tell | None) -> None:
    directory = f"{home.store.layout.tmp}/disk-{secrets.token_hex(8)}"
    os.mkdir(directory, 0o700)
    try:
        with open(f"{directory}/{HINTS}", "w") as file:
            file.writelines(f"{line}\n" for line in PLAIN)
        record = life.run(home, _tool(base.record.id, directory), None)
        with _watched(f"{directory}/disk", tell):
            code, cause = waiting.wait(home, record, "not-running")
        if code:
            raise _failed(code, cause.text)
        _keep(f"{directory}/disk", path)
    finally:
        remove_tree(directory)


def _keep(made: str, path: str) -> None:
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
    os.rename(made, path)


def _tool(image: str, directory: str) -> MachineSpec:
    return MachineSpec(
        HOST,
        (*MKFS, f"--compress-hints={OUT}/{HINTS}", f"{OUT}/disk", TREE),
        remove=True,
        labels={"cove.disk": image},
        security=Security(cap_drop=("ALL",), cap_add=CAPABILITIES),
        mounts=(
            Mount("image", TREE, image, read_only=True, origin="the image's disk"),
            Mount("bind", OUT, directory, origin="the image's disk"),
        ),
    )


def _failed(code: int, cause: str) -> CoveError:
    if code == 127:
        return HostError(
            "cannot make an image's disk: there is no mkfs.erofs",
            hint="apt-get install erofs-utils",
        )
    why = cause or f"mkfs.erofs ended with {code}"
    return HostError(f"cannot make an image's disk: {why}")
