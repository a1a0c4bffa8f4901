"""Machines with a network policy: their rules follow from records, and what was refused to them is
read when somebody asks, and kept in the record when they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from cove.engine.calls.networks import Refusals
from cove.engine.home import Home
from cove.engine.networks import forwarding
from cove.errors import Conflict, CoveError
from cove.net.wires import senders_of
from cove.planner.networks.outgoing import Ruled
from cove.store.records import MachineRecord, NetworkRecord

KEPT = 128
"""Destinations that stand in the record of a machine that has ended."""


def make(home: Home) -> None:
    """Of all records as they are now; under the rules' lock."""
    ruled = (_ruled(home, record) for record in home.store.machines())
    home.places.outgoing.make([each for each in ruled if each is not None])


def begin(
    home: Home,
    record: MachineRecord,
    networks: Sequence[NetworkRecord],
    make_rules: Callable[[Home], None],
) -> None:
    """Before a machine's links let anything through; its places are recorded."""
    if record.spec.policy is None:
        return
    for network in networks:
        forwarding.need(home, home.store.network(network.id) or network, make_rules)
    ruled = _ruled(home, home.record(record.key))
    if ruled is not None and not home.places.outgoing.add(ruled):
        make(home)


def change(home: Home, record: MachineRecord) -> None:
    """Its places are others, or none: what was its address may be another's next."""
    if record.spec.policy is not None:
        with home.places.rules, suppress(CoveError):
            make(home)


def end(home: Home, record: MachineRecord) -> None:
    """After its links are gone: what it was refused is told by its record from now on."""
    if record.spec.policy is None or not record.endpoints:
        return
    with suppress(CoveError):
        found, count = home.places.outgoing.refused(record.key)
        if home.store.has_machine(record.key):
            home.update(record.key, refused=found[:KEPT], refusals=count)


def refused(home: Home, record: MachineRecord) -> Refusals:
    policy = record.spec.policy
    if policy is None:
        raise Conflict(
            f"cannot show what {record.name} was refused: it has no network policy",
            hint="cove run --network-policy deny-all",
        )
    if not record.endpoints:
        return Refusals(policy.words(), record.refused, record.refusals)
    return Refusals(policy.words(), *home.places.outgoing.refused(record.key))


def _ruled(home: Home, record: MachineRecord) -> Ruled | None:
    if record.spec.policy is None or not record.endpoints:
        return None
    wires = home.places.wires
    networks = {network.id: network for network in home.store.networks()}
    senders = tuple(
        (wires.bridge_name(networks[endpoint.network].key), address)
        for endpoint in record.endpoints
        if endpoint.network in networks
        for address in senders_of(endpoint)
    )
    resolvers = tuple(dict.fromkeys(e.resolver for e in record.endpoints if e.resolver))
    return Ruled(record.key, record.spec.policy, senders, resolvers)
