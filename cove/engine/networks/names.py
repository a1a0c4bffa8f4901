"""The name server's life: started with the first network that is made, told of every machine before
its program runs, started anew when it died, replaced by the next daemon's.

It is a process of its own and outlives the daemon: nobody's names wait for a daemon that is busy,
or gone. The daemon holds the sockets too: questions wait in them while there is no server.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Interface, IPv4Network

from cove.engine.files import hostname_of
from cove.engine.reactor import Reactor
from cove.errors import CoveError, HostError
from cove.linux.pidfd import wait_exit
from cove.net import doors
from cove.net.names import control
from cove.net.names.table import Machine, Network
from cove.net.wires import Wires
from cove.planner.networks.addresses import mac_of
from cove.spec.links import split_link
from cove.spec.machine import connections_of
from cove.store.layout import Layout
from cove.store.records import MachineRecord, NetworkRecord

SOCKET = "names.sock"
COMMAND = ("-P", "-m", "cove.net.names")
PATIENCE = 2.0
"""Seconds in which a server is expected to hand its sockets over, or to end."""
BUFFER = 8 << 20
"""Of what it has been told and not heard yet."""
SO_SNDBUFFORCE = 32
DELAY_FIRST, DELAY_MAX = 0.05, 5.0
LONG = 30.0
"""Seconds: who lived that long did not die of what it was told."""


class Names:
    def __init__(self, layout: Layout, run_fd: int, reactor: Reactor, wires: Wires) -> None:
        self._layout, self._run_fd = layout, run_fd
        self._reactor, self._wires = reactor, wires
        self._lock = threading.RLock()
        self._doors: dict[str, tuple[NetworkRecord, doors.Door]] = {}
        self._found: dict[str, doors.Door] = {}
        """Of a server that an earlier daemon started."""
        self._told: dict[int, bytes] = {}
        self._server: socket.socket | None = None
        self._pid, self._pidfd = 0, -1
        self._begun, self._delay = 0.0, 0.0
        self._closed = False

    # ---- networks ----

    def open(self, network: NetworkRecord) -> None:
        """See to it that the network has a name server, whatever is missing."""
        link = self._wires.door_name(network.key)
        with self._lock:
            held = self._doors.get(network.id)
            if held is not None and doors.door_is_up(link):
                return
            door = self._found.pop(network.id, None)
            if door is not None and not doors.door_is_up(link):
                door.close()
                door = None
            if door is None:
                door = self._make(network, link)
            if held is not None:
                held[1].close()
            self._doors[network.id] = (network, door)
            if self._server is None:
                self._start()
            else:
                self._say(_pack_network(network), door.fds)

    def _make(self, network: NetworkRecord, link: str) -> doors.Door:
        bits = IPv4Network(network.subnet).prefixlen
        own = IPv4Interface(f"{network.resolver}/{bits}")
        try:
            return doors.open_door(
                link, self._wires.bridge_name(network.key), own, mac_of(network.resolver)
            )
        except OSError as error:
            raise HostError(
                f"cannot make network {network.name}: its name server has no place: "
                f"{(error.strerror or str(error)).lower()}"
            ) from error

    def close(self, network: NetworkRecord) -> None:
        """Its link first: the namespace may take its time."""
        with self._lock:
            self._wires.drop_link(self._wires.door_name(network.key))
            _, door = self._doors.pop(network.id, (None, None))
            if door is None:
                return
            door.close()
            if self._doors:
                self._say(_pack("close", network.id))
            else:
                self._end()

    # ---- machines ----

    def tell(self, record: MachineRecord) -> None:
        """What a machine is called and where it is, from now on."""
        with self._lock:
            fact = self._told[record.key] = _pack(*control.machine_fact(machine_of(record)))
            self._say(fact)

    def forget(self, key: int) -> None:
        with self._lock:
            if self._told.pop(key, None) is not None:
                self._say(_pack("forget", key))

    # ---- the process ----

    def _start(self) -> None:
        """And tell it everything."""
        if self._closed or self._server is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
        with theirs, _listener(self._run_fd) as listener:
            try:
                self._pid = _spawn(self._layout.root, theirs.fileno(), listener.fileno())
            except OSError as error:
                ours.close()
                raise HostError(
                    f"cannot start the name server: {(error.strerror or str(error)).lower()}",
                    host=sys.executable,
                ) from error
        self._pidfd = os.pidfd_open(self._pid)
        self._server, self._begun = ours, time.monotonic()
        # Before it has the sockets, in which questions of these machines may wait already.
        for batch in control.batches(self._told.values()):
            self._say(batch, whole=True)
        for network, door in self._doors.values():
            self._say(_pack_network(network), door.fds)
        self._reactor.watch(self._pidfd, self, lambda events: self._died())

    def _say(self, fact: bytes, fds: Iterable[int] = (), *, whole: bool = False) -> None:
        if self._server is None:
            return
        try:
            data = fact if whole else b"[" + fact + b"]"
            control.send(self._server, data, tuple(fds), flags=socket.MSG_DONTWAIT)
        except BlockingIOError:  # it does not listen any more: the next one is told everything
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            pass  # it has died, which will be heard of

    def _died(self) -> None:
        with self._lock:
            if self._pidfd < 0:
                return
            lived = time.monotonic() - self._begun
            self._reap()
            self._delay = 0.0 if lived > LONG else min(self._delay * 2 or DELAY_FIRST, DELAY_MAX)
            if self._doors and not self._closed:
                self._reactor.after(self._delay if lived < LONG else 0.0, self._again)

    def _again(self) -> None:
        with self._lock:
            if self._doors:
                try:
                    self._start()
                except CoveError as error:
                    sys.stderr.write(error.render())
                    self._reactor.after(DELAY_MAX, self._again)

    def _end(self) -> None:
        """Nobody needs it any more."""
        if self._server is None:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._reap()
        with suppress(FileNotFoundError):
            os.unlink(f"/proc/self/fd/{self._run_fd}/{SOCKET}")

    def _reap(self) -> None:
        self._reactor.forget(self._pidfd, self)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self._pidfd)
        self._pid, self._pidfd = 0, -1
        if self._server is not None:
            self._server.close()
            self._server = None

    def shut(self) -> None:
        """The daemon goes. The server stays while machines may ask it."""
        with self._lock:
            self._closed = True
            if not self._told:
                self._end()
            elif self._server is not None:
                self._reactor.forget(self._pidfd, self)
                os.close(self._pidfd)
                self._server.close()
                self._pidfd, self._server = -1, None
            for door in (*(door for _, door in self._doors.values()), *self._found.values()):
                door.close()
            self._doors, self._found = {}, {}

    # ---- after a crash ----

    def adopt(self) -> None:
        """The sockets of the server that an earlier daemon left, and its end."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server:
            try:
                server.connect(f"/proc/self/fd/{self._run_fd}/{SOCKET}")
            except OSError:
                return
            if not self._take_over(server):
                _kill(self._layout.root)

    def _take_over(self, server: socket.socket) -> bool:
        """Whether it answered to the end."""
        server.settimeout(PATIENCE)
        try:
            while (said := control.receive(server)) is not None:
                facts, fds = said
                if facts[0][0] == "end":
                    return True
                found = doors.Door(*(socket.socket(fileno=fd) for fd in fds))
                self._found[facts[0][1]["id"]] = found
        except OSError:
            pass
        return False

    def settle(self) -> None:
        """What nobody took over is nobody's."""
        with self._lock:
            for door in self._found.values():
                door.close()
            self._found = {}


