"""Published ports: opened before a start, by this daemon, whose error it is when one is taken; then
carried by a process of the machine's own (``executor/relay.py``) that listens on the host like any
server, so that the host's firewall decides about it like about any server.

A machine's record names its open ports from before the start until they are free again. Whatever is
lost meanwhile, a daemon, a relay or both, ``serve`` makes true again what the record says.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.networks import places
from cove.engine.ranges import RELAY_ID
from cove.errors import Conflict, CoveError, HostError, PortTaken, UsageError
from cove.executor import relay as relays
from cove.executor.relay import Carried, Relay
from cove.linux.network.listeners import find_holder, open_listener
from cove.spec.ports import Publish, parse_addresses, shown_address, wanted
from cove.store.records import Endpoint, MachineRecord, Published

TRIES = 16
"""For a free port that several addresses have."""
AGAIN = (0.05, 5.0)
"""Seconds until a relay that was lost is replaced: the first time, and at most."""
MOST = 4096
"""Ports of one machine."""
SETTING = "COVE_PUBLISH_ADDRESS"


# ---- opening ----


def open_all(
    home: Home, record: MachineRecord, endpoints: Sequence[Endpoint], live: Live
) -> tuple[Published, ...]:
    """Of a machine that is about to start; they listen from now on. The caller writes them down."""
    spec = record.spec
    asked = wanted(spec.ports, record.exposed, everything=spec.publish_all)
    if not asked or spec.network == "host":
        return ()
    return open_some(home, record, endpoints, live, asked)


def open_some(
    home: Home,
    record: MachineRecord,
    endpoints: Sequence[Endpoint],
    live: Live,
    asked: Sequence[Publish],
) -> tuple[Published, ...]:
    name = record.name
    if way_in(endpoints) is None:
        raise Conflict(
            f"cannot publish ports of {name}: it is on no network that leads out",
            origin=f"-p {asked[0]}",
            hint="cove network create, and --network; an --internal one has no way in either",
            exit_code=125,
        )
    if len(record.published) + len(asked) > MOST:
        raise UsageError(f"cannot publish ports of {name}: more than {MOST}", exit_code=125)
    defaults = default_addresses()
    first = max((port.id for port in record.published), default=0) + 1
    with ExitStack() as undo:
        opened: list[tuple[Published, socket.socket]] = []
        for publish in asked:
            for ip, sock in _open(home, record, publish, defaults):
                undo.callback(sock.close)
                port = Published(first + len(opened), ip, _number(sock), publish.port,
                                 publish.protocol)  # fmt: skip
                opened.append((port, sock))
        undo.pop_all()
    live.served.sockets.update((port.id, sock) for port, sock in opened)
    return tuple(port for port, _ in opened)


def holders(home: Home) -> set[int]:
    """Keys of the machines that have ports of the host."""
    return {record.key for record in home.store.machines() if record.published}


def default_addresses() -> tuple[str, ...]:
    try:
        return parse_addresses(os.environ.get(SETTING, ""))
    except UsageError as error:
        error.origin = f"{SETTING} in the daemon's environment"
        raise


def _open(
    home: Home, record: MachineRecord, publish: Publish, defaults: tuple[str, ...]
) -> list[tuple[str, socket.socket]]:
    """On each of its addresses, with one number for all."""
    addresses = (publish.ip,) if publish.ip else defaults
    hosts = range(publish.first, publish.last + 1) if publish.first else (0,) * TRIES
    for i, host in enumerate(hosts):
        with ExitStack() as undo:
            opened: list[tuple[str, socket.socket]] = []
            try:
                for ip in addresses:
                    number = host or (_number(opened[0][1]) if opened else 0)
                    sock = open_listener(ip, number, publish.protocol)
                    undo.callback(sock.close)
                    opened.append((ip, sock))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or i == len(hosts) - 1:
                    raise _refused(home, record, publish, ip, number, error) from error
                continue
            undo.pop_all()
            return opened
    raise HostError(f"cannot publish {publish} of {record.name}: no port is free", exit_code=125)


def _number(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def _refused(
    home: Home, record: MachineRecord, publish: Publish, ip: str, host: int, error: OSError
) -> CoveError:
    what = f"cannot publish {shown_address(ip)}:{host} of {record.name}"
    typed = f"-p {publish}"
    if error.errno != errno.EADDRINUSE:
        reason = (error.strerror or str(error)).lower()
        if error.errno == errno.EADDRNOTAVAIL:
            reason = "the host has no such address"
        return HostError(f"{what}: {reason}", origin=typed)
    if publish.last > publish.first:
        what = f"cannot publish {publish} of {record.name}"
        reason = f"all ports of {publish.first}-{publish.last} are in use"
    else:
        reason = "the port is in use"
    udp = "" if publish.protocol == "tcp" else f"/{publish.protocol}"
    return PortTaken(
        f"{what}: {reason}",
        origin=typed,
        host=_whose(home, record, ip, host, publish.protocol),
        hint=f"let the host choose one: -p {publish.port}{udp}",
        exit_code=125,
    )


def _whose(home: Home, record: MachineRecord, ip: str, host: int, protocol: str) -> str:
    """Who has a port: a machine of ours, or a process."""
    for other in home.store.machines():
        for port in other.published if other.key != record.key else ():
            any_of_them = ("0.0.0.0", "::")
            same = port.ip == ip or port.ip in any_of_them or ip in any_of_them
            if (port.host, port.protocol) == (host, protocol) and same:
                return f"machine {other.name} publishes {shown_address(port.ip)}:{port.host}"
    holder = find_holder(ip, host, protocol)
    return str(holder) if holder is not None else ""


# ---- serving ----


def way_in(endpoints: Iterable[Endpoint]) -> Endpoint | None:
    """Where connections go: the network that answers find back by."""
    return next((endpoint for endpoint in endpoints if endpoint.default), None)


def serve(home: Home, live: Live) -> None:
    """Make true what the record of a machine that runs says of its ports."""
    served = live.served
    with served.lock:
        if served.over or live.pidfd < 0 or not home.store.has_machine(live.key):
            return
        record = home.record(live.key)
        if not record.published and served.relay is None:
            return
        try:
            _serve(home, live, record)
        except (OSError, CoveError) as error:
            _lose(home, live)
            said = error.message if isinstance(error, CoveError) else str(error)
            sys.stderr.write(f"cove: ports of {record.name}: {said}\n")
            _later(home, live)


def _serve(home: Home, live: Live, record: MachineRecord) -> None:
    served = live.served
    relay = served.relay = served.relay or _find(home, live)
    home.reactor.watch(relay.sock.fileno(), relay, partial(_lost, home, live), select.EPOLLHUP)
    have, want = relay.served().ids, {port.id: port for port in record.published}
    way = way_in(record.endpoints)
    address = way.address.partition("/")[0] if way is not None else ""
    relay.aim(socket.inet_aton(address) if address else b"")
    if gone := sorted(have - want.keys()):
        relay.drop(gone)
    missing = [want[id] for id in sorted(want.keys() - have)]
    for port in missing:
        if port.id not in served.sockets:
            try:
                served.sockets[port.id] = open_listener(port.ip, port.host, port.protocol)
            except OSError as error:
                asked = Publish(port.port, port.protocol, port.ip, port.host, port.host)
                raise _refused(home, record, asked, port.ip, port.host, error) from error
    relay.add([
        Carried(port.id, port.port, port.protocol == "udp", served.sockets[port.id].fileno())
        for port in missing
    ])  # fmt: skip
    served.close_sockets()
    with home.places.rules:
        if not home.places.wires.admit(record.published):
            places.make_rules(home)


def _find(home: Home, live: Live) -> Relay:
    """That of an earlier daemon, or a new one."""
    found = Relay.find(relays.address(home.run_fd, live.key))
    if found is not None:
        return found
    listener = relays.listen(home.run_fd, live.key)
    try:
        return Relay.begin(home.forker, id=RELAY_ID, listener=listener, machine=live.pidfd)
    finally:
        os.close(listener)


def _lost(home: Home, live: Live, events: int) -> None:
    """It was killed, or its machine has ended: whoever puts that away is there first."""
    if (relay := live.served.relay) is not None:
        home.reactor.forget(relay.sock.fileno(), relay)
    home.worker.do(partial(_replace, home, live))


def _replace(home: Home, live: Live) -> None:
    with live.served.lock:
        _lose(home, live)
        if not (live.served.over or live.over or live.key not in home.lives):
            _later(home, live)


def _later(home: Home, live: Live) -> None:
    delay = min(AGAIN[1], AGAIN[0] * 2**live.served.losses)
    live.served.losses += 1
    again = partial(home.worker.do, partial(serve, home, live))
    live.timers.append(home.reactor.after(delay, again))


def _lose(home: Home, live: Live) -> None:
    relay, live.served.relay = live.served.relay, None
    if relay is not None:
        home.reactor.forget(relay.sock.fileno(), relay)
        relay.close()


# ---- the end ----


def close(home: Home, live: Live, record: MachineRecord) -> None:
    """All ports of a machine that has ended are free after this. Its relay stays a moment, for
    clients that have not taken all yet.
    """
    served = live.served
    with served.lock:
        served.over = True
        served.close_sockets()
        if served.relay is None and record.published:
            served.relay = Relay.find(relays.address(home.run_fd, live.key))
        if served.relay is not None:
            with suppress(OSError):  # it knows the end by itself, too
                served.relay.end()
        _lose(home, live)


def forbid(home: Home, published: Iterable[Published]) -> None:
    """Machines are let through to these ports of the host no more, unless somebody has published
    them anew.
    """
    published = tuple(published)
    if published:
        with home.places.rules:
            held = {place_of(port) for other in home.store.machines() for port in other.published}
            home.places.wires.dismiss(p for p in published if place_of(p) not in held)


def place_of(port: Published) -> tuple[str, int, str]:
    return port.ip, port.host, port.protocol
