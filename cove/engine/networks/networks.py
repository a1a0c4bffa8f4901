"""The verbs of networks: create, list, inspect, remove, prune, connect, disconnect."""

from __future__ import annotations

import os

import msgspec

from cove.engine import files
from cove.engine.calls.networks import (
    Member,
    Network,
    NetworkConnect,
    NetworkDisconnect,
    NetworkNamed,
    NetworkPrune,
    NetworksPruned,
)
from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.machines import life, stopping
from cove.engine.machines.prune import has_label, wait_for_ended
from cove.engine.networks import finding, forwarding, places, policies, ports, taps
from cove.errors import Conflict, NotFound, UsageError
from cove.spec.check import forwards_with_policy
from cove.spec.links import parse_link
from cove.spec.machine import MachineSpec, connections_of, with_connections
from cove.spec.network import (
    ALONE,
    CARDS,
    Connection,
    NetworkSpec,
    machine_of,
    parse_alias,
    parse_ipv4,
    parse_ipv6,
    parse_mac,
)
from cove.store.records import Endpoint, MachineRecord, NetworkRecord


def create(home: Home, spec: NetworkSpec) -> NetworkRecord:
    return finding.add(home, spec)


def listed(home: Home) -> tuple[Network, ...]:
    return (*finding.BUILTIN, *(shown(home, record) for record in home.store.networks()))


def inspect(home: Home, text: str) -> Network:
    for network in finding.BUILTIN:
        if text in (network.record.name, network.record.id):
            return network
    return shown(home, home.store.find_network(text))


def shown(home: Home, record: NetworkRecord) -> Network:
    members = (
        Member(machine.id, machine.name, endpoint)
        for machine in home.store.machines()
        for endpoint in machine.endpoints
        if endpoint.network == record.id
    )
    return Network(record, tuple(members), home.places.wires.bridge_name(record.key))


# ---- removal ----


def remove(home: Home, text: str) -> NetworkRecord:
    if text in ALONE:
        raise UsageError(f"cannot remove network {text}: it is always there", exit_code=1)
    record = home.store.find_network(text)
    stopping.settle(home, home.places.used(record.id))
    home.events.wait_until(lambda: not _ending(home, record), timeout=stopping.SETTLED)
    with home.lock:
        users = home.places.used(record.id)
        if users:
            names = sorted(home.record(key).name for key in users if home.store.has_machine(key))
            raise Conflict(
                f"cannot remove network {record.name}: {', '.join(names[:5])} "
                f"{'is' if len(users) == 1 else 'are'} on it",
                hint=f"cove network disconnect {record.name} {names[0] if names else 'MACHINE'}",
            )
        _take_down(home, record)
    finding.publish(home, "destroy", record)
    return record


def _ending(home: Home, record: NetworkRecord) -> bool:
    """Whether somebody who has ended is only being put away."""
    return any(
        live.over
        for key in home.places.used(record.id)
        if (live := home.lives.get(key)) is not None
    )


def _take_down(home: Home, record: NetworkRecord) -> None:
    """Bridge and rules, then the record. Who switched forwarding on is not forgotten before it is
    off again.
    """
    record = home.store.network(record.id) or record
    if record.made:
        home.names.close(record)
        home.places.wires.down(record)
        with home.places.rules:  # who needs forwarding meanwhile waits, or is seen
            forwarding.end(home, record)
            places.make_rules(home, without=record)
    home.store.remove_network(record.key)


def prune(home: Home, params: NetworkPrune) -> NetworksPruned:
    """Those that no machine is made for, running or not. The default one too, unlike Docker: its
    record goes, and its bridge and rules, until a machine is on it again.
    """
    stopping.settle(home, tuple(home.lives))
    wait_for_ended(home)
    named = {
        finding.meant(home, wish.network).id
        for machine in home.store.machines()
        for wish in connections_of(machine.spec)
        if _there(home, wish.network)
    }
    gone = []
    for record in home.store.networks():
        if record.id in named or not _wanted(record, params):
            continue
        try:
            gone.append(remove(home, record.id).name)
        except (Conflict, NotFound):  # somebody joined it, or removed it, meanwhile
            continue
    with home.lock, home.places.rules:
        if forwarding.settle(home):
            places.make_rules(home)
    return NetworksPruned(tuple(gone))


def _there(home: Home, text: str) -> bool:
    try:
        home.store.find_network(text)
    except (NotFound, Conflict):
        return False
    return True


def _wanted(record: NetworkRecord, params: NetworkPrune) -> bool:
    return (
        record.name not in params.spared
        and (not params.until or record.created < params.until)
        and all(has_label(record.labels, label) for label in params.labels)
        and not any(has_label(record.labels, label) for label in params.without)
    )


# ---- machines that are there already ----


def connect(home: Home, record: MachineRecord, params: NetworkConnect) -> NetworkNamed:
    network = finding.named(home, params.network)
    _check_kind(record, network)
    ip = parse_ipv4(params.ip) if params.ip else ""
    mac = parse_mac(params.mac) if params.mac else ""
    ip6 = parse_ipv6(params.ip6) if params.ip6 else ""
    wish = Connection(network.name, ip, mac, tuple(map(parse_alias, params.aliases)), ip6,
                      params.forwards, tuple(map(parse_link, params.links)),
                      params.driver_options)  # fmt: skip
    if wish.forwards and record.spec.policy is not None:
        raise forwards_with_policy()
    life.wait_begun(home, record)
    live = stopping.running(home, record)
    if live is None:
        _connect_record(home, record.key, wish)
    else:
        with live.changing:
            _connect_live(home, record.key, live, network, wish)
        ports.serve(home, live)
    finding.publish(home, "connect", network, {"container": record.id})
    return NetworkNamed(network.id, network.name)


