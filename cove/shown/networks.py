"""Networks as Docker's API and templates have them, and ``--filter`` of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from cove.engine.calls import networks as calls
from cove.shown import filters, units
from cove.shown.template import Record
from cove.spec import values
from cove.spec.network import PREDEFINED
from cove.store.records import NetworkRecord

SCOPE = "local"
KEYS = ("dangling", "driver", "id", "label", "name", "scope", "type")

Shown = Sequence[calls.Network]


def keep(networks: Shown, wanted: filters.Filters) -> list[calls.Network]:
    """Those that match one value of every key, and every label."""
    return [
        network for network in networks if all(_match(network, k, v) for k, v in wanted.items())
    ]


def _match(network: calls.Network, key: str, wanted: tuple[str, ...]) -> bool:
    if key == "label":
        return all(filters.same_label(network.record.labels, value) for value in wanted)
    return any(TESTS[key](network, value) for value in wanted)


def _dangles(network: calls.Network) -> bool:
    return network.record.name not in PREDEFINED and not network.members


TESTS: dict[str, Callable[[calls.Network, str], bool]] = {
    "name": lambda n, v: v in n.record.name,
    "id": lambda n, v: n.record.id.startswith(v),
    "driver": lambda n, v: n.record.driver == v,
    "scope": lambda n, v: v == SCOPE,
    "type": lambda n, v: v == ("builtin" if n.record.name in PREDEFINED else "custom"),
    "dangling": lambda n, v: values.parse_bool(v) == _dangles(n),
}


def endpoint_id(network: str, machine: str) -> str:
    """Of the place that a machine has on a network, which has no id of its own."""
    return hashlib.sha256(f"{network} {machine}".encode()).hexdigest()


def document(network: calls.Network) -> Record:
    record = network.record
    config = [
        Record(
            Subnet=subnet,
            Gateway=own,
            **({"IPRange": part} if part else {}),
            **_reserved(record, subnet),
        )
        for subnet, own, part in (
            (record.subnet, record.gateway, record.range),
            (record.subnet6, record.gateway6, record.range6),
        )
        if subnet
    ]
    members = {
        member.machine: Record(
            Name=member.name,
            EndpointID=endpoint_id(record.id, member.machine),
            MacAddress=member.endpoint.mac,
            IPv4Address=member.endpoint.address,
            IPv6Address=member.endpoint.address6,
            Aliases=list(member.endpoint.aliases),
        )
        for member in network.members
    }
    return Record(
        Name=record.name,
        Id=record.id,
        Created=units.stamp(record.created),
        Scope=SCOPE,
        Driver=record.driver,
        EnableIPv4=not network.builtin,
        EnableIPv6=bool(record.subnet6),
        IPAM=Record(Driver="default", Options=record.ipam_options, Config=config),
        Internal=record.internal,
        Attachable=False,
        Ingress=False,
        ConfigFrom=Record(Network=""),
        ConfigOnly=False,
        Containers=members,
        Options={},
        Labels=dict(record.labels),
        Bridge=network.bridge,
    )


def _reserved(record: NetworkRecord, subnet: str) -> dict[str, Any]:
    own = ip_network(subnet)
    found = {name: text for name, text in record.reserved.items() if ip_address(text) in own}
    return {"AuxiliaryAddresses": found} if found else {}
