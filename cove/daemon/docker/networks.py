"""``/networks``."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec

from cove.daemon.docker import bodies, spec, versions
from cove.daemon.docker.ask import Answer, Ask
from cove.daemon.docker.containers import PRUNE_KEYS, prune_fields
from cove.engine import calls
from cove.engine.calls import networks
from cove.errors import Conflict, CoveError, NameTaken, NotFound, Unsupported
from cove.shown import networks as shown
from cove.spec import network as words

CALL = calls.Call()


class Config(bodies.Struct):
    subnet: str = ""
    i_p_range: str = msgspec.field(default="", name="IPRange")
    gateway: str = ""
    aux_address: bodies.StringMap = msgspec.field(default=None, name="AuxiliaryAddresses")


class IPAM(bodies.Struct):
    driver: str = ""
    config: list[Config] | None = None
    options: bodies.StringMap = None


class Create(bodies.Struct):
    name: str = ""
    driver: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    enable_i_pv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_i_pv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    i_p_a_m: IPAM | None = msgspec.field(default=None, name="IPAM")
    options: bodies.StringMap = None
    labels: bodies.StringMap = None


class Connect(bodies.Struct):
    container: str = ""
    endpoint_config: bodies.EndpointConfig | None = None


class Disconnect(bodies.Struct):
    container: str = ""
    force: bool = False


CREATE = msgspec.json.Decoder(Create)
CONNECT = msgspec.json.Decoder(Connect)
DISCONNECT = msgspec.json.Decoder(Disconnect)


def network_from_docker(asked: Create) -> words.NetworkSpec:
    ipam = asked.i_p_a_m or IPAM()
    for name, there in (
        ("Ingress", asked.ingress),
        ("ConfigOnly", asked.config_only),
        ("Options", bool(asked.options)),
        ("IPAM.Options", bool(ipam.options)),
        ("IPAM.Driver", ipam.driver not in ("", "default")),
        ("EnableIPv4", asked.enable_i_pv4 is False),
    ):
        if there:
            raise Unsupported(f"cannot use {name}: cove's networks have no such thing")
    config = ipam.config or []
    subnet, subnet6 = words.of_families("subnet", [c.subnet for c in config if c.subnet])
    gateway, gateway6 = words.of_families("gateway", [c.gateway for c in config if c.gateway])
    part, part6 = words.of_families("ip-range", [c.i_p_range for c in config if c.i_p_range])
    found = words.NetworkSpec(
        name=words.parse_network_name(asked.name),
        driver=asked.driver or "bridge",
        subnet=subnet,
        gateway=gateway,
        range=part,
        ipv6=bool(asked.enable_i_pv6),
        subnet6=subnet6,
        gateway6=gateway6,
        range6=part6,
        reserved={
            n: words.parse_gateway(a) for c in config for n, a in (c.aux_address or {}).items()
        },
        internal=asked.internal,
        labels=dict(asked.labels or {}),
        ipam_options=ipam.options,
    )
    words.check_network(found)
    return found


class Predefined(CoveError):
    """Of a network that is there in any case."""

    exit_code = 1
    status = 403


def create(ask: Ask) -> Answer:
    asked = ask.read(CREATE)
    if asked.name in words.PREDEFINED:
        raise Predefined(f"operation is not permitted on predefined {asked.name} network")
    wanted = network_from_docker(asked)
    try:
        made = ask.engine.network_create(networks.NetworkCreate(wanted), CALL)
    except NameTaken as error:
        raise Conflict(f"network with name {wanted.name} already exists") from error
    return Answer({"Id": made.id, "Warning": ""}, 201)


def listed(ask: Ask) -> Answer:
    """To cove the default network is there once it is asked for, to Docker always."""
    wanted, every = ask.gathered(shown.KEYS), networks.NetworkList()
    there = ask.engine.network_list(every, CALL).networks
    if words.DEFAULT_NETWORK not in (one.record.name for one in there):
        _make_default(ask)
        there = ask.engine.network_list(every, CALL).networks
    lines = [versions.network(shown.document(n), ask.version) for n in shown.keep(there, wanted)]
    if ask.version >= (1, 28):
        lines = [line | {"Containers": {}} for line in lines]
    return Answer(lines)


def _found(ask: Ask) -> networks.Network:
    wanted = networks.NetworkInspect(ask.name)
    try:
        return ask.engine.network_inspect(wanted, CALL)
    except NotFound:
        if ask.name != words.DEFAULT_NETWORK:
            raise NotFound(f"network {ask.name} not found") from None
    _make_default(ask)
    return ask.engine.network_inspect(wanted, CALL)


def _make_default(ask: Ask) -> None:
    made = networks.NetworkCreate(words.NetworkSpec(words.DEFAULT_NETWORK))
    with suppress(Conflict):  # somebody else asked
        ask.engine.network_create(made, CALL)


def inspect(ask: Ask) -> Answer:
    return Answer(versions.network(shown.document(_found(ask)), ask.version))


def remove(ask: Ask) -> Answer:
    if ask.name in words.PREDEFINED:
        raise Predefined(f"{ask.name} is a pre-defined network and cannot be removed")
    ask.engine.network_remove(networks.NetworkRemove(_found(ask).record.name), CALL)
    return Answer(status=204)


def connect(ask: Ask) -> Answer:
    asked = ask.read(CONNECT)
    machine, network = ask.machine_called(asked.container), _found(ask).record.name
    wish = spec.connection_from_docker(network, asked.endpoint_config or bodies.EndpointConfig())
    ask.engine.network_connect(
        networks.NetworkConnect(
            network,
            machine.id,
            wish.ip,
            wish.mac,
            wish.aliases,
            wish.ip6,
            wish.forwards,
            wish.driver_options,
            wish.links,
        ),
        CALL,
    )
    return Answer()


def disconnect(ask: Ask) -> Answer:
    asked, network = ask.read(DISCONNECT), _found(ask).record.name
    machine = ask.machine_called(asked.container)
    ask.engine.network_disconnect(
        networks.NetworkDisconnect(network, machine.id, asked.force), CALL
    )
    return Answer()


def prune(ask: Ask) -> Answer:
    fields: dict[str, Any] = prune_fields(ask.gathered(PRUNE_KEYS), time.time())
    params = networks.NetworkPrune(**fields, spared=(words.DEFAULT_NETWORK,))
    gone = ask.engine.network_prune(params, CALL)
    return Answer({"NetworksDeleted": list(gone.names) or None})
