"""Removal of trees that strangers wrote: by descriptor, never through a link, never onto another
file system.

A tree is first renamed into ``tmp``, which takes no time whatever its size. A small one is then
removed here, a large one by rm(1) in a process of its own: thousands of unlinks in the daemon
would hold up machines that are starting.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import stat
import threading

SMALL = 64
"""Entries removed in this process; more are left to rm(1)."""

DEPTH = 24
"""Directories deep; deeper trees are left to rm(1), which does not recurse."""


class Remover:
    """Removes trees in the background; ``close`` waits for what is under way.

    What a killed daemon left in ``tmp`` is removed at its next start.
    """

    def __init__(self, tmp: str) -> None:
        self._tmp = tmp
        self._lock = threading.Lock()
        self._number = 0
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._pending = 0
        self._idle = threading.Condition()
        self._thread: threading.Thread | None = None

    def remove(self, path: str) -> None:
        """``path`` is gone when this returns; its content follows. A missing one is no error."""
        if os.path.basename(path).startswith("u") and remove_empty(path):
            return
        doomed = self._doomed()
        try:
            os.rename(path, doomed)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSPC):
                raise
            # A root on a file system of its own, and any on a full one, cannot go through tmp.
            doomed = path
        self._enqueue(doomed)

    def sweep(self) -> None:
        """Remove everything in ``tmp``: for the daemon's start, before anything else uses it."""
        for name in os.listdir(self._tmp):
            self.remove(f"{self._tmp}/{name}")

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until everything asked for is gone from the disk."""
        with self._idle:
            return self._idle.wait_for(lambda: self._pending == 0, timeout)

    def close(self) -> None:
        self.wait_idle()
        if self._thread is not None:
            self._queue.put("")
            self._thread.join()
            self._thread = None

    def _doomed(self) -> str:
        with self._lock:
            self._number += 1
            return f"{self._tmp}/gone-{os.getpid()}-{self._number}"

    def _enqueue(self, path: str) -> None:
        with self._idle:
            self._pending += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="remover", daemon=True)
                self._thread.start()
        self._queue.put(path)

    def _work(self) -> None:
        while path := self._queue.get():
            with contextlib.suppress(OSError):
                remove_tree(path)
            with self._idle:
                self._pending -= 1
                self._idle.notify_all()


def remove_root(root: str, key: int, *, remover: Remover | None = None) -> None:
    """Remove what machine ``key`` wrote; with a ``remover`` the content goes in the background."""
    path = f"{root}/roots/u{key}"
    if remover is not None:
        remover.remove(path)
    else:
        remove_tree(path)


def remove_empty(path: str) -> bool:
    """Remove a machine's root in which nothing was written: a few rmdirs. False: something was.

    Only for ``u<key>``: its own entries are made by cove, so that none of them is a link.
    """
    try:
        for name in os.listdir(path):
            below = f"{path}/{name}"
            if name[0] == "w":
                # The kernel makes an empty directory of each of these names in a work directory.
                for inner in ("work", "index"):
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        os.rmdir(f"{below}/{inner}")
            os.rmdir(below)
        os.rmdir(path)
    except FileNotFoundError:
        return not os.path.lexists(path)
    except OSError:
        return False
    return True


def remove_tree(path: str) -> None:
    """Remove ``path`` and all below it; a missing one is no error. Raises OSError if some is left.

    Nobody else may be writing to it, which holds for a root whose machine has ended.
    """
    parent, name = os.path.split(path)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            found = os.lstat(name, dir_fd=parent_fd)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=parent_fd)
            return
        if _Small(found.st_dev).remove(parent_fd, name, 0):
            return
    finally:
        os.close(parent_fd)
    _rm(path)


class _Small:
    """The removal of a tree as far as it is small."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._left = SMALL

    def remove(self, parent_fd: int, name: str, depth: int) -> bool:
        """False when the rest is too much, or not ours to remove."""
        if depth > DEPTH:
            return False
        fd = os.open(
            name,
            os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
            dir_fd=parent_fd,
        )
        try:
            if os.fstat(fd).st_dev != self._device:
                raise OSError(errno.EBUSY, "a mount is in the way", name)
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._left -= 1
                    if self._left < 0:
                        return False
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=fd)
                    elif not self.remove(fd, entry.name, depth + 1):
                        return False
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent_fd)
        return True


def _rm(path: str) -> None:
    pid = os.posix_spawnp(
        "rm",
        ("rm", "-rf", "--one-file-system", "--", path),
        {"PATH": os.defpath, "LC_ALL": "C"},
        file_actions=(
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ),
    )
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError(errno.EBUSY, "not everything could be removed", path)