def _check_kind(record: MachineRecord, network: NetworkRecord) -> None:
    if record.spec.network == "host":
        raise Conflict(
            f"cannot connect {record.name} to {network.name}: it is on the host's own network"
        )
    if machine_of(record.spec.network):
        raise Conflict(
            f"cannot connect {record.name} to {network.name}: it shares the network of another "
            "machine",
            hint="connect that one",
        )


def _connect_record(home: Home, key: int, wish: Connection) -> MachineRecord:
    with home.lock:
        record = home.record(key)
        wishes = connections_of(record.spec)
        if any(_same(home, held.network, wish.network) for held in wishes):
            raise Conflict(f"cannot connect {record.name} to {wish.network}: it is on it already")
        most = _most(record)
        if len(wishes) >= most:
            raise Conflict(f"cannot connect {record.name}: it is on {most} networks already")
        return home.update(key, spec=with_connections(record.spec, (*wishes, wish)))


def _most(record: MachineRecord) -> int:
    return CARDS if record.spec.isolation == "vm" else places.MOST


def _same(home: Home, one: str, other: str) -> bool:
    return one == other or (
        _there(home, one) and home.store.find_network(one).id == home.store.find_network(other).id
    )


def _connect_live(
    home: Home, key: int, live: Live, network: NetworkRecord, wish: Connection
) -> None:
    """Record, then wires; whatever fails is undone in both."""
    before = home.record(key)
    with home.lock:
        _connect_record(home, key, wish)
        used = {endpoint.index for endpoint in before.endpoints}
        index = next(number for number in range(_most(before)) if number not in used)
        default = not any(endpoint.default for endpoint in before.endpoints)
        try:
            ruled = before.spec.policy is not None
            endpoint = home.places.take(network, wish, key, index, default=default, ruled=ruled)
        except BaseException:
            home.update(key, spec=before.spec)
            raise
        _tell(home, before, home.update(key, endpoints=(*before.endpoints, endpoint)))
    try:
        if before.spec.isolation == "vm":
            taps.plug(home, before, endpoint)
            taps.ask_another(home, before, home.record(key))
        else:
            _wire_live(home, live, before, endpoint)
    except BaseException:
        _let_go(home, key, (endpoint,), before.spec)
        raise


def _tell(home: Home, before: MachineRecord, now: MachineRecord) -> None:
    """A machine that runs is on other networks: the name server knows, and it knows which one."""
    if now.endpoints:
        home.names.tell(now)
    else:
        home.names.forget(now.key)
    if now.spec.isolation == "container":
        files.ask_another(home.store.layout.machine(now.key), before, now)


def _wire_live(home: Home, live: Live, record: MachineRecord, endpoint: Endpoint) -> None:
    namespace = places.open_network(home, live)
    if namespace < 0:
        raise Conflict(f"cannot connect {record.name}: it has just ended")
    try:
        places.wire(home, record, (endpoint,), namespace)
    finally:
        os.close(namespace)


def _let_go(home: Home, key: int, gone: tuple[Endpoint, ...], spec: MachineSpec) -> None:
    """The wires of some places, then the places."""
    if spec.isolation == "vm":
        taps.unplug(home, key, (endpoint.index for endpoint in gone))
    places.remove_wires(home, key, spec, gone)
    with home.lock:
        if home.store.has_machine(key):
            before = home.record(key)
            left = tuple(e for e in before.endpoints if e not in gone)
            now = home.update(key, endpoints=left, spec=spec)
            _tell(home, before, now)
            policies.change(home, now)
        home.places.give_back(key, gone)


def disconnect(home: Home, record: MachineRecord, params: NetworkDisconnect) -> NetworkNamed:
    network = finding.named(home, params.network)
    life.wait_begun(home, record)
    with home.lock:
        record = home.record(record.key)
        wishes = connections_of(record.spec)
        left = tuple(w for w in wishes if not _same(home, w.network, network.name))
        if len(left) == len(wishes):
            raise Conflict(f"cannot disconnect {record.name} from {network.name}: it is not on it")
    spec = with_connections(record.spec, left)
    live = stopping.running(home, record)
    if live is None:
        home.update(record.key, spec=spec)
    else:
        with live.changing:
            _disconnect_live(home, record.key, live, network, spec)
        ports.serve(home, live)
    finding.publish(home, "disconnect", network, {"container": record.id})
    return NetworkNamed(network.id, network.name)


def _disconnect_live(
    home: Home, key: int, live: Live, network: NetworkRecord, spec: MachineSpec
) -> None:
    before = home.record(key)
    gone = tuple(endpoint for endpoint in before.endpoints if endpoint.network == network.id)
    _let_go(home, key, gone, spec)
    if any(endpoint.default for endpoint in gone):
        _new_default(home, key, live)
    if spec.isolation == "vm":
        taps.ask_another(home, before, home.record(key))


def _new_default(home: Home, key: int, live: Live) -> None:
    """Another network leads out from now on."""
    held = home.record(key).endpoints
    heir = next((e for e in held if _leads_out(home, e)), None)
    if heir is None:
        return
    now = tuple(msgspec.structs.replace(e, default=e is heir) for e in held)
    _tell(home, home.record(key), home.update(key, endpoints=now))
    if home.record(key).spec.isolation == "vm":
        taps.route_through(home, key, msgspec.structs.replace(heir, default=True))
        return
    namespace = places.open_network(home, live)
    if namespace < 0:
        return
    try:
        home.places.wires.route_through(heir, namespace)
    finally:
        os.close(namespace)


def _leads_out(home: Home, endpoint: Endpoint) -> bool:
    found = home.store.network(endpoint.network)
    return found is not None and not found.internal
