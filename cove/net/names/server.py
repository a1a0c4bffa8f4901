"""The name server itself: questions come in by datagram and by connection, wait in one queue for
each machine, and are answered in turn, so that who asks most waits longest.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network

from cove.linux.timers import Timer
from cove.net.names import control, message
from cove.net.names.loop import Loop
from cove.net.names.message import Code, NoQuery, Query
from cove.net.names.seats import given_up
from cove.net.names.table import Machine, Network, Table
from cove.net.names.upstream import Asker, HostServers, Upstream

WAITING, WAITING_OF_ALL = 1024, 16384
"""Questions of one machine that wait; what comes on top is lost, as on a busy line."""
TURN = 64
"""Questions answered before sockets are looked at again."""
IDLE = 10.0
"""Seconds that a connection may say nothing."""
UNSENT = 1 << 18
"""Bytes of answers that somebody does not read."""
MISTAKES = 10
"""Own ones that are written to the daemon's log: who finds one must not fill the disk."""
LINGER = 5.0
"""Seconds in which a server that was replaced ends what is under way."""

Reply = Callable[[bytes], None]


class Server:
    def __init__(self, daemon: socket.socket, listener: socket.socket) -> None:
        self.loop = Loop()
        self.table = Table()
        self._host = HostServers()
        self._upstream = Upstream(self.loop)
        self._doors: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._waiting: OrderedDict[Asker, deque[tuple[bytes, Reply, bool]]] = OrderedDict()
        self._connections: OrderedDict[_Connection, Asker] = OrderedDict()
        """First who said nothing for longest."""
        self._daemon: socket.socket | None = daemon
        self._listener = listener
        self._leaving = False
        self._mistakes = self._queued = 0
        self.loop.watch(daemon.fileno(), lambda events: None)  # every turn hears it
        self.loop.watch(listener.fileno(), lambda events: self._hand_over())

    def run(self) -> None:
        while not self.loop.stopped:
            self.loop.turn(wait=not self._waiting)
            # What came first is heard first: a machine's name is told before it can ask.
            self._hear()
            for _ in range(TURN):
                if not self._answer_one():
                    break
            if self._leaving and not self._busy():
                return

    def _busy(self) -> bool:
        return bool(self._upstream.under_way or self._waiting or self._connections)

    # ---- the daemon ----

    def _hear(self) -> None:
        while self._daemon is not None:
            try:
                said = control.receive(self._daemon, flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                said = None
            if said is None:
                self.loop.forget(self._daemon.fileno())
                self._daemon.close()
                self._daemon = None
                # Without machines there is nobody who would bring the daemon back.
                self.loop.stopped = not self.table.machines
                return
            facts, fds = said
            for kind, what in facts:
                self._learn(kind, what, fds)

    def _learn(self, kind: str, what: object, fds: list[int]) -> None:
        if kind == "machine" and isinstance(what, dict):
            names = {network: tuple(found) for network, found in what["names"].items()}
            self.table.put(
                Machine(
                    what["key"], what["name"], names, what["places"], tuple(what["dns"]),
                    what["places6"], what["links"],
                )
            )  # fmt: skip
        elif kind == "forget" and isinstance(what, int):
            self.table.drop(what)
        elif kind == "network" and isinstance(what, dict):
            self._close_door(what["id"])
            subnet = IPv4Network(what["subnet"])
            self.table.networks[what["id"]] = Network(
                what["id"], what["name"], subnet, what["gateway"], what["internal"],
                what["subnet6"], what["gateway6"],
            )  # fmt: skip
            self._open_door(what["id"], fds)
        elif kind == "close" and isinstance(what, str):
            self._close_door(what)
            self.table.networks.pop(what, None)

    def _open_door(self, network: str, fds: list[int]) -> None:
        datagrams, connections = (socket.socket(fileno=fd) for fd in fds)
        for sock in (datagrams, connections):
            sock.setblocking(False)
        self._doors[network] = (datagrams, connections)
        self.loop.watch(datagrams.fileno(), lambda events: self._read(network, datagrams))
        self.loop.watch(connections.fileno(), lambda events: self._accept(network, connections))

    def _close_door(self, network: str) -> None:
        for sock in self._doors.pop(network, ()):
            self.loop.forget(sock.fileno())
            sock.close()

    def _hand_over(self) -> None:
        """To a daemon that has come: it starts another server on the same sockets, in which
        questions wait meanwhile. What is under way here is ended.
        """
        try:
            successor, _ = self._listener.accept()
            with successor:
                successor.settimeout(LINGER)
                for network, door in self._doors.items():
                    fds = [sock.fileno() for sock in door]
                    control.send(successor, control.pack([["network", {"id": network}]]), fds)
                control.send(successor, control.pack([["end", None]]))
        except OSError:
            return  # it is gone again: this one goes on
        self._leaving = True
        for sock in (self._listener, *(sock for door in self._doors.values() for sock in door)):
            self.loop.forget(sock.fileno())
        self._listener.close()
        self.loop.after(LINGER, self._stop)

    def _stop(self) -> None:
        self.loop.stopped = True

    # ---- questions ----

    def _read(self, network: str, sock: socket.socket) -> None:
        for _ in range(WAITING):
            try:
                data, (address, port) = sock.recvfrom(message.QUERY_MAX + 1)
            except OSError:
                return  # none more; or the kernel tells of somebody who did not wait
            self._queue((network, address), data, partial(_send_to, sock, (address, port)))

    def _queue(self, asker: Asker, data: bytes, reply: Reply, *, stream: bool = False) -> None:
        waiting = self._waiting.get(asker)
        if waiting is None:
            waiting = self._waiting[asker] = deque()
        elif len(waiting) >= WAITING or self._queued >= WAITING_OF_ALL:
            return
        waiting.append((data, reply, stream))
        self._queued += 1

    def _answer_one(self) -> bool:
        """Of the machine whose turn it is."""
        if not self._waiting:
            return False
        asker, waiting = self._waiting.popitem(last=False)
        data, reply, stream = waiting.popleft()
        self._queued -= 1
        if waiting:
            self._waiting[asker] = waiting
        with suppress(NoQuery):
            query = message.read(data)
            try:
                self._answer(asker, query, reply, stream=stream)
            except Exception:  # a mistake that one question finds must not be everybody's end
                self._complain()
                reply(message.failure(query, Code.FAILED))
        return True

    def _complain(self) -> None:
        self._mistakes += 1
        if self._mistakes <= MISTAKES:
            sys.stderr.write(f"cove: bug: in the name server\n{traceback.format_exc()}")

    def _answer(self, asker: Asker, query: Query, reply: Reply, *, stream: bool) -> None:
        network, address = asker
        machine = self.table.asker(network, address)
        if machine is None:  # the host, or one that has just gone
            reply(message.failure(query, Code.REFUSED))
            return
        if query.fault:
            reply(message.failure(query, query.fault))
            return
        known = self._known(machine, network, query)
        if known is not None:
            reply(known if stream else message.fitted(query, known))
            return
        servers = self.table.servers(machine, self._host())

        def done(found: bytes | None) -> None:
            if found is None:
                code = Code.FAILED if servers else Code.NO_SUCH_NAME
                reply(message.failure(query, code))
            else:
                reply(found if stream else message.fitted(query, found))

        self._upstream.ask(query, asker, servers, stream=stream, done=done)

    def _known(self, machine: Machine, network: str, query: Query) -> bytes | None:
        """The answer, if it is not for others to give."""
        name = query.name
        found = self.table.addresses(machine, network, name)
        if found is not None:
            if not found:
                return message.failure(query, Code.NO_SUCH_NAME)
            return message.answer(query, found)
        pointer = self.table.pointed(machine, network, name)
        if pointer is None:
            return None
        if not pointer:
            return message.failure(query, Code.NO_SUCH_NAME)
        return message.answer(query, pointer=pointer)

    # ---- connections ----

    def _accept(self, network: str, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, (address, _) = listener.accept()
                asker = (network, address)
                place = given_up(tuple(self._connections.values()), asker)
                if place is None:
                    sock.close()
                    continue
                if place >= 0:
                    tuple(self._connections)[place].close()
                sock.setblocking(False)
                self._connections[_Connection(self, asker, sock)] = asker

    def took(self, asker: Asker, data: bytes, reply: Reply) -> None:
        self._queue(asker, data, reply, stream=True)

    def said(self, connection: _Connection) -> None:
        self._connections.move_to_end(connection)

    def closed(self, connection: _Connection) -> None:
        self._connections.pop(connection, None)


def _send_to(sock: socket.socket, where: tuple[str, int], data: bytes) -> None:
    with suppress(OSError):
        sock.sendto(data, where)


class _Connection:
    """Questions one after another, each with its length before it."""

    def __init__(self, server: Server, asker: Asker, sock: socket.socket) -> None:
        self._server, self._asker, self._socket = server, asker, sock
        self._in, self._out = bytearray(), bytearray()
        self._open, self._ended = True, False
        self._due = 0
        """Questions without an answer so far."""
        self._timer: Timer | None = None
        self._wait()
        server.loop.watch(sock.fileno(), self._ready)

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._server.loop.after(IDLE, self.close)

    def _ready(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._flush()
            if events & ~select.EPOLLOUT:
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _read(self) -> None:
        data = self._socket.recv(message.QUERY_MAX)
        if not data:
            self._ended = True
            self._flush()
            return
        self._wait()
        self._server.said(self)
        self._in += data
        while len(self._in) >= 2:
            length = int.from_bytes(self._in[:2], "big")
            if length > message.QUERY_MAX:
                self.close()
                return
            if len(self._in) < 2 + length:
                return
            question = bytes(self._in[2 : 2 + length])
            del self._in[: 2 + length]
            self._due += 1
            self._server.took(self._asker, question, self._reply)

    def _reply(self, data: bytes) -> None:
        if not self._open:
            return
        self._due -= 1
        self._out += len(data).to_bytes(2, "big") + data
        try:
            self._flush()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if len(self._out) > UNSENT:
            self.close()

    def _flush(self) -> None:
        reading = 0 if self._ended else select.EPOLLIN
        while self._out:
            self._server.loop.watch(self._socket.fileno(), self._ready, reading | select.EPOLLOUT)
            del self._out[: self._socket.send(self._out)]
        if self._ended and not self._due:
            self.close()
        else:
            self._server.loop.watch(self._socket.fileno(), self._ready, reading)

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._timer is not None:
                self._timer.cancel()
            self._server.loop.forget(self._socket.fileno())
            self._socket.close()
            self._server.closed(self)


def raise_limit() -> None:
    """Of descriptors: every question under way has one, and every network two."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


NOBODY = 65534


def drop_rights() -> None:
    """What it needs of root is done: it holds its sockets."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
