"""``network capture``: packets of a bridge or of the host's ends of a machine's links, written by a
process of its own (``net/capture.py``) into what the caller opened.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from cove.engine.calls import Call
from cove.engine.calls.capture import Captured, NetworkCapture
from cove.engine.home import Home
from cove.engine.machines.stopping import running
from cove.engine.networks import finding
from cove.errors import Conflict, CoveError, HostError, NotFound, UsageError
from cove.net.capture import DAEMON, FIRST, LONGEST, PACKET_AUXDATA, SO_TIMESTAMPNS, SOL_PACKET
from cove.spec.network import OF_MACHINE, machine_of
from cove.store.records import MachineRecord, NetworkRecord

COMMAND = ("-P", "-m", "cove.net.capture")
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
ROOM = 16 << 20
"""Bytes that wait for the writer, of each link."""
PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 1, 1
LOOK = 100
"""Milliseconds between two looks whether the caller has enough."""


def capture(home: Home, params: NetworkCapture, call: Call) -> Captured:
    if params.count < 0 or not 1 <= params.snaplen <= LONGEST:
        raise UsageError(
            f"cannot capture so: packets are counted from 1, and of each 1 to {LONGEST} bytes kept"
        )
    name, links = _links(home, params.target)
    if params.only_look:
        return Captured(name, links)
    with ExitStack() as stack:
        sockets = [stack.enter_context(_open(name, link)) for link in links]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(ours)
        with theirs:
            pid = _spawn(params, call.sink, [theirs, *sockets])
        try:
            said = _wait(ours, call.cancelled)
        finally:
            ours.close()
            os.waitpid(pid, 0)
    if not said:
        raise HostError(f"cannot capture {name}: the process that writes was killed")
    if said["error"]:
        raise HostError(f"cannot write what is captured: {os.strerror(said['error']).lower()}")
    return Captured(name, links, said["packets"], said["drops"], said["ended"])


# ---- what is meant ----


def _links(home: Home, text: str) -> tuple[str, tuple[str, ...]]:
    network, machine = _network(home, text), _machine(home, text)
    if network is not None and machine is not None:
        raise Conflict(
            f"cannot capture {text}: a network and a machine have this name",
            hint=f"use an id: {network.id[:12]} or {machine.id[:12]}",
        )
    if network is not None:
        link = home.places.wires.bridge_name(network.key)
        if link not in home.places.wires.present():
            raise Conflict(f"cannot capture {network.name}: no machine has been on it yet")
        return network.name, (link,)
    if machine is not None:
        return machine.name, _of_machine(home, machine)
    if text in (builtin.record.name for builtin in finding.BUILTIN):
        raise UsageError(f"cannot capture {text}: it is no network of cove's", exit_code=1)
    raise NotFound(f"cannot capture {text}: no such network or machine", exit_code=1)


def _network(home: Home, text: str) -> NetworkRecord | None:
    try:
        return home.store.find_network(text)
    except NotFound:
        return None


def _machine(home: Home, text: str) -> MachineRecord | None:
    try:
        return home.store.find_machine(text)
    except NotFound:
        return None


def _of_machine(home: Home, record: MachineRecord) -> tuple[str, ...]:
    name = record.name
    if running(home, record) is None:
        raise Conflict(f"cannot capture {name}: it does not run", hint=f"cove start {name}")
    if other := machine_of(record.spec.network):
        raise Conflict(
            f"cannot capture {name}: it shares the network of another machine",
            hint=f"cove network capture {other[:12]}",
            origin=f"--network {OF_MACHINE}{other[:12]}",
        )
    if record.spec.network == "host":
        raise Conflict(f"cannot capture {name}: it is on the host's own network")
    if not record.endpoints:
        raise Conflict(f"cannot capture {name}: it is on no network",
                       hint=f"cove network connect bridge {name}")  # fmt: skip
    return tuple(endpoint.link for endpoint in record.endpoints)


# ---- the process ----


def _open(name: str, link: str) -> socket.socket:
    """It sees everything from here on: what is set is set before it is bound."""
    try:
        number = socket.if_nametoindex(link)
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        raise _refused(name, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        everything = struct.pack("=iHH8x", number, PACKET_MR_PROMISC, 0)
        sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
        sock.bind((link, ETH_P_ALL))
    except OSError as error:
        sock.close()
        raise _refused(name, error) from error
    return sock


def _refused(name: str, error: OSError) -> CoveError:
    return HostError(f"cannot capture {name}: {(error.strerror or str(error)).lower()}")


def _spawn(params: NetworkCapture, sink: int, passed: Sequence[socket.socket]) -> int:
    # Above what is passed, or a dup2 in the child would close what is next.
    above = FIRST + len(passed) + 8
    high = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, above) for sock in passed]
    out = fcntl.fcntl(sink, fcntl.F_DUPFD_CLOEXEC, above)
    words = (str(params.count), str(params.snaplen), str(len(passed) - 1))
    try:
        return os.posix_spawn(
            sys.executable,
            (sys.executable, *COMMAND, *words),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, out, 1),
                *((os.POSIX_SPAWN_DUP2, fd, DAEMON + number) for number, fd in enumerate(high)),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        raise HostError(
            f"cannot start the process that writes: {(error.strerror or str(error)).lower()}",
            host=sys.executable,
        ) from error
    finally:
        for fd in (*high, out):
            os.close(fd)


def _wait(ours: socket.socket, cancelled: threading.Event | None) -> dict[str, Any]:
    """Its last words; empty: it was killed."""
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    while not poll.poll(LOOK):
        if cancelled is not None and cancelled.is_set():
            ours.shutdown(socket.SHUT_WR)
            break
    data = ours.recv(4096)
    return json.loads(data) if data else {}
