"""The sockets that the daemon listens on, and who may connect to them."""

from __future__ import annotations

import os
import socket
import stat

from cove.engine.system.info import DOCKER_SOCKET, docker_socket
from cove.errors import UsageError
from cove.store.layout import Layout

BACKLOG = 4096
"""Connections that wait to be taken: where there is no room, one with a timeout is refused at once
(EAGAIN). The kernel's own bound is net.core.somaxconn, mostly as many.
"""
GROUP = "COVE_DOCKER_GROUP"
"""Whose members may speak to it, besides root: its name or number."""


def listen(directory: int, name: str, kind: socket.SocketKind) -> socket.socket:
    """A socket below run/; addressed through the directory, whose path may be longer than an
    address.
    """
    listener = socket.socket(socket.AF_UNIX, kind)
    path = f"/proc/self/fd/{directory}/{name}"
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(BACKLOG)
    return listener


def open_docker(layout: Layout, run_fd: int, handed: int | None) -> tuple[str, socket.socket]:
    """The socket of Docker's API, and its path; ``handed``: it is there already."""
    if handed is not None:
        from cove.daemon.supervised import adopt

        path, listener = adopt(handed)
        # What this process says of itself. No later daemon is told: it would not get the socket.
        os.environ[DOCKER_SOCKET] = path
        return path, listener
    path = docker_socket(layout)
    if path.startswith("tcp:"):
        raise _wrong(path, "whoever reached it would be root here: COVE_DOCKER_TLS serves holders "
                     "of a certificate")  # fmt: skip
    if not path.startswith("/"):
        raise _wrong(path, "it is not an absolute path")
    directory, name = os.path.split(path)
    if directory == layout.run:
        fd = os.dup(run_fd)
    else:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_place(fd, name, path)
        listener = listen(fd, name, socket.SOCK_STREAM)
        group = os.environ.get(GROUP, "")
        if group:
            os.chown(name, -1, _group(group), dir_fd=fd, follow_symlinks=False)
            os.chmod(name, 0o660, dir_fd=fd)
    finally:
        os.close(fd)
    return path, listener


def _check_place(fd: int, name: str, path: str) -> None:
    """Nothing but a socket that nobody listens on is taken away: a dockerd may be there."""
    try:
        found = os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _wrong(path, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(f"/proc/self/fd/{fd}/{name}")
        except BlockingIOError:
            pass
        except OSError:
            return
        raise _wrong(path, "another daemon listens there")


def _group(text: str) -> int:
    import grp

    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise UsageError(
            f'cannot give Docker\'s socket to the group "{text}": there is none of this name',
            origin=f"{GROUP} in the daemon's environment",
        ) from None


def _wrong(path: str, why: str) -> UsageError:
    return UsageError(
        f"cannot serve Docker's API on {path}: {why}",
        origin=f"{DOCKER_SOCKET} in the daemon's environment",
    )
