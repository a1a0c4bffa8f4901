"""Who leads packets out of networks: the host, which forwards for cove and for nobody else. Whether
it did before is in the record of the network that switched it on, of each family. Others who have
networks come later and find it on (Docker, libvirt): it is not switched off under them, and as long
as it is on, by a record without a network (``Left``), nobody else's packets pass but theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cove.engine.home import Home
from cove.net import switches
from cove.store.left import Left, read_left, write_left
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
    known = left(home)  # of a family that is off now, somebody else has ended it
    known = msgspec.structs.replace(known, four=known.four and not four, six=known.six and not six)
    # IPv6 that comes later counts with whom IPv4 found there: rules are of both.
    began = [n.closed for n in home.store.networks() if n.forwarding]
    began += [known.closed] if known.four else []
    home.store.put_network(
        msgspec.structs.replace(
            network,
            forwarding=four or network.forwarding,
            forwarding6=six or network.forwarding6,
            listening=listening,
            closed=wires.foreign() if four or not began else network.closed or began[0],
        )
    )
    write_left(home.store.layout, known)
    make_rules(home)
    if four:
        switches.set_forwarding(True)
    if six:
        switches.set_forwarding6(True, listening)


def end(home: Home, network: NetworkRecord) -> None:
    """Of a network that goes: another one that needs it takes it over, or it is as it was, or it
    is left on for others.
    """
    others = _led(home, network.key)
    four, six = network.forwarding, network.forwarding6
    heir = next(iter(others), None)
    if four and heir is not None:
        home.store.put_network(
            msgspec.structs.replace(heir, forwarding=True, closed=network.closed)
        )
        four = False
    heir = next((n for n in others if n.subnet6), None)
    if six and heir is not None:
        heir = home.store.network(heir.id) or heir
        home.store.put_network(
            msgspec.structs.replace(
                heir, forwarding6=True, listening=network.listening,
                closed=heir.closed or network.closed,
            )
        )  # fmt: skip
        six = False
    known = Left(home.boot, four, six, network.closed, network.listening)
    if (four or six) and not _switched_off(home, known):
        before = left(home)
        write_left(
            home.store.layout,
            Left(
                home.boot, before.four or four, before.six or six,
                tuple(sorted({*before.closed, *known.closed})),
                tuple(sorted({*before.listening, *(known.listening if six else ())})),
            ),
        )  # fmt: skip
    settle(home, network.key)


def left(home: Home) -> Left:
    """What was left on for others, of this boot."""
    known = read_left(home.store.layout)
    return known if known is not None and known.boot == home.boot else Left(home.boot)


def settle(home: Home, gone: int = -1) -> bool:
    """What was left on is off as soon as nobody has networks, ``gone`` aside: whether it was done.
    Rules are made next.
    """
    known = left(home)
    on = known.four or known.six
    if on and (_led(home, gone) or not _switched_off(home, known)):
        return False
    write_left(home.store.layout, Left(home.boot))
    return on


def _switched_off(home: Home, known: Left) -> bool:
    """Unless somebody else has made links of networks since, who found forwarding on."""
    four, six = known.four and switches.forwards(), known.six and switches.forwards6()
    if (four or six) and not set(home.places.wires.foreign()) <= set(known.closed):
        return False
    if four:
        switches.set_forwarding(False)
    if six:
        switches.set_forwarding6(False, known.listening)
    return True


def _led(home: Home, gone: int) -> list[NetworkRecord]:
    """The networks that need it."""
    records = home.store.machines()
    led = {e.network for record in records for e in record.endpoints if e.ruled}
    return [
        n
        for n in home.store.networks()
        if n.made and n.key != gone and (not n.internal or n.id in led)
    ]
