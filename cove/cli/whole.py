"""Files and directories of the caller's that appear when they are whole.

Until then they have no name, or lie beside the one they get, locked by who writes them: a command
runs in the daemon, and is killed with it. What it leaves there is locked by nobody, and goes with
the next that is written to that name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cove.cli.terminal import Terminal
from cove.errors import UsageError
from cove.linux import syscalls

PARTS_MAX = 100
"""Commands that write to one name at once."""
LAYOUT = frozenset(("oci-layout", "index.json", "blobs"))
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY


@contextmanager
def told(name: str) -> Iterator[None]:
    """Inside: what the kernel refuses is said of ``name``."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot write {name}: {reason}", origin=name, exit_code=1) from error


# ---- a file ----


@contextmanager
def written(terminal: Terminal, name: str) -> Iterator[int]:
    """The file ``name``; what is no file is written to as it is."""
    path = terminal.path(name)
    with told(name):
        special = os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode)
        path = path if special else os.path.realpath(path)
        fd, part = (os.open(path, _WRITE), "") if special else _nameless(path)
    try:
        yield fd
        if not special:
            with told(name):
                part = part or _named(fd, path)
                os.rename(part, path)
                part = ""
    finally:
        if part:
            os.unlink(part)
        os.close(fd)


def _nameless(path: str) -> tuple[int, str]:
    """A file without a name in the same directory; where there is none, a part."""
    try:
        fd = os.open(os.path.dirname(path), _WRITE | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        return _begun(path, lambda part: os.open(part, _WRITE | os.O_CREAT | os.O_EXCL, 0o600))
    _lock(fd)
    return fd, ""


def _named(fd: int, path: str) -> str:
    for part in _free_parts(path):
        with suppress(FileExistsError):
            # with a directory, which says nothing here, because only then linkat(2) follows
            os.link(f"/proc/self/fd/{fd}", part, src_dir_fd=fd)
            return part
    raise _crowded(path)


# ---- a directory ----


@contextmanager
def directory(path: str, *, check: Callable[[str], None] | None = None) -> Iterator[str]:
    """A new one, which gets the name ``path`` in the end; inside, where it lies until then. It
    takes the place of an empty one, or in one step that of another for which ``check``, which is
    given its path, raises nothing. Raises OSError.
    """
    (check or _check_empty)(path)
    lock, part = _begun(path, _folder)
    try:
        yield part
        os.chmod(part, 0o755)
        if check is None or not os.path.lexists(path):
            os.rename(part, path)
        else:
            _replace(part, path, check)
    finally:
        _remove(part, lock)
        os.close(lock)


def _check_empty(path: str) -> None:
    with suppress(FileNotFoundError):
        fd = os.open(path, _FOLDER)
        try:
            if os.listdir(fd):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        finally:
            os.close(fd)


def _folder(part: str) -> int:
    os.mkdir(part, 0o700)
    return os.open(part, _FOLDER)


def _replace(part: str, path: str, check: Callable[[str], None]) -> None:
    check(path)
    old = os.open(path, _FOLDER)
    try:
        _lock(old)
        _exchange(part, path)
        try:
            check(part)  # somebody may have changed it meanwhile
        except BaseException:
            _exchange(part, path)
            raise
        _remove(part, old)
    finally:
        os.close(old)


def _exchange(part: str, path: str) -> None:
    try:
        syscalls.exchange(part, path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        aside = next(_free_parts(path))  # a file system that knows no exchange: NFS, 9p
        os.rename(path, aside)
        os.rename(part, path)
        os.rename(aside, part)


def _remove(part: str, fd: int) -> None:
    """If it is still what was opened."""
    if _is(part, fd):
        shutil.rmtree(part, ignore_errors=True)


# ---- what lies beside a name ----


def _begun(path: str, make: Callable[[str], int]) -> tuple[int, str]:
    """A part that is locked, opened."""
    for part in _free_parts(path):
        with suppress(FileExistsError, FileNotFoundError):
            fd = make(part)
            if _lock(fd) and _is(part, fd):
                return fd, part
            os.close(fd)  # somebody took it for one that was left
    raise _crowded(path)


def _free_parts(path: str) -> Iterator[str]:
    os.stat(f"{os.path.dirname(path)}/")
    for number in range(PARTS_MAX):
        part = f"{os.path.dirname(path)}/.{os.path.basename(path)}.cove-{number}"
        if _is_free(part):
            yield part


def _is_free(part: str) -> bool:
    """Whether nothing has the name, now that what was left there is gone."""
    try:
        fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or not _lock(fd) or not _is(part, fd):
            return False
        if stat.S_ISREG(found.st_mode):
            os.unlink(part)
        elif stat.S_ISDIR(found.st_mode) and set(os.listdir(fd)) <= LAYOUT:
            shutil.rmtree(part)
        return not os.path.lexists(part)
    except OSError:
        return False
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _is(part: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(part), os.fstat(fd))
    except FileNotFoundError:
        return False


def _crowded(path: str) -> OSError:
    return OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
