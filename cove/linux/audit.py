"""System calls that seccomp refused, as the kernel tells them to whoever listens: the audit
multicast group. A filter has to ask for it (SECCOMP_FILTER_FLAG_LOG); allowed calls cost nothing.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from typing import NamedTuple

AUDIT = 9
READLOG = 1
GET = 1000
SECCOMP = 1326
BUFFER = 8 << 20
"""A machine in a loop of refused calls sends 200,000 records a second."""

_HEADER = struct.Struct("=IHHII")
_STATUS = struct.Struct("=10I")
_BACKLOG = 7
"""Place in struct audit_status: records that the kernel has yet to send."""
_FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')
BATCH = 4096


class Refusal(NamedTuple):
    """One system call that was refused."""

    uid: int
    """Host uid: it says which machine."""
    pid: int
    syscall: int
    arch: int
    """AUDIT_ARCH of the call: a 32-bit one of a 64-bit program differs."""
    name: str
    """Of the process."""
    program: str


class Audit:
    """The listening socket; ``fileno`` is for epoll. Raises OSError where the kernel has no audit,
    or lets us not listen: then refused calls stay unnamed.
    """

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, flags, AUDIT)
        self.lost = 0
        """How often the buffer ran over."""
        self._kept: list[Refusal] = []
        try:
            try:  # beyond net.core.rmem_max, with CAP_NET_ADMIN
                self._sock.setsockopt(socket.SOL_SOCKET, 33, BUFFER)
            except PermissionError:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            self._sock.bind((0, READLOG))
        except BaseException:
            self._sock.close()
            raise

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def read(self, most: int = BATCH) -> list[Refusal]:
        """Refusals since the last call, up to ``most``: a flood must not hold the reader for
        ever.
        """
        found, self._kept = self._kept, []
        for _ in range(most):
            try:
                data = self._sock.recv(16384)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != 105:  # ENOBUFS: records were lost, later ones follow
                    raise
                self.lost += 1
                continue
            refusal = parse(data)
            if refusal is not None:
                found.append(refusal)
        return found

    def catch_up(self, timeout: float) -> bool:
        """Wait until the kernel has sent every record there is, at most ``timeout`` seconds: its
        own thread sends them, some time after the call was refused (audit_status.backlog).
        """
        poll, deadline = select.poll(), time.monotonic() + timeout
        poll.register(self._sock, select.POLLIN)
        try:
            self._ask()
            while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
                data = self._sock.recv(16384)
                refusal = parse(data)
                if refusal is not None:
                    self._kept.append(refusal)
                elif (backlog := _backlog(data)) is not None:
                    if not backlog:
                        return True
                    self._ask()
        except OSError:  # not ours to ask, or records were lost: what came is what there is
            pass
        return False

    def _ask(self) -> None:
        self._sock.send(_HEADER.pack(_HEADER.size, GET, 1, 0, 0))  # NLM_F_REQUEST


def _backlog(data: bytes) -> int | None:
    """Of the answer to AUDIT_GET."""
    if len(data) < _HEADER.size + _STATUS.size or _HEADER.unpack_from(data)[1] != GET:
        return None
    return int(_STATUS.unpack_from(data, _HEADER.size)[_BACKLOG])


def open_audit() -> Audit | None:
    """None where the kernel has no audit, or lets us not listen."""
    try:
        return Audit()
    except OSError:
        return None


def parse(data: bytes) -> Refusal | None:
    """One netlink message; None for the other things audit tells."""
    if len(data) < _HEADER.size:
        return None
    _, kind, _, _, sender = _HEADER.unpack_from(data)
    if kind != SECCOMP or sender != 0:
        return None
    text = data[_HEADER.size :].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    fields = dict(_FIELD.findall(text))
    try:
        return Refusal(
            int(fields["uid"]),
            int(fields["pid"]),
            int(fields["syscall"]),
            int(fields["arch"], 16),
            _string(fields.get("comm", "")),
            _string(fields.get("exe", "")),
        )
    except (KeyError, ValueError):
        return None


def _string(value: str) -> str:
    """Audit quotes plain strings and writes all others in hexadecimal."""
    if value.startswith('"'):
        return value.strip('"')
    try:
        return bytes.fromhex(value).decode("utf-8", "replace")
    except ValueError:
        return value
