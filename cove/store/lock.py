"""The state directory's door: made, checked, and locked by one daemon at a time.

The lock is flock(2) on ``lock``: it goes with its last descriptor, so no dead daemon can hold
it. A monitor that brings a daemon back takes the lock first and hands the descriptor down.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from cove.errors import Conflict, CoveError, HostError
from cove.store.layout import FORMAT, Layout

ROOM = "make room: remove machines and images that are not needed, or enlarge the file system"


@contextmanager
def translated(what: str, *, origin: str = "", host: str = "") -> Iterator[None]:
    """An ``OSError`` inside is told as ``cannot <what>``, and one for want of space with ROOM."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HostError(
            f"cannot {what}: {(error.strerror or str(error)).lower()}",
            origin=origin,
            host=host,
            hint=ROOM if full else "",
        ) from error


class StateFull(HostError):
    """No space is left where the state directory is."""


def open_layout(root: str | os.PathLike[str]) -> Layout:
    """The layout of ``root``, made where it is missing; refuses a directory that cannot be
    trusted.
    """
    path = os.path.realpath(os.fspath(root))
    layout = Layout(path)
    try:
        _make(path, 0o711)
        _check_owner(path)
        _check_format(layout)
        for directory, mode in layout.directories():
            _make(directory, mode)
        for file in layout.files():
            _make_file(file)
    except OSError as error:
        raise state_error(path, error) from error
    return layout


def _make_file(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return
    os.fchmod(fd, 0o644)
    os.close(fd)


def take_lock(layout: Layout, fd: int | None = None) -> int:
    """The descriptor that holds the lock; ``fd`` is one that was inherited with the lock on it."""
    try:
        if fd is None:
            fd = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        elif not os.path.samestat(os.fstat(fd), os.stat(layout.lock)):
            raise HostError(
                f"cannot lock {layout.root}: the inherited descriptor {fd} is not its lock",
                hint="another state directory was put in this one's place",
            )
        os.set_inheritable(fd, False)
    except OSError as error:
        raise state_error(layout.root, error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(
            f"cannot lock {layout.root}: {_holder(layout)} has it",
            hint="stop that daemon, or use another state directory: --root DIR",
        ) from None
    return fd


def state_error(root: str, error: OSError) -> CoveError:
    """An operating system error below the state directory, as one for people."""
    what = f"cannot use the state directory {root}"
    if error.errno == errno.EROFS:
        return HostError(f"{what}: read-only file system", hint="choose a writable one: --root DIR")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateFull(f"{what}: no space left on device", hint=ROOM)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "run as root" if os.geteuid() else "choose another one: --root DIR"
        return HostError(f"{what}: permission denied", host=f"uid {os.geteuid()}", hint=hint)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return HostError(f"{what}: not a directory", origin=str(error.filename or root))
    return HostError(f"{what}: {(error.strerror or str(error)).lower()}")


def _make(path: str, mode: int) -> None:
    """A directory with exactly ``mode``; an existing one is kept, a link in its place refused."""
    try:
        os.mkdir(path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        os.mkdir(path)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
        return
    os.chmod(path, mode)  # mkdir's mode is narrowed by the caller's umask


def _check_owner(path: str) -> None:
    found = os.stat(path)
    if found.st_uid != os.geteuid():
        raise HostError(
            f"cannot use the state directory {path}: it belongs to uid {found.st_uid}",
            host=f"uid {os.geteuid()}",
            hint="run cove as its owner, or use another directory: --root DIR",
        )
    if found.st_mode & stat.S_IWOTH:
        raise HostError(
            f"cannot use the state directory {path}: everybody may write to it",
            hint=f"chmod o-w {path}",
        )
    if not os.access(path, os.W_OK):
        # Root may write whatever the mode says: what is left is a read-only mount.
        raise OSError(errno.EROFS if os.geteuid() == 0 else errno.EACCES, "", path)


def _check_format(layout: Layout) -> None:
    try:
        with open(layout.format, encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
    except FileNotFoundError:
        if os.path.exists(layout.database):
            raise HostError(
                f"cannot use the state directory {layout.root}: its format file is missing",
                hint=f"restore {layout.format} with the line {FORMAT}",
            ) from None
        _write_format(layout)
        return
    if not text.isdigit():
        raise HostError(f"cannot use the state directory {layout.root}: {layout.format} is damaged")
    if int(text) > FORMAT:
        raise newer_state(layout, text)


def newer_state(layout: Layout, text: str) -> HostError:
    return HostError(
        f"cannot use the state directory {layout.root}: it was written by a newer cove",
        host=f"format {text}, this cove knows {FORMAT}",
        hint="upgrade cove, or use another directory: --root DIR",
    )


def raise_format(layout: Layout) -> None:
    """Before anything of the newer format is written, and with the lock: from here on an older cove
    refuses the directory.
    """
    try:
        with open(layout.format, encoding="ascii") as file:
            if int(file.read(64)) < FORMAT:
                _write_format(layout)
    except OSError as error:
        raise state_error(layout.root, error) from error


def _write_format(layout: Layout) -> None:
    """Whole or not at all: a daemon killed here must find an empty directory again."""
    new = f"{layout.format}.new"
    with open(new, "w", encoding="ascii") as file:
        file.write(f"{FORMAT}\n")
    os.rename(new, layout.format)


def _holder(layout: Layout) -> str:
    try:
        with open(layout.daemon_pid, encoding="ascii", errors="replace") as file:
            pid = file.read(16).strip()
    except OSError:
        pid = ""
    return f"the daemon with pid {pid}" if pid.isdigit() else "another cove daemon"
