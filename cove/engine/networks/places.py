"""The places of machines on networks: taken before a start, wired at the plan's barrier, given back
after the end. A place is in the machine's record as long as anything of it may be in the kernel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

import msgspec

from cove.engine.home import Home
from cove.engine.live import Live
from cove.engine.networks import forwarding, policies
from cove.engine.networks.finding import meant
from cove.errors import Conflict, HostError, UsageError
from cove.linux.pidfd import wait_exit
from cove.net.outgoing import Outgoing
from cove.net.wires import Wires
from cove.planner.networks.addresses import bridge_mac, choose_address, choose_resolver, mac_of
from cove.spec.machine import MachineSpec, connections_of
from cove.spec.network import Connection, parse_ipv4, parse_ipv6, parse_mac
from cove.store.db import Store
from cove.store.records import Endpoint, MachineRecord, NetworkRecord

MOST = 16
"""Networks of one machine."""


def addresses_of(endpoint: Endpoint) -> tuple[str, ...]:
    words = filter(None, (endpoint.address, endpoint.address6))
    return tuple(word.partition("/")[0] for word in words)


class Places:
    """Who has which address; and the wires, which are made from it."""

    def __init__(self, store: Store) -> None:
        self.wires = Wires(store.layout.root)
        self.outgoing = Outgoing(self.wires.tag)
        self.rules = threading.RLock()
        """Held while rules are made of records, so that nobody's are missed."""
        self.leaving: dict[str, int] = {}
        """Links whose rules are gone, while their machine's record, by its key, still has them.
        Replaced, never changed: who makes rules has one that nobody changes.
        """
        self._lock = threading.Lock()
        self._taken: dict[tuple[str, str], int] = {}
        self._macs: dict[tuple[str, str], int] = {}
        self._last: dict[tuple[str, int], str] = {}
        for record in store.machines():
            for endpoint in record.endpoints:
                self.hold(record.key, endpoint)
        for network in store.networks():
            if not network.resolver:  # of a cove that had no names
                resolver = choose_resolver(IPv4Network(network.subnet), self._taken_of(network))
                store.put_network(msgspec.structs.replace(network, resolver=resolver))

    def hold(self, key: int, endpoint: Endpoint) -> None:
        with self._lock:
            for address in addresses_of(endpoint):
                self._taken[endpoint.network, address] = key
            self._macs[endpoint.network, endpoint.mac] = key

    def take(
        self, network: NetworkRecord, wish: Connection, key: int, index: int, *, default: bool,
        ruled: bool,
    ) -> Endpoint:  # fmt: skip
        subnet = IPv4Network(network.subnet)
        six = IPv6Network(network.subnet6) if network.subnet6 else None
        if wish.ip6 and six is None:
            raise UsageError(
                f"cannot connect to {network.name}: it has no IPv6",
                origin=f"--ip6 {wish.ip6}",
                hint="cove network create --ipv6",
            )
        with self._lock:
            address = self._address(network, subnet, network.range, wish.ip)
            address6 = self._address(network, six, network.range6, wish.ip6) if six else ""
            mac = parse_mac(wish.mac) if wish.mac else mac_of(address)
            ours = (bridge_mac(network.id), mac_of(network.resolver))
            if (network.id, mac) in self._macs or mac in ours:
                by = "the network itself" if mac in ours else "another machine"
                raise Conflict(
                    f"cannot connect to {network.name}: {by} has the MAC address {mac}",
                    origin=f"--mac-address {mac}",
                    exit_code=125,
                )
            for own in filter(None, (address, address6)):
                self._taken[network.id, own] = key
            self._macs[network.id, mac] = key
            link = self.wires.port_name(key, index)
            self._stay({link})
        return Endpoint(
            network=network.id,
            name=network.name,
            link=link,
            index=index,
            address=f"{address}/{subnet.prefixlen}",
            gateway=network.gateway,
            resolver=network.resolver,
            mac=mac,
            default=default and not network.internal,
            aliases=wish.aliases,
            forwards=wish.forwards,
            address6=f"{address6}/{six.prefixlen}" if six else "",
            gateway6=network.gateway6,
            ruled=ruled,
        )

    def _taken_of(self, network: NetworkRecord) -> Callable[[str], bool]:
        own = (network.gateway, network.resolver, network.gateway6, *network.reserved.values())
        return lambda address: address in own or (network.id, address) in self._taken

    def _address(
        self, network: NetworkRecord, subnet: IPv4Network | IPv6Network, part: str, asked: str
    ) -> str:
        """Of one family: the one that is asked for, or one that is free."""
        taken, which = self._taken_of(network), (network.id, subnet.version)
        if not asked:
            within = type(subnet)(part) if part else subnet
            address = choose_address(subnet, within, taken, self._last.get(which, ""))
            if not address:
                raise HostError(
                    f"cannot connect to {network.name}: all addresses of {within} are taken",
                    hint="make a network with a larger --subnet, or stop some machines",
                )
            self._last[which] = address
            return address
        flag = "ip" if subnet.version == 4 else "ip6"
        own = ip_address((parse_ipv4 if subnet.version == 4 else parse_ipv6)(asked))
        if own not in subnet or own in (subnet.network_address, subnet.broadcast_address):
            raise UsageError(
                f"cannot connect to {network.name}: {asked} is no address of {subnet}",
                origin=f"--{flag} {asked}",
            )
        if taken(str(own)):
            whose = {network.gateway: "the network's gateway", network.resolver: "its name server",
                     network.gateway6: "the network's gateway"}  # fmt: skip
            whose |= {text: f"{name}, set aside," for name, text in network.reserved.items()}
            by = whose.get(str(own), "another machine")
            raise Conflict(
                f"cannot connect to {network.name}: {by} has the address {own}",
                origin=f"--{flag} {asked}",
                exit_code=125,
            )
        return str(own)

    def give_back(self, key: int, endpoints: Iterable[Endpoint] | None = None) -> None:
        """Those of a machine; all, unless told which."""
        with self._lock:
            if endpoints is None:
                self._taken = {place: k for place, k in self._taken.items() if k != key}
                self._macs = {place: k for place, k in self._macs.items() if k != key}
                self._stay({link for link, k in self.leaving.items() if k == key})
                return
            endpoints = tuple(endpoints)
            self._stay({endpoint.link for endpoint in endpoints})
            for endpoint in endpoints:
                for address in addresses_of(endpoint):
                    self._taken.pop((endpoint.network, address), None)
                self._macs.pop((endpoint.network, endpoint.mac), None)

    def leave(self, key: int, endpoints: Iterable[Endpoint]) -> None:
        """Their rules go now: nobody makes them again of a record that still has them."""
        with self._lock:
            self.leaving = {**self.leaving, **{endpoint.link: key for endpoint in endpoints}}

    def _stay(self, links: set[str]) -> None:
        if links & self.leaving.keys():
            self.leaving = {link: k for link, k in self.leaving.items() if link not in links}

    def used(self, network: str) -> set[int]:
        """Keys of the machines that have a place there."""
        with self._lock:
            return {key for (held, _), key in self._taken.items() if held == network}


