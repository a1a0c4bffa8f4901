"""Servers in machines and clients around the host, for the tests of published ports."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.driver import Cove, wait_until
from tests.networks.conftest import with_python

SERVER = """
import hashlib, signal, socket, threading
def talk(port, act):
    def one(link, peer):
        with link:
            act(link, peer)
    server = socket.create_server(("", port), backlog=200)
    def loop():
        while True:
            threading.Thread(target=one, args=server.accept(), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
def echo(link, peer):
    while data := link.recv(1 << 16):
        link.sendall(data)
def who(link, peer):
    while link.recv(1 << 16):
        pass
    link.sendall(peer[0].encode())
def digest(link, peer):
    seen = hashlib.sha256()
    while data := link.recv(1 << 20):
        seen.update(data)
    link.sendall(seen.hexdigest().encode())
def give(link, peer):
    count = int(link.recv(20))
    for _ in range(count):
        link.sendall(bytes(1 << 20))
talk(7000, echo), talk(7001, who), talk(7002, digest), talk(7003, give)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("", 7000))
while True:
    data, peer = datagrams.recvfrom(1 << 16)
    datagrams.sendto(data, peer)
"""
"""Of an image that has the host's python3: echo on 7000, tcp and udp; 7001 says who asks;
7002 gives the digest of all it gets before its end; 7003 gives as many MiB as it is told.
"""


@contextlib.contextmanager
def server(cove: Cove, name: str, *flags: str) -> Iterator[None]:
    """A machine that serves on all of those; it is up when it answers on 127.0.0.1."""
    words = ("-d", "--name", name, *flags, with_python(cove), "/usr/bin/python3", "-c", SERVER)
    cove("run", *words)
    try:
        yield
    finally:
        cove("rm", "-f", name)


def say(address: str, port: int, data: bytes = b"hello") -> bytes:
    """What comes back, until the other side says no more."""
    with connect(address, port) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        return to_end(link)


def connect(address: str, port: int) -> socket.socket:
    link = socket.create_connection((address, port), timeout=120)
    link.settimeout(120)
    return link


def to_end(link: socket.socket) -> bytes:
    said = []
    while piece := link.recv(1 << 20):
        said.append(piece)
    return b"".join(said)


def answers(address: str, port: int) -> bool:
    """Whether there is an echo. Until a server listens, who comes is let in and cut off."""
    try:
        return say(address, port) == b"hello"
    except OSError:
        return False


def ask(address: str, port: int, data: bytes = b"datagram") -> bytes:
    """A datagram, and what comes back; it may be lost, and is said again."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))  # answers of nobody else are heard
        sock.settimeout(0.5)
        found: list[bytes] = []

        def heard() -> bool:
            with contextlib.suppress(OSError):
                sock.send(data)
                found.append(sock.recv(1 << 16))
            return bool(found)

        wait_until(heard, "an answer")
        return found[0]


def free(address: str, port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
            sock.listen()
        except OSError:
            return False
        return True


ECHO = ("nc", "-ll", "-p", "80", "-e", "cat")
"""A server of image bb."""


@contextlib.contextmanager
def running(cove: Cove, name: str, *flags: str) -> Iterator[None]:
    """A machine for a while, with an echo on port 80."""
    cove("run", "-d", "--name", name, *flags, "bb", *ECHO)
    try:
        yield
    finally:
        cove("rm", "-f", name)


def relay_of(cove: Cove, pid: int) -> int:
    """The process that listens for the machine of this process."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == "cove-relay\n" and watches(path.parent, pid):
                return int(path.parent.name)
    return 0


def watches(process: Path, pid: int) -> bool:
    for info in (process / "fdinfo").iterdir():
        with contextlib.suppress(OSError):
            if f"\nPid:\t{pid}\n" in info.read_text():
                return True
    return False


def ports(cove: Cove, name: str) -> list[str]:
    return cove("port", name).out.splitlines()
