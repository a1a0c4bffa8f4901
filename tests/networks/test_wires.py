"""Acts of several places at once: each takes all that it names, whatever of it is gone already, and
nothing of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.linux.network.tap import close_taps
from cove.net.wires import Wires
from cove.store.left import Left
from cove.store.records import Endpoint, NetworkRecord, Published
from tests.conftest import need, need_root
from tests.networks.conftest import inside, new_namespace, rules, run

NETWORKS = tuple(
    NetworkRecord(key, f"{key:064x}", f"n{key}", f"10.77.{key}.0/24", f"10.77.{key}.1", 0.0)
    for key in (1, 2)
)


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[Wires]:
    """In a host of their own."""
    need_root()
    need("nft")
    with new_namespace() as namespace, inside(namespace):
        made = Wires(str(tmp_path))
        try:
            yield made
        finally:
            made.close()


def places(wires: Wires, machine: int, *, six: bool = False) -> tuple[Endpoint, ...]:
    """One on each network, with all that rules can say of one."""
    return tuple(
        Endpoint(
            network.id, network.name, wires.port_name(machine, index), index,
            address=f"10.77.{network.key}.{10 + machine}/24", gateway=network.gateway,
            mac=f"02:00:00:00:{machine:02x}:{network.key:02x}", default=not index,
            address6=f"fd77:{network.key}::{machine:x}/64" if six else "", ruled=True,
            forwards=True,
        )
        for index, network in enumerate(NETWORKS)
    )  # fmt: skip


def door(number: int, ip: str = "127.0.0.1") -> Published:
    return Published(number, ip, 8000 + number, 80)


@pytest.mark.parametrize("lost", [(), (0,), (1,)])
def test_rules_of_the_places_of_a_machine(wires: Wires, lost: tuple[int, ...]) -> None:
    wires.rules(NETWORKS, places(wires, 1, six=True), (), Left(""))
    before, goes = rules(), places(wires, 2, six=True)
    assert wires.allow(goes)
    said = rules()
    for place in goes:
        assert place.link in said and place.mac in said
    wires.forbid([goes[index] for index in lost])  # somebody took them away
    wires.forbid(goes)
    assert rules() == before
    wires.forbid(())
    assert rules() == before


@pytest.mark.parametrize("lost", [(), (0,), (2,)])
def test_ports_of_a_machine(wires: Wires, lost: tuple[int, ...]) -> None:
    wires.rules(NETWORKS, (), (door(1), door(2, "0.0.0.0"), door(3, "::1")), Left(""))
    before, goes = rules(), (door(4), door(5, "0.0.0.0"), door(6, "::1"))
    assert wires.admit(goes)
    assert all(str(port.host) in rules() for port in goes)
    wires.dismiss([goes[index] for index in lost])
    wires.dismiss(goes)
    assert rules() == before


@pytest.mark.parametrize("lost", [(), (0,), (1,)])
def test_links_of_the_places_of_a_machine(wires: Wires, lost: tuple[int, ...]) -> None:
    for network in NETWORKS:
        wires.up(network)
    stays, goes = places(wires, 1), places(wires, 2)
    with new_namespace() as first, new_namespace() as second:
        wires.plug(NETWORKS, stays, first, "stays")
        before = set(wires.present())
        wires.plug(NETWORKS, goes, second, "goes")
        assert set(wires.present()) - before == {place.link for place in goes}
        for index in lost:
            run("ip", "link", "del", goes[index].link)
        wires.unplug(goes)
        assert set(wires.present()) == before


def test_cards_that_an_emulator_left(wires: Wires) -> None:
    stays = wires.cards(1, "stays")
    before = set(wires.present())
    goes = wires.cards(2, "goes")
    try:
        assert set(wires.present()) > before
        run("ip", "link", "del", wires.spare_name(2, 1))
        wires.drop_cards(2)
        assert set(wires.present()) == before
    finally:
        close_taps((*stays, *goes))
