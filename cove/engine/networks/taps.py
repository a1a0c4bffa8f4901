"""The places of virtual machines: the host's end of each card is a tap, which the emulator has by
descriptor from its beginning to its end, whether there is a network or not. On a network it is a
port of the bridge, under the name of the place; what is behind the machine's end, the card, its
guest gives to the machine or takes back.

A tap that is gone QEMU would read of without end: one that is on no network is down, not gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

from cove.engine import files
from cove.engine.home import Home
from cove.engine.networks import places
from cove.engine.networks.default import hint_of_none
from cove.engine.vms import inside
from cove.engine.vms.virtual import link_of
from cove.errors import CoveError, HostError
from cove.linux.network.tap import DEVICE, has_taps, tap_of
from cove.planner.virtual.cards import TARGET, give, take_back, way_out
from cove.planner.virtual.guest import RESOLV, plan_resolv
from cove.spec.network import CARDS
from cove.store.records import Endpoint, MachineRecord

PATIENCE = 30.0
"""Seconds that a guest may take for its card: an emulated one on a busy host is slow."""


def open_cards(home: Home, key: int, name: str, *, wanted: bool = False) -> tuple[int, ...]:
    """The host's ends of a guest's cards, which are the caller's; none where a host can make none,
    which is an error if they are ``wanted``.
    """
    if not wanted and not has_taps():
        return ()
    with hint_of_none() if wanted else nullcontext():
        return home.places.wires.cards(key, name)


def take_seats(home: Home, record: MachineRecord) -> None:
    """Its cards are on its networks from now on."""
    if not record.endpoints:
        return
    with hint_of_none():
        networks = places.prepare(home, record, record.endpoints)
        for network, endpoint in zip(networks, record.endpoints, strict=True):
            home.places.wires.seat(network, endpoint, record.name, up=True)


# ---- while it runs ----


def plug(home: Home, record: MachineRecord, endpoint: Endpoint) -> None:
    """A network more. Its link is up when all of it is there, as a container's."""
    find = partial(_find, home, record.key, endpoint.index)
    if not home.places.wires.card_again(record.key, endpoint.index, find):
        there = has_taps()
        raise HostError(
            f"cannot connect {record.name} to {endpoint.name}: its guest was made without taps",
            host="" if there else f"{DEVICE} cannot be opened, of which taps are made",
            hint=("" if there else "modprobe tun; ")
            + f"a restart makes its guest anew, to be connected then: cove restart {record.name}",
            exit_code=1,
        )
    with hint_of_none():
        (network,) = places.prepare(home, record, (endpoint,))
        home.places.wires.seat(network, endpoint, record.name, up=False)
    with _told(record, endpoint.name):
        inside.run_ops(home, record.key, give(link_of(endpoint), TARGET), patience=PATIENCE)
    home.places.wires.set_up(endpoint)


def _find(home: Home, key: int, index: int) -> int:
    """The end of a card, by the emulator's descriptor."""
    live = home.lives.get(key)
    pids = home.groups.pids(live.group) if live is not None and live.group is not None else []
    return next((fd for fd in (tap_of(pid, index) for pid in pids) if fd >= 0), -1)


def unplug(home: Home, key: int, indexes: Iterable[int]) -> None:
    """A guest that does not answer keeps its card, which leads nowhere then. From the first moment
    the link is down: a daemon that is killed in between is followed by one that makes it anew.
    """
    indexes = tuple(indexes)
    links = [home.places.wires.port_name(key, index) for index in indexes]
    for link in links:
        home.places.wires.set_down(link)
    with suppress(CoveError):
        ops = tuple(take_back(index) for index in indexes)
        inside.run_ops(home, key, ops, patience=PATIENCE)
    for link in links:
        home.places.wires.unseat(link)


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
def _told(record: MachineRecord, network: str) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        raise HostError(
            f"cannot connect {record.name} to {network}: {error.message.partition(': ')[2]}",
            host=error.host,
            hint=f"its next start connects it: cove restart {record.name}",
        ) from error