def machine_of(record: MachineRecord) -> Machine:
    """As the name server knows it. Its short id and its host name are names too, as with Docker."""
    own = {record.name, record.id[:12], hostname_of(record.spec, record.id)}
    return Machine(
        record.key,
        record.name,
        {
            e.network: tuple(sorted({name.lower() for name in own.union(e.aliases)}))
            for e in record.endpoints
        },
        {e.network: e.address.partition("/")[0] for e in record.endpoints},
        record.spec.dns,
        {e.network: e.address6.partition("/")[0] for e in record.endpoints if e.address6},
        _links(record),
    )


def _links(record: MachineRecord) -> dict[str, dict[str, str]]:
    """Of every network: its own links, and before them those of the machine."""
    wished = {wish.network: wish.links for wish in connections_of(record.spec)}
    found: dict[str, dict[str, str]] = {}
    for e in record.endpoints:
        pairs = map(
            split_link, (*(wished.get(e.name) or wished.get(e.network) or ()), *record.spec.links)
        )
        if links := {alias.lower(): name.lower() for name, alias in pairs}:
            found[e.network] = links
    return found


def _pack(kind: str, what: object) -> bytes:
    return json.dumps([kind, what]).encode()


def _pack_network(network: NetworkRecord) -> bytes:
    fact = control.network_fact(
        Network(
            network.id,
            network.name,
            IPv4Network(network.subnet),
            network.gateway,
            network.internal,
            network.subnet6,
            network.gateway6,
        )
    )
    return _pack(*fact)


def _kill(root: str) -> None:
    """A server that hangs: who it is, only its command line tells."""
    words = b"\0".join(os.fsencode(word) for word in (*COMMAND, root))
    for name in os.listdir("/proc"):
        try:
            pidfd = os.pidfd_open(int(name)) if name.isdigit() else -1
        except OSError:
            continue
        if pidfd < 0:
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if file.read(8192).rstrip(b"\0").endswith(b"\0" + words):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    wait_exit(pidfd, PATIENCE)
        except OSError:
            pass  # it has ended
        finally:
            os.close(pidfd)


def _listener(directory: int) -> socket.socket:
    """Where the next daemon comes."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = f"/proc/self/fd/{directory}/{SOCKET}"
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _spawn(root: str, daemon: int, listener: int) -> int:
    # Above 4, or the dup2 onto 3 in the child would close what is next.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (daemon, listener)]
    try:
        return os.posix_spawn(
            sys.executable,
            (sys.executable, *COMMAND, root),
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                *((os.POSIX_SPAWN_DUP2, fd, 3 + number) for number, fd in enumerate(high)),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        for fd in high:
            os.close(fd)
