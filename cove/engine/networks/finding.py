"""Which network is meant, and making one."""

from __future__ import annotations

import secrets
import time
from ipaddress import IPv4Network

from cove.engine.home import Home
from cove.errors import Conflict, CoveError, HostError, NotFound
from cove.planner.addresses import choose_resolver, choose_subnet
from cove.spec.network import DEFAULT_NETWORK, NetworkSpec, check_network
from cove.store.records import NetworkRecord


def meant(home: Home, text: str, *, make: bool = False) -> NetworkRecord:
    """The network called ``text``; the default one is made when it is first asked for."""
    try:
        return home.store.find_network(text)
    except NotFound as error:
        if text == DEFAULT_NETWORK and make:
            return add(home, NetworkSpec(DEFAULT_NETWORK))
        hint = error.hint if error.hint.startswith("did") else f"cove network create {text}"
        raise NotFound(
            f'cannot join the network "{text}": no such network',
            origin=f"--network {text}",
            hint=hint,
            exit_code=125,
        ) from error


def add(home: Home, spec: NetworkSpec) -> NetworkRecord:
    """A new network's record. In the kernel it is made when a machine joins it."""
    check_network(spec)
    with home.lock:
        subnet = IPv4Network(spec.subnet) if spec.subnet else None
        taken = [(IPv4Network(n.subnet), n.name) for n in home.store.networks()]
        reached = _reached(home, subnet)
        if subnet is None:
            subnet = choose_subnet((*(network for network, _ in taken), *reached))
            if subnet is None:
                raise HostError(
                    f"cannot make network {spec.name}: every range that cove takes subnets of is "
                    "in use",
                    hint="choose one: --subnet 10.1.2.0/24",
                )
        for other, name in taken:
            if subnet.overlaps(other):
                raise _overlap(spec, f"{subnet} overlaps with {other} of network {name}")
        for route in reached if spec.subnet else ():
            if subnet.overlaps(route):
                raise _overlap(spec, f"{subnet} overlaps with {route}, where the host has a way to")
        gateway = spec.gateway or str(subnet[1])
        record = NetworkRecord(
            key=home.store.new_key(),
            id=secrets.token_hex(32),
            name=spec.name,
            subnet=str(subnet),
            gateway=gateway,
            resolver=choose_resolver(subnet, lambda address: address == gateway),
            range=spec.range,
            created=time.time(),
            driver=spec.driver,
            internal=spec.internal,
            labels=dict(spec.labels),
        )
        home.store.put_network(record)
    publish(home, "create", record)
    return record


def _reached(home: Home, subnet: IPv4Network | None) -> list[IPv4Network]:
    """Where the host can go, and what it resolves names with: none of that is hidden by a
    network. Bridges of ours are there too, and their networks are named instead.
    """
    try:
        found = home.places.wires.reached()
    except OSError as error:
        raise HostError(f"cannot make a network: {(error.strerror or '').lower()}") from error
    mine = {IPv4Network(network.subnet) for network in home.store.networks()}
    return [network for network in found if network not in mine]


def _overlap(spec: NetworkSpec, reason: str) -> CoveError:
    return Conflict(
        f"cannot make network {spec.name}: {reason}",
        origin=f"--subnet {spec.subnet}",
        hint="leave --subnet out, and cove chooses one that is free",
    )


def publish(
    home: Home, action: str, record: NetworkRecord, attributes: dict[str, str] | None = None
) -> None:
    words = {"type": record.driver} | (attributes or {})
    home.events.publish(action, (record.id, record.name, ""), words, type="network")
