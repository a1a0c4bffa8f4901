"""Networks after a crash: what the kernel has is made true to the records."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.networks import forwarding, places, taps
from cove.errors import CoveError
from cove.net.switches import set_forwarding, set_forwarding6
from cove.spec.network import CARDS
from cove.store.records import Endpoint, MachineRecord, NetworkRecord


def recover(home: Home) -> None:
    """Make true what records say: links that nobody records go, those that are missing come."""
    networks = home.store.networks()
    home.names.adopt()
    try:
        known = forwarding.left(home)
        forwarding.settle(home)
        if networks:
            _recover(home, networks)
        if (known.four or known.six) and not any(network.made for network in networks):
            places.make_rules(home)
    except CoveError as error:
        sys.stderr.write(error.render())
    home.names.settle()


def _recover(home: Home, networks: Sequence[NetworkRecord]) -> None:
    wires, records = home.places.wires, home.store.machines()
    present = wires.present()
    endpoints = {e.link: e for record in records for e in record.endpoints}
    bridges = {wires.bridge_name(network.key): network for network in networks}
    doors = {wires.door_name(network.key) for network in networks}
    whole = {name for name, link in present.items() if link.up}
    spares = _spares(home, records)
    for name in present.keys() - bridges.keys() - doors - spares:
        if name not in endpoints or name not in whole:
            _drop(home, records, name)
    for record in records:
        if record.endpoints:
            home.names.tell(record)
    used = {endpoint.network for endpoint in endpoints.values()}
    for name, network in bridges.items():
        if network.id in used or name in present:
            places.raise_bridge(home, network)
    if any(network.made for network in networks):
        places.make_rules(home)
    if any(network.forwarding for network in networks):
        set_forwarding(True)
    if any(network.forwarding6 for network in networks):
        set_forwarding6(True, [name for network in networks for name in network.listening])
    for record in records:
        live = home.lives.get(record.key)
        missing = [e for e in record.endpoints if e.link not in whole]
        if missing and live is not None and live.started and live.ended is None:
            _plug_again(home, record, live, missing)


def _drop(home: Home, records: Sequence[MachineRecord], name: str) -> None:
    for record in records:
        index = taps.index_of(home, record, name)
        if index >= 0 and record.key in home.lives:
            taps.unplug(home, record.key, (index,))
            return
    home.places.wires.drop_link(name)


def _spares(home: Home, records: Sequence[MachineRecord]) -> set[str]:
    """The ends of cards that are on no network, of virtual machines that live."""
    live = [r.key for r in records if r.spec.isolation == "vm" and r.key in home.lives]
    return {home.places.wires.spare_name(key, index) for key in live for index in range(CARDS)}


def _plug_again(home: Home, record: MachineRecord, live: Live, missing: list[Endpoint]) -> None:
    if record.spec.isolation == "vm":
        for endpoint in missing:
            try:
                taps.plug(home, record, endpoint)
            except CoveError as error:
                sys.stderr.write(error.render())
        return
    namespace = places.open_network(home, live)
    if namespace < 0:
        return
    try:
        places.wire(home, record, missing, namespace)
    except CoveError as error:
        sys.stderr.write(error.render())
    finally:
        os.close(namespace)
