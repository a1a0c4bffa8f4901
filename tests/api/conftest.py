"""Docker's API served by a real daemon: docker-py, the docker command where there is one, and plain
bytes for what no client would send.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest

from tests.driver import Cove
from tests.kernel.conftest import cove, fresh_cove
from tests.wire import Reply, connected, read_all, read_reply, request

__all__ = ["Reply", "cove", "fresh_cove", "read_reply"]


def docker_host(cove: Cove) -> str:
    return cove("system", "docker-socket").out.strip()


@pytest.fixture(autouse=True)
def removed(cove: Cove) -> Iterator[None]:
    """What a test made goes with it, also where it fails: the daemon serves the next one."""
    yield
    if left := cove("ps", "-aq").out.split():
        cove("rm", "-f", *left, code=None)


@pytest.fixture
def client(cove: Cove) -> Iterator[docker.DockerClient]:
    made = docker.DockerClient(base_url=docker_host(cove), timeout=120)
    try:
        yield made
    finally:
        made.close()


@dataclass
class Command:
    """Docker's own."""

    host: str

    def __call__(
        self,
        *words: str,
        stdin: bytes = b"",
        code: int | None = 0,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        ran = subprocess.run(
            ["docker", *words],
            env=env or self.env,
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        if code is not None:
            assert ran.returncode == code, (words, ran.returncode, ran.stdout, ran.stderr)
        return ran

    @property
    def env(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("COVE_", "DOCKER_"))}
        return keep | {"DOCKER_HOST": self.host, "DOCKER_CONFIG": "/nonexistent"}


@pytest.fixture
def command(cove: Cove) -> Command:
    if shutil.which("docker") is None:
        pytest.skip("needs the docker command")
    return Command(docker_host(cove))


@dataclass
class Raw:
    """HTTP by hand, a connection each."""

    path: str

    def open(self) -> socket.socket:
        return connected(self.path)

    def send(self, data: bytes) -> Reply:
        with self.open() as sock:
            sock.sendall(data)
            return read_reply(sock)

    def __call__(self, method: str, path: str, body: Any = None) -> Reply:
        return self.send(request(method, path, body))

    def upgrade(self, path: str, body: Any = None) -> Upgraded:
        """A connection that becomes a stream."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        sock = self.open()
        sock.sendall(head.encode())
        sock.sendall(data)  # may come apart, as Go's client has it
        found = b""
        while b"\r\n\r\n" not in found:
            piece = sock.recv(1)
            assert piece, found
            found += piece
        if b" 101 " not in found.splitlines()[0]:
            with sock:
                raise AssertionError((found + read_all(sock)).decode())
        return Upgraded(sock, found.decode())


@dataclass
class Upgraded:
    sock: socket.socket
    head: str

    def __enter__(self) -> Upgraded:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def end(self) -> None:
        """Nothing more is sent; the rest is still heard."""
        self.sock.shutdown(socket.SHUT_WR)

    def rest(self) -> bytes:
        return read_all(self.sock)

    def frames(self) -> list[tuple[int, bytes]]:
        """Of Docker's; neighbours of one stream as one."""
        data, found = self.rest(), list[tuple[int, bytes]]()
        while data:
            stream, length = struct.unpack_from(">BxxxL", data)
            piece, data = data[8 : 8 + length], data[8 + length :]
            if found and found[-1][0] == stream:
                piece = found.pop()[1] + piece
            found.append((stream, piece))
        return found


@pytest.fixture
def raw(cove: Cove) -> Raw:
    return Raw(docker_host(cove).removeprefix("unix://"))
