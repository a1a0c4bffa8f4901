"""Who is called what, and who may know: data and look-ups. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

DOMAIN = "cove.internal"
HOST = f"host.{DOMAIN}"
REVERSE, REVERSE6 = ".in-addr.arpa", ".ip6.arpa"


@dataclass(frozen=True, slots=True)
class Network:
    id: str
    name: str
    subnet: IPv4Network
    gateway: str
    internal: bool
    subnet6: str = ""
    gateway6: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    key: int
    name: str
    names: dict[str, tuple[str, ...]]
    """Of each network, by its id: what it is called there, in lower case."""
    places: dict[str, str]
    """Its address on each network."""
    dns: tuple[str, ...] = ()
    """Whom to ask for it in place of the host's servers."""
    places6: dict[str, str] = field(default_factory=dict)
    links: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each network: what it alone calls others there, and what they are called."""

    def addresses(self, network: str) -> tuple[str, ...]:
        return tuple(places[network] for places in (self.places, self.places6) if network in places)


@dataclass(slots=True)
class _Name:
    turn: int = 0
    addresses: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """By the machine's key."""


class Table:
    def __init__(self) -> None:
        self.networks: dict[str, Network] = {}
        self.machines: dict[int, Machine] = {}
        self._askers: dict[tuple[str, str], int] = {}
        self._names: dict[tuple[str, str], _Name] = {}

    def put(self, machine: Machine) -> None:
        """In place of what was known of it."""
        self.drop(machine.key)
        self.machines[machine.key] = machine
        for network in machine.places:
            addresses = machine.addresses(network)
            for address in addresses:
                self._askers[network, address] = machine.key
            for name in machine.names.get(network, ()):
                found = self._names.setdefault((network, name), _Name())
                found.addresses[machine.key] = addresses

    def drop(self, key: int) -> None:
        machine = self.machines.pop(key, None)
        if machine is None:
            return
        for network in machine.places:
            for address in machine.addresses(network):
                if self._askers.get((network, address)) == key:
                    del self._askers[network, address]
            for name in machine.names.get(network, ()):
                found = self._names.get((network, name))
                if found is not None:
                    found.addresses.pop(key, None)
                    if not found.addresses:
                        del self._names[network, name]

    def asker(self, network: str, address: str) -> Machine | None:
        """Whose packets come from there; None: nobody's that we know."""
        return self.machines.get(self._askers.get((network, address), -1))

    def addresses(self, asker: Machine, network: str, name: str) -> tuple[str, ...] | None:
        """Of a machine that shares a network with the asker, or of the host there; None: it is
        called nothing here, and others may know. ``network`` is where the question came from.
        """
        if name == HOST:
            return self._host(asker, network)
        if name == DOMAIN or name.endswith(f".{DOMAIN}"):
            return ()
        for held in self._shared(asker, network):
            found = self._found(held.id, asker.links.get(held.id, {}).get(name, ""))
            if found is not None:
                return found
        for held in self._shared(asker, network):
            found = self._found(held.id, name)
            if found is None and name.endswith(f".{held.name.lower()}"):
                found = self._found(held.id, name[: -len(held.name) - 1])
            if found is not None:
                return found
        return None

    def _host(self, asker: Machine, network: str) -> tuple[str, ...]:
        """An internal network has no way to it."""
        open_ = (held for held in self._shared(asker, network) if not held.internal)
        first = next(open_, None)
        return tuple(filter(None, (first.gateway, first.gateway6))) if first is not None else ()

    def _found(self, network: str, name: str) -> tuple[str, ...] | None:
        """In an order that is another one each time."""
        found = self._names.get((network, name))
        if found is None:
            return None
        machines = tuple(found.addresses.values())
        found.turn = (found.turn + 1) % len(machines)
        turned = machines[found.turn :] + machines[: found.turn]
        return tuple(address for addresses in turned for address in addresses)

    def pointed(self, asker: Machine, network: str, name: str) -> str | None:
        """What the address of a reverse name is called: ``machine.network``; empty: nothing on a
        network of the asker's; None: it is an address of none of them.
        """
        address = reversed_address(name)
        if address is None:
            return None
        for held in self._shared(asker, network):
            if not _in(address, held):
                continue
            machine = self.asker(held.id, str(address))
            if machine is not None:
                return f"{machine.name}.{held.name}"
            host = str(address) in (held.gateway, held.gateway6)
            return HOST if host and not held.internal else ""
        return None

    def _shared(self, asker: Machine, network: str) -> Iterator[Network]:
        """The asker's networks, first the one that it asks on."""
        if network in asker.places and network in self.networks:
            yield self.networks[network]
        for other in asker.places:
            if other != network and other in self.networks:
                yield self.networks[other]

    def servers(self, asker: Machine, host: tuple[str, ...]) -> tuple[str, ...]:
        """Whom to ask for it. What is on internal networks only gets no answer from outside: a
        server that is asked for it is a way out.
        """
        held = tuple(self._shared(asker, ""))
        if any(not network.internal for network in held):
            return asker.dns or host
        return tuple(server for server in asker.dns if _within(server, held))


def reversed_address(name: str) -> IPv4Address | IPv6Address | None:
    """Of 4.3.2.1.in-addr.arpa, or of 32 digits before ip6.arpa; None: it is no such name."""
    if name.endswith(REVERSE):
        try:
            return IPv4Address(".".join(reversed(name[: -len(REVERSE)].split("."))))
        except AddressValueError:
            return None
    digits = name[: -len(REVERSE6)].split(".") if name.endswith(REVERSE6) else []
    if len(digits) != 32 or any(len(d) != 1 or d not in "0123456789abcdef" for d in digits):
        return None
    return IPv6Address(int("".join(reversed(digits)), 16))


def _in(address: IPv4Address | IPv6Address, network: Network) -> bool:
    if isinstance(address, IPv4Address):
        return address in network.subnet
    return bool(network.subnet6) and address in IPv6Network(network.subnet6)


def _within(server: str, networks: tuple[Network, ...]) -> bool:
    try:
        address = IPv6Address(server) if ":" in server else IPv4Address(server)
    except AddressValueError:
        return False
    return any(_in(address, network) for network in networks)
