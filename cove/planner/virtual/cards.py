"""The cards of virtual machines: every guest has the same few, which lead nowhere until the machine
joins a network. Then the emulator is given the network's tap, and the guest gives the machine the
card, configured; a guest that was cloned or that runs is treated alike. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface

from cove.plan.ops import NONE, Barrier, Op
from cove.plan.vm_ops import Card, CardBack, CardRoute, CardSix
from cove.planner.why import option
from cove.spec.network import CARDS

TARGET = "target"
"""Register of the machine that runs, in plans of its guest."""


@dataclass(frozen=True, slots=True)
class Link:
    """A machine's place on a network, as its guest needs to know it."""

    index: int
    network: str
    mac: str
    address: str
    """With the bits of the subnet."""
    gateway: str = ""
    """Of its way out; empty: another link is that, or none."""
    address6: str = ""
    gateway6: str = ""

    @property
    def name(self) -> str:
        return f"eth{self.index}"


def card_mac(index: int) -> str:
    """By which the guest knows a card that no machine has."""
    return f"02:cc:00:00:00:{index:02x}"


def give(link: Link, target: str = NONE) -> tuple[Op, ...]:
    """The machine has it, as ``link`` says; what it was before is gone."""
    address, why = IPv4Interface(link.address), option("network", link.network)
    card = Card(
        target,
        _bytes(card_mac(link.index)),
        link.name,
        _bytes(link.mac),
        str(address.ip),
        str(address.netmask),
        link.gateway,
        why=why,
    )
    if not link.address6:
        return (card,)
    own, _, bits = link.address6.partition("/")
    six = CardSix(target, link.name, own, int(bits), why=why)
    routes = (CardRoute(target, link.name, link.gateway6, why=why),) if link.gateway6 else ()
    return card, six, *routes


def take_back(index: int) -> Op:
    return CardBack(
        TARGET, _bytes(card_mac(index)), f"eth{index}", why="the machine is not on this network"
    )


def way_out(link: Link) -> tuple[Op, ...]:
    gateways = filter(None, (link.gateway, link.gateway6))
    why = option("network", link.network)
    return tuple(CardRoute(TARGET, link.name, gateway, why=why) for gateway in gateways)


def with_links(ops: Iterable[Op], links: tuple[Link, ...]) -> tuple[Op, ...]:
    """Where the launcher of a container waits for the daemon to make the links, that of a guest
    makes them itself.
    """
    cards = tuple(op for link in links for op in give(link))
    return tuple(each for op in ops for each in (cards if isinstance(op, Barrier) else (op,)))


def anew(links: tuple[Link, ...]) -> tuple[Op, ...]:
    """In a copy of a guest: its links are this machine's, and what it had besides is gone."""
    kept = {link.index: link for link in links}
    return tuple(
        op
        for index in range(CARDS)
        for op in (give(kept[index], TARGET) if index in kept else (take_back(index),))
    )


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
