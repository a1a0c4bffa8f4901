"""Sockets that listen on the host, and who has the ones that are in the way."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import NamedTuple

from cove.errors import printable

BACKLOG = 4096
LISTENS = "0A"
"""TCP_LISTEN, in /proc/net/tcp."""
ANYWHERE = ("0.0.0.0", "::")


class Holder(NamedTuple):
    """A process that has a port, as far as it can be found."""

    address: str
    pid: int
    name: str

    def __str__(self) -> str:
        return f"{printable(self.name)} (process {self.pid}) has {self.address}"


def open_listener(ip: str, port: int, protocol: str) -> socket.socket:
    """One that listens; port 0: the kernel chooses. Raises OSError."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    stream = protocol == "tcp"
    sock = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if stream:  # connections of a server before this one are not in the way
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
        if stream:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def find_holder(ip: str, port: int, protocol: str) -> Holder | None:
    """Who keeps ``ip:port`` from being opened."""
    v6 = ":" in ip
    tables = (f"{protocol}6", protocol)
    inodes: dict[int, str] = {}
    for table in tables:
        with contextlib.suppress(OSError), open(f"/proc/net/{table}", encoding="ascii") as file:
            for line in file.readlines()[1:]:
                words = line.split()
                address, _, number = words[1].partition(":")
                if int(number, 16) != port or (protocol == "tcp" and words[3] != LISTENS):
                    continue
                held = _address(address)
                same = held == ip or held in ANYWHERE or ip in ANYWHERE
                if same and (v6 == (":" in held) or held == "::"):
                    inodes[int(words[9])] = f"{f'[{held}]' if ':' in held else held}:{port}"
    return _process(inodes) if inodes else None


def _address(text: str) -> str:
    """Of the kernel's own words, each of which is in the order of the host's bytes."""
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET6 if len(raw) == 16 else socket.AF_INET, raw)


def _process(inodes: dict[int, str]) -> Holder | None:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
                if match and int(match[1]) in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return Holder(inodes[int(match[1])], int(pid), file.read().strip())
    return None
