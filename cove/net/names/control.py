"""What the daemon and the name server say to each other: lists of facts as JSON, whole messages,
with a network's two sockets beside it.

    ["network", {...}] with its sockets   ["close", id]   ["machine", {...}]   ["forget", key]

When a next daemon connects, the server hands it the sockets (``["network", {"id": …}]`` each, then
``["end"]``) and goes: who starts, starts a server of its own build.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from cove.net.names.table import Machine, Network

MESSAGE_MAX = 1 << 17
SOCKETS = 2
"""Of a network: datagrams, and the one that connections come from."""

INT = array("i").itemsize

Fact = list[Any]


def pack(facts: Iterable[Fact]) -> bytes:
    return json.dumps(list(facts)).encode()


def machine_fact(machine: Machine) -> Fact:
    fields = {"key": machine.key, "name": machine.name, "names": machine.names,
              "places": machine.places, "dns": machine.dns, "places6": machine.places6,
              "links": machine.links}  # fmt: skip
    return ["machine", fields]


def network_fact(network: Network) -> Fact:
    fields = {"id": network.id, "name": network.name, "subnet": str(network.subnet),
              "gateway": network.gateway, "internal": network.internal,
              "subnet6": network.subnet6, "gateway6": network.gateway6}  # fmt: skip
    return ["network", fields]


def batches(facts: Iterable[bytes]) -> Iterable[bytes]:
    """Facts that are packed one by one already, as few messages."""
    held: list[bytes] = []
    size = 0
    for fact in facts:
        if held and size + len(fact) > MESSAGE_MAX // 2:
            yield b"[" + b",".join(held) + b"]"
            held, size = [], 0
        held.append(fact)
        size += len(fact) + 1
    if held:
        yield b"[" + b",".join(held) + b"]"


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = (), *, flags: int = 0) -> None:
    # socket.send_fds and recv_fds of Python 3.11 pass their flags to nobody
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([data], beside, flags)


def receive(sock: socket.socket, *, flags: int = 0) -> tuple[list[Fact], list[int]] | None:
    """None: the other side is gone."""
    room = socket.CMSG_LEN(SOCKETS * INT)
    data, beside, _, _ = sock.recvmsg(MESSAGE_MAX, room, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, given in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(given[: len(given) - len(given) % INT])
    if not data:
        return None
    facts: list[Fact] = json.loads(data)
    return facts, fds.tolist()
