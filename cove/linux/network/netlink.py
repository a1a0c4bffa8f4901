"""rtnetlink(7), as much of it as networks need: requests, acknowledgements, dumps. It knows the
form of messages; what they say is ``links``'.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Self

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
ERROR = struct.Struct("=i")

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
CREATE, EXCLUSIVE = 0x400, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NESTED = 0x8000
CLONE_NEWNET = 0x40000000


class Request(NamedTuple):
    kind: int
    flags: int
    body: bytes


def attribute(kind: int, data: bytes) -> bytes:
    length = ATTRIBUTE.size + len(data)
    return ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def attributes(data: bytes) -> dict[int, bytes]:
    """By kind; of a kind that comes twice the last one."""
    found, at = {}, 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & 0x3FFF] = data[at + ATTRIBUTE.size : at + length]
        at += length + -length % 4
    return found


class Netlink:
    """A socket to one network namespace: that of the thread which makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def ask(self, *requests: Request) -> None:
        """Carry them out in order, in one system call. Raises the OSError of the first that
        failed, once all of them are answered.
        """
        packed = [self._pack(request, ACK) for request in requests]
        self._socket.send(b"".join(packed))
        waiting, failed = len(requests), 0
        while waiting:
            for kind, _, body in self._receive():
                if kind == NLMSG_ERROR:
                    waiting -= 1
                    failed = failed or -int(ERROR.unpack_from(body)[0])
        if failed:
            raise OSError(failed, os.strerror(failed))

    def get(self, request: Request) -> bytes:
        """The body of the one answer."""
        self._socket.send(self._pack(request, 0))
        for kind, _, body in self._receive():
            if kind != NLMSG_ERROR:
                return body
            error = -int(ERROR.unpack_from(body)[0])
            raise OSError(error, os.strerror(error))
        raise OSError(5, "an empty answer")

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The bodies of all answers."""
        self._socket.send(self._pack(Request(kind, DUMP, body), 0))
        while True:
            for answered, _, data in self._receive():
                if answered == NLMSG_DONE:
                    return
                if answered == NLMSG_ERROR:
                    error = -int(ERROR.unpack_from(data)[0])
                    raise OSError(error, os.strerror(error))
                yield data

    def _pack(self, request: Request, flags: int) -> bytes:
        self._number += 1
        length = HEADER.size + len(request.body)
        flags |= REQUEST | request.flags
        head = HEADER.pack(length, request.kind, flags, self._number, 0)
        return head + request.body + bytes(-length % 4)

    def _receive(self) -> list[tuple[int, int, bytes]]:
        data = self._socket.recv(1 << 17)
        found, at = [], 0
        while at + HEADER.size <= len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, at)
            if length < HEADER.size:
                break
            found.append((kind, flags, data[at + HEADER.size : at + length]))
            at += length + -length % 4
        return found


def open_in(namespace: int) -> Netlink:
    """A socket to another network namespace."""
    with in_namespace(namespace):
        return Netlink()


@contextmanager
def in_namespace(namespace: int) -> Iterator[None]:
    """This thread in another network namespace; only it, and only meanwhile."""
    from cove.linux.syscalls import call

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        call("setns", namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            with suppress(OSError):
                call("setns", home, CLONE_NEWNET)
                os.close(home)
                home = -1
            if home >= 0:
                os._exit(70)  # a thread that stays in a machine's network serves nobody any more
    finally:
        if home >= 0:
            os.close(home)