# ---- a start ----


def take(home: Home, spec: MachineSpec, key: int) -> tuple[Endpoint, ...]:
    """Places for a machine that is about to start; the caller writes them down, or gives them
    back.
    """
    wishes = connections_of(spec)
    if not wishes:
        return ()
    made: list[Endpoint] = []
    with home.lock:
        try:
            for index, wish in enumerate(wishes):
                network = meant(home, wish.network, make=True)
                if any(endpoint.network == network.id for endpoint in made):
                    raise Conflict(
                        f"cannot connect to {network.name} twice",
                        origin=f"--network {wish.network}",
                        exit_code=125,
                    )
                default = not any(endpoint.default for endpoint in made)
                ruled = spec.policy is not None
                made.append(
                    home.places.take(network, wish, key, index, default=default, ruled=ruled)
                )
        except BaseException:
            home.places.give_back(key, made)
            raise
    return tuple(made)


def neighbours(home: Home, spec: MachineSpec) -> set[int]:
    """Keys of the machines on its networks."""
    names = [wish.network for wish in connections_of(spec)]
    return {key for name in names for key in home.places.used(meant(home, name, make=True).id)}


def wire(home: Home, record: MachineRecord, endpoints: Sequence[Endpoint], namespace: int) -> None:
    """Bridges, rules, then links: whatever is missing of them."""
    networks = prepare(home, record, endpoints)
    home.places.wires.plug(networks, endpoints, namespace, record.name)


def prepare(
    home: Home, record: MachineRecord, endpoints: Sequence[Endpoint]
) -> list[NetworkRecord]:
    """All that a link needs: its bridge, and rules that name it. The networks of the places."""
    networks = [_network_of(home, endpoint, record.name) for endpoint in endpoints]
    places = home.places
    anew = False
    with places.rules:
        for network in networks:
            anew = raise_bridge(home, network) or anew
        policies.begin(home, record, networks, make_rules)
        if anew or not places.wires.allow(endpoints):
            make_rules(home)
    return networks


def _network_of(home: Home, endpoint: Endpoint, name: str) -> NetworkRecord:
    found = home.store.network(endpoint.network)
    if found is None:
        raise HostError(f"cannot connect {name}: network {endpoint.name} is gone")
    return found


def raise_bridge(home: Home, network: NetworkRecord) -> bool:
    """Whether it had to be made."""
    if not network.made:
        forwarding.begin(home, network, make_rules)
    made: bool = home.places.wires.up(network)
    if made:  # of one that was taken away, the ports are still there
        records = home.store.machines()
        ports = [e.link for r in records for e in r.endpoints if e.network == network.id]
        home.places.wires.join(ports, network)
    home.names.open(network)
    return made


def make_rules(home: Home, *, without: NetworkRecord | None = None) -> None:
    """Of all records, as they are now; ``without`` one that is about to go."""
    gone = without.key if without is not None else -1
    with home.places.rules:
        leaving = home.places.leaving  # read before the records: who has left it has left them
        records = home.store.machines()
        endpoints = [e for r in records for e in r.endpoints if e.link not in leaving]
        published = [port for record in records for port in record.published]
        networks = [n for n in home.store.networks() if n.made and n.key != gone]
        home.places.wires.rules(networks, endpoints, published, forwarding.left(home))
        policies.make(home)


# ---- an end ----


def unplug(home: Home, record: MachineRecord) -> None:
    """Everything of a machine that has ended; its record is rid of the places next."""
    if record.spec.isolation == "vm":
        home.places.wires.drop_cards(record.key)
    if record.endpoints:
        home.names.forget(record.key)
        remove_wires(home, record.key, record.spec, record.endpoints)
        policies.end(home, record)


def remove_wires(home: Home, key: int, spec: MachineSpec, endpoints: Sequence[Endpoint]) -> None:
    """A virtual machine's links are its emulator's. Its record is rid of the places next."""
    if spec.isolation != "vm":
        home.places.wires.unplug(endpoints)
    with home.places.rules:
        home.places.leave(key, endpoints)
        home.places.wires.forbid(endpoints)


def open_network(home: Home, live: Live) -> int:
    """The network namespace of a machine that runs; -1: it has ended meanwhile."""
    try:
        fd = os.open(f"/proc/{live.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    if live.pidfd < 0 or wait_exit(live.pidfd, 0):  # the number may be somebody else's by now
        os.close(fd)
        return -1
    return fd
