"""HTTP by hand on a unix socket: a connection for each request, and no client that mends it."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

PATIENCE = 120


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


def connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)  # waits where many come at once
    sock.settimeout(PATIENCE)
    return sock


def request(method: str, path: str, body: Any = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode("utf-8", "surrogateescape") + data


def ask(path: str, method: str, target: str, body: Any = None) -> Reply:
    with connected(path) as sock:
        sock.sendall(request(method, target, body))
        return read_reply(sock)


def read_all(sock: socket.socket) -> bytes:
    found = bytearray()
    while piece := sock.recv(1 << 16):
        found += piece
    return bytes(found)


def read_reply(sock: socket.socket) -> Reply:
    head, _, body = read_all(sock).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = unchunked(body)
    return Reply(int(first.split()[1]), headers, body)


def unchunked(data: bytes) -> bytes:
    found = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            return found
        found, data = found + data[:length], data[length + 2 :]


def read_head(sock: socket.socket) -> tuple[int, bytes]:
    """The status of an answer, and its body if it is an error: what goes on is not waited for."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(1 << 16)
        assert piece, data
        data += piece
    status = int(data.split(b" ", 2)[1])
    if status >= 400:
        data += read_all(sock)
    return status, data.partition(b"\r\n\r\n")[2]
