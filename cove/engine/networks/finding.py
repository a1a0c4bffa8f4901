"""Which network is meant, and making one."""

from __future__ import annotations

import secrets
import time
from ipaddress import IPv4Network, IPv6Network, ip_network

from cove.engine.calls.networks import Network
from cove.engine.home import Home
from cove.errors import Conflict, CoveError, HostError, NoSuchNetwork, NotFound
from cove.planner.networks.addresses import (
    Subnet,
    choose_gateway,
    choose_resolver,
    choose_subnet,
    choose_subnet6,
    overlap,
)
from cove.spec.network import DEFAULT_NETWORK, NetworkSpec, check_network
from cove.store.records import MachineRecord, NetworkRecord

BUILTIN = tuple(
    Network(
        NetworkRecord(0, id=digit * 64, name=name, subnet="", gateway="", created=0.0, driver=kind),
        builtin=True,
    )
    for digit, name, kind in (("0", "none", "null"), ("1", "host", "host"))
)


def meant(home: Home, text: str, *, make: bool = False) -> NetworkRecord:
    """The network called ``text``; the default one is made when it is first asked for."""
    try:
        return home.store.find_network(text)
    except NotFound as error:
        if text == DEFAULT_NETWORK and make:
            return add(home, NetworkSpec(DEFAULT_NETWORK))
        what = f'cannot join the network "{text}": no such network'
        raise _missing(what, text, error, origin=f"--network {text}", exit_code=125) from error


def named(home: Home, text: str) -> NetworkRecord:
    """The network that a verb of networks names: one that is there."""
    try:
        return home.store.find_network(text)
    except NotFound as error:
        raise _missing(error.message, text, error) from error


def _missing(
    message: str, text: str, error: NotFound, *, origin: str = "", exit_code: int = 0
) -> NoSuchNetwork:
    hint = error.hint if error.hint.startswith("did") else f"cove network create {text}"
    missing = NoSuchNetwork(message, origin=origin, hint=hint, exit_code=exit_code)
    missing.network = text
    return missing


def add(home: Home, spec: NetworkSpec) -> NetworkRecord:
    """A new network's record. In the kernel it is made when a machine joins it."""
    check_network(spec)
    with home.lock:
        taken = _taken(home)
        reached = _reached(home)
        for asked in filter(None, (spec.subnet, spec.subnet6)):
            _check_free(spec, asked, taken, reached)
        used = [*(ip_network(subnet) for subnet, _ in taken), *reached]
        chosen = spec.subnet or choose_subnet(used)
        if chosen is None:
            raise HostError(
                f"cannot make network {spec.name}: every range that cove takes subnets of is "
                "in use",
                hint="choose one: --subnet 10.1.2.0/24",
            )
        id = secrets.token_hex(32)
        subnet = IPv4Network(chosen)
        six = IPv6Network(spec.subnet6 or choose_subnet6(used, id)) if spec.ipv6 else None
        reserved = set(spec.reserved.values())
        gateway = spec.gateway or choose_gateway(subnet, reserved)
        record = NetworkRecord(
            key=home.store.new_key(),
            id=id,
            name=spec.name,
            subnet=str(subnet),
            gateway=gateway,
            resolver=choose_resolver(subnet, {gateway, *reserved}.__contains__),
            range=spec.range,
            created=time.time(),
            driver=spec.driver,
            internal=spec.internal,
            labels=dict(spec.labels),
            subnet6=str(six) if six else "",
            gateway6=spec.gateway6 or (choose_gateway(six, reserved) if six else ""),
            range6=spec.range6,
            reserved=dict(spec.reserved),
            ipam_options=spec.ipam_options,
        )
        home.store.put_network(record)
    publish(home, "create", record)
    return record


def _taken(home: Home) -> list[tuple[str, str]]:
    """Subnets of networks that are there, of both families, and whose they are."""
    networks = home.store.networks()
    return [(subnet, n.name) for n in networks for subnet in (n.subnet, n.subnet6) if subnet]


def _reached(home: Home) -> list[Subnet]:
    """Where the host can go, and what it resolves names with: none of that is hidden by a
    network. Bridges of ours are there too, and their networks are named instead.
    """
    try:
        found = home.places.wires.reached()
    except OSError as error:
        raise HostError(f"cannot make a network: {(error.strerror or '').lower()}") from error
    mine = {ip_network(subnet) for subnet, _ in _taken(home)}
    return [network for network in found if network not in mine]


def _check_free(
    spec: NetworkSpec, asked: str, taken: list[tuple[str, str]], reached: list[Subnet]
) -> None:
    subnet = ip_network(asked)
    for other, name in taken:
        if overlap(subnet, other):
            raise _overlap(spec, asked, f"{asked} overlaps with {other} of network {name}")
    for route in reached:
        if overlap(subnet, str(route)):
            raise _overlap(
                spec, asked, f"{asked} overlaps with {route}, where the host has a way to"
            )


def _overlap(spec: NetworkSpec, asked: str, reason: str) -> CoveError:
    return Conflict(
        f"cannot make network {spec.name}: {reason}",
        origin=f"--subnet {asked}",
        hint="leave --subnet out, and cove chooses one that is free",
    )


def publish(
    home: Home, action: str, record: NetworkRecord, attributes: dict[str, str] | None = None
) -> None:
    words = {"type": record.driver} | (attributes or {})
    home.events.publish(action, (record.id, record.name, ""), words, type="network")


def publish_places(home: Home, action: str, record: MachineRecord) -> None:
    """Tell of each network that a machine joins as it starts (``connect``), or has left
    (``disconnect``); Docker counts ``none`` and ``host`` among them.
    """
    held = [endpoint.network for endpoint in record.endpoints]
    found = [network for id in held if (network := home.store.network(id)) is not None]
    found += [each.record for each in BUILTIN if each.record.name == record.spec.network]
    for network in found:
        publish(home, action, network, {"container": record.id})
