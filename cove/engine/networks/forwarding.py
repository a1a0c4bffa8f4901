"""Who leads packets out of networks: the host, which forwards for cove and for nobody else. Whether
it did before is in the record of the network that switched it on, of each family. Others who have
networks come later and find it on (Docker, libvirt): it is not switched off under them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cove.engine.home import Home
from cove.net import switches
from cove.store.records import NetworkRecord


def begin(home: Home, network: NetworkRecord, make_rules: Callable[[Home], None]) -> None:
    """A network that leads out needs a host that forwards."""
    network = msgspec.structs.replace(network, made=True)
    home.store.put_network(network)
    if not network.internal:
        need(home, network, make_rules)


def need(home: Home, network: NetworkRecord, make_rules: Callable[[Home], None]) -> None:
    """So do machines with a policy, on any network: they are led through the host. Rules come
    first: nobody else's packets are forwarded, not for a moment.
    """
    four = not switches.forwards()
    six = bool(network.subnet6) and not switches.forwards6()
    if not (four or six):
        return
    wires = home.places.wires
    listening = switches.hearers(wires.tag) if six else network.listening
    first = four or not any(n.forwarding for n in home.store.networks())
    home.store.put_network(
        msgspec.structs.replace(
            network,
            forwarding=four or network.forwarding,
            forwarding6=six or network.forwarding6,
            listening=listening,
            closed=wires.foreign() if first else network.closed,
        )
    )
    make_rules(home)
    if four:
        switches.set_forwarding(True)
    if six:
        switches.set_forwarding6(True, listening)


def end(home: Home, network: NetworkRecord) -> None:
    """Of a network that goes: another one that needs it takes it over, or it is as it was."""
    records = home.store.machines()
    led = {e.network for record in records for e in record.endpoints if e.ruled}
    others = [
        n
        for n in home.store.networks()
        if n.made and n.key != network.key and (not n.internal or n.id in led)
    ]
    heir = next(iter(others), None)
    if network.forwarding and heir is not None:
        home.store.put_network(
            msgspec.structs.replace(heir, forwarding=True, closed=network.closed)
        )
    elif network.forwarding and not _wanted(home, network):
        switches.set_forwarding(False)
    heir = next((n for n in others if n.subnet6), None)
    if network.forwarding6 and heir is not None:
        heir = home.store.network(heir.id) or heir
        home.store.put_network(
            msgspec.structs.replace(
                heir, forwarding6=True, listening=network.listening,
                closed=heir.closed or network.closed,
            )
        )  # fmt: skip
    elif network.forwarding6 and not _wanted(home, network):
        switches.set_forwarding6(False, network.listening)


def _wanted(home: Home, network: NetworkRecord) -> bool:
    """Whether somebody else has made links of networks since, who found forwarding on."""
    return not set(home.places.wires.foreign()) <= set(network.closed)
