"""A daemon that systemd starts: the socket that it listens on already (sd_listen_fds(3)), the word
that it is ready (sd_notify(3)), and the place of a daemon that somebody else started meanwhile.

Plain sockets and variables: nothing of systemd's is needed to run.
"""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass

from cove.errors import UsageError

FIRST = 3


@dataclass(frozen=True, slots=True)
class Supervisor:
    """What the environment says of it."""

    notify: str = ""
    docker_fd: int | None = None

    @property
    def there(self) -> bool:
        return bool(self.notify) or self.docker_fd is not None

    def say(self, text: str) -> None:
        if not self.notify:
            return
        name = "\0" + self.notify[1:] if self.notify.startswith("@") else self.notify
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto(text.encode("ascii"), name)
            except OSError:
                pass  # it has left: what it would know is seen by whoever looks


def supervisor_of(environment: dict[str, str], pid: int) -> Supervisor:
    """Of this process: the variables are inherited by children that they do not mean."""
    fd = None
    if environment.get("LISTEN_PID") == str(pid):
        count = environment.get("LISTEN_FDS", "")
        if count != "1":
            raise UsageError(
                f'cannot listen on "{count}" sockets: it is one, of Docker\'s API',
                origin="LISTEN_FDS in the daemon's environment",
            )
        fd = FIRST
    return Supervisor(environment.get("NOTIFY_SOCKET", ""), fd)


def adopt(fd: int) -> tuple[str, socket.socket]:
    """The socket that was handed over, and its path. Who may connect is for its maker to say."""
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        raise _wrong("it is no socket")
    found = socket.socket(fileno=fd)
    found.set_inheritable(False)
    name = found.getsockname() if found.family == socket.AF_UNIX else ""
    listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.type != socket.SOCK_STREAM or not isinstance(name, str) or not name.startswith("/"):
        raise _wrong("Docker's API is served on a stream socket with a path, and on TCP only by "
                     "COVE_DOCKER_TLS")  # fmt: skip
    if not listens:
        raise _wrong("nobody listens on it")
    return name, found


def _wrong(why: str) -> UsageError:
    return UsageError(f"cannot use the socket that was handed over: {why}",
                      origin="LISTEN_FDS in the daemon's environment")  # fmt: skip
