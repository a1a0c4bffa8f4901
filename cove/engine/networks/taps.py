"""The places of virtual machines: the host's end of a link is a tap, which the emulator has by
descriptor; behind the machine's end is a card that its guest gives to the machine or takes back.

A tap ends with the emulator. It is taken out of an emulator that runs before it goes: QEMU would
read of a link that is gone without end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from cove.engine import files
from cove.engine.home import Home
from cove.engine.networks import places
from cove.engine.networks.default import told_of_none
from cove.engine.vms import inside
from cove.engine.vms.virtual import link_of
from cove.errors import CoveError, HostError
from cove.planner.cards import TARGET, give, take_back, way_out
from cove.planner.guest import RESOLV, plan_resolv
from cove.spec.network import CARDS
from cove.store.records import Endpoint, MachineRecord
from cove.vm import qmp

PATIENCE = 30.0
"""Seconds that a guest may take for its card: an emulated one on a busy host is slow."""


@contextmanager
def open_taps(home: Home, record: MachineRecord) -> Iterator[dict[int, int]]:
    """By the number of the card; ours as long as the context, the emulator's from then on."""
    with _taps(home, record, record.endpoints, up=True) as found:
        if found:
            home.names.tell(record)
        yield found


@contextmanager
def _taps(
    home: Home, record: MachineRecord, endpoints: Sequence[Endpoint], *, up: bool
) -> Iterator[dict[int, int]]:
    found: dict[int, int] = {}
    try:
        with told_of_none():
            networks = places.prepare(home, record, endpoints) if endpoints else ()
            for network, endpoint in zip(networks, endpoints, strict=True):
                found[endpoint.index] = home.places.wires.tap(network, endpoint, record.name, up=up)
        yield found
    finally:
        for fd in found.values():
            os.close(fd)


# ---- while it runs ----


def plug(home: Home, record: MachineRecord, endpoint: Endpoint) -> None:
    """A network more. Its link is up when all of it is there, as a container's."""
    with (
        _taps(home, record, (endpoint,), up=False) as found,
        _told(record, endpoint.name),
    ):
        with _control(home, record.key) as control:
            qmp.unplug(control, endpoint.index)
            qmp.plug(control, endpoint.index, found[endpoint.index])
            qmp.flush(control)
        inside.run_ops(home, record.key, give(link_of(endpoint), TARGET), patience=PATIENCE)
        home.places.wires.set_up(endpoint)


def unplug(home: Home, key: int, indexes: Iterable[int]) -> None:
    """A guest that does not answer keeps its card, which leads nowhere then. From the first moment
    the link is down: a daemon that is killed in between is followed by one that makes it anew.
    """
    indexes = tuple(indexes)
    for index in indexes:
        home.places.wires.set_down(home.places.wires.port_name(key, index))
    with suppress(CoveError):
        ops = tuple(take_back(index) for index in indexes)
        inside.run_ops(home, key, ops, patience=PATIENCE)
    with suppress(CoveError), _control(home, key) as control:
        for index in indexes:
            qmp.unplug(control, index)


def route_through(home: Home, key: int, endpoint: Endpoint) -> None:
    with suppress(CoveError):  # it may have a route of its own making
        inside.run_ops(home, key, way_out(link_of(endpoint)), patience=PATIENCE)


def ask_another(home: Home, before: MachineRecord, now: MachineRecord) -> None:
    """``files.ask_another`` of a guest's resolv.conf, which is in the guest."""
    if files.address_of(before).resolver == files.address_of(now).resolver:
        return
    with suppress(CoveError):
        (said,) = inside.read_files(home, now.key, (RESOLV,), patience=PATIENCE)
        text = said.decode("utf-8", "surrogateescape")
        changed = files.with_another(text, before, now)
        if changed != text and len(said) < inside.FRAME_MAX and "\0" not in changed:
            inside.run_ops(home, now.key, plan_resolv(changed), patience=PATIENCE)


def index_of(home: Home, record: MachineRecord, link: str) -> int:
    """Of which card of the machine's a link is; -1: of none."""
    if record.spec.isolation != "vm":
        return -1
    names = [home.places.wires.port_name(record.key, index) for index in range(CARDS)]
    return names.index(link) if link in names else -1


@contextmanager
def _control(home: Home, key: int) -> Iterator[qmp.Control]:
    control = qmp.Control.connect(home.run_fd, key, patience=PATIENCE)
    try:
        control.greet()
        yield control
    finally:
        control.close()


@contextmanager
def _told(record: MachineRecord, network: str) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        raise HostError(
            f"cannot connect {record.name} to {network}: {error.message.partition(': ')[2]}",
            host=error.host,
            hint=f"its next start connects it: cove restart {record.name}",
        ) from error
