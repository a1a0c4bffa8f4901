"""Everything that networks are in the kernel, made from records and undone from them.

Names tell whose a thing is: every link and table of a state directory begins with its ``tag``. The
rules know that beginning too, so a link of ours that no rule names reaches nobody.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from cove.errors import HostError
from cove.linux.network import links
from cove.linux.network.netlink import Netlink, Request, in_namespace, open_in
from cove.linux.network.nftables import Nftables
from cove.linux.network.tap import DEVICE, attach_again, close_taps, open_tap
from cove.net.switches import (
    INTERFACES,
    OF_BRIDGES,
    OF_BRIDGES_WITHOUT_IPV6,
    WITH_IPV6,
    has_ipv6,
    set_all,
    write,
)
from cove.planner.networks import firewall, flows
from cove.planner.networks.addresses import bridge_mac, link_local
from cove.spec.network import CARDS
from cove.store.left import Left
from cove.store.records import Endpoint, NetworkRecord, Published

PORTS = 1023
"""Of a bridge (BR_MAX_PORTS, less the one that is none)."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def number_text(number: int) -> str:
    """In base 36: a link's name has 15 letters."""
    text = ""
    while number or not text:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text


def tag_of(root: str) -> str:
    digest = hashlib.sha256(os.fsencode(root)).digest()
    return "cv" + number_text(int.from_bytes(digest[:8], "big"))[-5:]


class Wires:
    """Of one state directory. Nothing is opened before there is a network to be made."""

    def __init__(self, root: str) -> None:
        self.tag = tag_of(root)
        self._lock = threading.RLock()
        self._netlink: Netlink | None = None
        self._nftables = Nftables()

    def close(self) -> None:
        with self._lock:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None
            self._nftables.close()

    # ---- names ----

    def bridge_name(self, key: int) -> str:
        return f"{self.tag}b{number_text(key)}"

    def door_name(self, key: int) -> str:
        return f"{self.tag}d{number_text(key)}"

    def port_name(self, machine: int, index: int) -> str:
        return f"{self.tag}e{number_text(machine)}{DIGITS[index]}"

    def spare_name(self, machine: int, index: int) -> str:
        """Of a virtual machine's card that is on no network."""
        return self._spare(self.port_name(machine, index))

    def _spare(self, link: str) -> str:
        return f"{self.tag}s{link[len(self.tag) + 1 :]}"

    # ---- what there is ----

    def reached(self) -> list[IPv4Network | IPv6Network]:
        """Networks that the host has a way to already."""
        with self._lock:
            return links.reached(self._route())

    def present(self) -> dict[str, links.Link]:
        """Our links, by name."""
        mine = re.compile(rf"{self.tag}[bdes][0-9a-z]+")
        with self._lock:
            return {
                link.name: link for link in links.links(self._route()) if mine.fullmatch(link.name)
            }

    def foreign(self) -> tuple[str, ...]:
        """Bridges and pairs of others."""
        with self._lock:
            found = links.links(self._route())
        return tuple(
            link.name
            for link in found
            if link.kind in firewall.KINDS and not link.name.startswith(self.tag)
        )

    # ---- networks ----

    def up(self, network: NetworkRecord) -> bool:
        """Make its bridge, unless it is there: whether it was made."""
        name = self.bridge_name(network.key)
        with self._lock, _translated(f"cannot make network {network.name}"):
            route = self._route()
            found = links.find_link(route, name)
            if found is not None and found.kind != "bridge":
                raise HostError(
                    f"cannot make network {network.name}: its bridge is called {name}, and that "
                    "name is taken",
                    host=f"{name} is no bridge"
                    + (f", but of the kind {found.kind}" if found.kind else ""),
                    hint=f"ip link set {name} down && ip link set {name} name …",
                )
            if found is not None and found.up:
                return False
            if found is not None:  # made by halves
                links.delete_link(route, name)
            links.add_bridge(route, name, bridge_mac(network.id))
            if network.subnet6 and not has_ipv6():
                raise HostError(
                    f"cannot make network {network.name}: it has IPv6, and this host has not"
                )
            six = WITH_IPV6 if network.subnet6 else OF_BRIDGES_WITHOUT_IPV6
            set_all(name, (*OF_BRIDGES, *six))
            made = links.find_link(route, name)
            if made is None:
                raise HostError(f"cannot make network {network.name}: its bridge was removed")
            families = (network.gateway, network.subnet), (network.gateway6, network.subnet6)
            words = [f"{own}/{ip_network(all_).prefixlen}" for own, all_ in families if own]
            addresses = _addresses(made.number, words, bridge_mac(network.id))
            route.ask(*addresses, links.set_up(made.number))
            return True

    def down(self, network: NetworkRecord) -> None:
        with self._lock, _translated(f"cannot remove network {network.name}"):
            links.delete_link(self._route(), self.bridge_name(network.key))

    def rules(
        self,
        networks: Iterable[NetworkRecord],
        endpoints: Iterable[Endpoint],
        published: Iterable[Published],
        left: Left,
    ) -> None:
        """All rules anew, for these networks and places on them; where there are none, those alone
        of what was left on.
        """
        networks = tuple(networks)
        router = left.four or any(n.forwarding for n in networks)
        router6 = left.six or any(n.forwarding6 for n in networks)
        closed = sorted({*left.closed, *(name for n in networks for name in n.closed)})
        if not networks:
            alone = firewall.alone(self.tag, closed, router=router, router6=router6)
            self._run(alone + flows.delete(flows.table_of(self.tag)))
            return
        bridges = (
            firewall.Bridge(
                self.bridge_name(n.key), n.subnet, n.gateway, n.internal, resolver=n.resolver,
                subnet6=n.subnet6, gateway6=n.gateway6,
            )
            for n in networks
        )  # fmt: skip
        program = firewall.whole(
            self.tag, self.tag, bridges, map(_port, endpoints), map(_door, published),
            router=router, router6=router6, closed=closed,
        )  # fmt: skip
        self._run(program + flows.whole(flows.table_of(self.tag), self.tag))

    # ---- places of machines ----

    def allow(self, endpoints: Sequence[Endpoint]) -> bool:
        """Let these senders through. False: the rules are not there, and are to be made anew."""
        program = flows.sets(flows.table_of(self.tag)) + "".join(
            firewall.elements(self.tag, port, add=True) + firewall.ways(self.tag, port, add=True)
            for port in map(_port, endpoints)
        )
        return not self._nftables.run(program)

    def plug(self, networks: Sequence[NetworkRecord], endpoints: Sequence[Endpoint],
             namespace: int, name: str) -> None:  # fmt: skip
        """The links of a machine, whose network namespace is given, each with its network."""
        with self._lock, _translated(f"cannot connect {name}"), open_in(namespace) as inside:
            route = self._route()
            for network, endpoint in zip(networks, endpoints, strict=True):
                bridge = links.find_link(route, self.bridge_name(network.key))
                if bridge is None:
                    raise HostError(f"cannot connect {name}: the bridge of {network.name} is gone")
                end = f"eth{endpoint.index}"
                with _room(network, name):
                    links.add_veth(
                        route, endpoint.link, bridge=bridge.number, peer=end, mac=endpoint.mac,
                        namespace=namespace,
                    )  # fmt: skip
                if endpoint.address6:
                    with in_namespace(namespace):
                        set_all(end, WITH_IPV6)
                _configure(inside, end, endpoint)
                port = links.find_link(route, endpoint.link)
                if port is not None:  # up, which says that it is whole
                    route.ask(links.set_up(port.number))

    def cards(self, machine: int, name: str) -> tuple[int, ...]:
        """The host's ends of a virtual machine's cards, on no network; the caller's."""
        found: list[int] = []
        try:
            for index in range(CARDS):
                link = self.spare_name(machine, index)
                found.append(_open_tap(link, name, partial(self.drop_link, link)))
                _quiet(link)
        except BaseException:
            close_taps(found)
            raise
        return tuple(found)

    def card_again(self, machine: int, index: int, find: Callable[[], int]) -> bool:
        """Where somebody deleted the link of an emulator that runs; ``find``: a descriptor of its
        that was it (-1: none). False: there is no link, and it has nothing that could be one.
        """
        names = self.port_name(machine, index), self.spare_name(machine, index)
        with self._lock, suppress(OSError):
            if any(links.find_link(self._route(), name) for name in names):
                return True
            if (fd := find()) < 0:
                return False
            try:
                attach_again(fd, names[1])
                _quiet(names[1])
            finally:
                os.close(fd)
        return True

    def seat(self, network: NetworkRecord, endpoint: Endpoint, name: str, *, up: bool) -> None:
        """The end of a virtual machine's card becomes the link of a place."""
        with self._lock, _translated(f"cannot connect {name}"):
            route = self._route()
            bridge = links.find_link(route, self.bridge_name(network.key))
            if bridge is None:
                raise HostError(f"cannot connect {name}: the bridge of {network.name} is gone")
            spare = self._spare(endpoint.link)
            port = links.find_link(route, endpoint.link) or links.find_link(route, spare)
            if port is None:
                raise HostError(
                    f"cannot connect {name}: the link of its card was removed",
                    hint=f"its next start makes it anew: cove restart {name}",
                )
            if port.up:  # a name changes only while it is down
                route.ask(links.set_down(port.number))
            with _room(network, name):
                links.seat(route, port.number, endpoint.link, bridge.number, up=up)

    def unseat(self, link: str) -> None:
        """It is the end of a card alone again: the emulator has it as long as it runs."""
        with self._lock, suppress(OSError):
            port = links.find_link(self._route(), link)
            if port is not None:
                self._route().ask(links.set_down(port.number))
                links.seat(self._route(), port.number, self._spare(link), 0, up=False)

    def drop_cards(self, machine: int) -> None:
        """Those that an emulator which has ended left: it could have said that they are to stay."""
        with Netlink() as own:
            for index in range(CARDS):
                for link in (self.port_name(machine, index), self.spare_name(machine, index)):
                    with suppress(OSError):
                        links.delete_link(own, link)

    def set_up(self, endpoint: Endpoint) -> None:
        """The last that is done to a link: it is whole."""
        with self._lock, _translated(f"cannot connect to {endpoint.name}"):
            port = links.find_link(self._route(), endpoint.link)
            if port is None:
                raise HostError(f"cannot connect to {endpoint.name}: its link was removed")
            self._route().ask(links.set_up(port.number))

    def set_down(self, name: str) -> None:
        """One that is about to go is not whole."""
        with self._lock, suppress(OSError):
            port = links.find_link(self._route(), name)
            if port is not None:
                self._route().ask(links.set_down(port.number))

    def unplug(self, endpoints: Sequence[Endpoint]) -> None:
        """The links of places: rules are next, for without a link they let nobody through. The
        kernel takes its time for that; who wires a machine meanwhile does not wait for it here.
        """
        with Netlink() as own:
            for endpoint in endpoints:
                with suppress(OSError):
                    links.delete_link(own, endpoint.link)

    def forbid(self, endpoints: Sequence[Endpoint]) -> None:
        # One by one: where somebody took its rules away, the others' must still go. Without the
        # library there are none, and a machine that could not be wired is put away all the same.
        for endpoint in endpoints:
            port = _port(endpoint)
            with suppress(HostError):
                self._nftables.run(firewall.elements(self.tag, port, add=False))
                if led := firewall.ways(self.tag, port, add=False):
                    self._nftables.run(led)

    def admit(self, published: Iterable[Published]) -> bool:
        """Machines may speak to these ports of the host, as everybody may. False: as ``allow``."""
        program = firewall.doors(self.tag, map(_door, published), add=True)
        return not program or not self._nftables.run(program)

    def dismiss(self, published: Iterable[Published]) -> None:
        for port in published:
            if program := firewall.doors(self.tag, (_door(port),), add=False):
                self._nftables.run(program)

    def route_through(self, endpoint: Endpoint, namespace: int) -> None:
        """The default route of a running machine, from now on."""
        with self._lock, open_in(namespace) as inside:
            link = links.find_link(inside, f"eth{endpoint.index}")
            if link is not None:
                for gateway in filter(None, (endpoint.gateway, endpoint.gateway6)):
                    with suppress(OSError):  # it may have one of its own making
                        inside.ask(links.default_route(link.number, ip_address(gateway)))

    def drop_link(self, name: str) -> None:
        with self._lock, suppress(OSError):
            links.delete_link(self._route(), name)

    def join(self, ports: Iterable[str], network: NetworkRecord) -> None:
        """Make those that are there ports of a bridge."""
        with self._lock, _translated(f"cannot make network {network.name}"):
            route = self._route()
            bridge = links.find_link(route, self.bridge_name(network.key))
            for port in (links.find_link(route, name) for name in ports):
                if bridge is not None and port is not None and port.master != bridge.number:
                    links.set_master(route, port.number, bridge.number)

    # ----

    def _route(self) -> Netlink:
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink

    def _run(self, program: str) -> None:
        said = self._nftables.run(program)
        if said:
            raise HostError(
                "cannot use networks: the kernel took no rules that keep them apart",
                host=said[:300],
                hint="nf_tables must have the families inet and bridge, and NAT",
            )


def _quiet(link: str) -> None:
    """The host itself says nothing there."""
    write(INTERFACES.format(family="ipv6", link=link, name="disable_ipv6"), "1")


def _open_tap(link: str, name: str, drop: Callable[[], None]) -> int:
    """``drop``: whatever has the name."""
    try:
        with suppress(OSError):
            return open_tap(link)
        drop()
        return open_tap(link)
    except (FileNotFoundError, PermissionError) as error:
        raise HostError(
            f"cannot connect {name}: this host has no {DEVICE} to make a virtual machine's link of",
            host=(error.strerror or "").lower(),
            hint="modprobe tun",
        ) from error


def senders_of(endpoint: Endpoint) -> tuple[str, ...]:
    """Addresses that a machine may send from: its own, and with IPv6 the one of its link alone."""
    own, own6 = (a.partition("/")[0] for a in (endpoint.address, endpoint.address6))
    return (own, own6, str(link_local(endpoint.mac).ip)) if own6 else (own,)


def _port(endpoint: Endpoint) -> firewall.Port:
    own, *six = senders_of(endpoint)
    way = bridge_mac(endpoint.network) if endpoint.ruled else ""
    held = (endpoint.address, endpoint.address6) if endpoint.forwards else ()
    homes = tuple(str(ip_interface(word).network) for word in held if word)
    return firewall.Port(endpoint.link, own, endpoint.mac, tuple(six), way, homes)


def _door(port: Published) -> firewall.Door:
    return firewall.Door(port.ip, port.host, port.protocol)


def _addresses(number: int, words: Sequence[str], mac: str) -> list[Request]:
    """With one of IPv6 the one of the link alone: the kernel itself takes its time for that."""
    found = [ip_interface(word) for word in words]
    if any(own.version == 6 for own in found):
        found.append(link_local(mac))
    return [links.address(number, own) for own in found]


def _configure(inside: Netlink, end: str, endpoint: Endpoint) -> None:
    link = links.find_link(inside, end)
    if link is None:
        raise HostError(f"cannot connect: {end} of {endpoint.name} was removed meanwhile")
    words = [word for word in (endpoint.address, endpoint.address6) if word]
    requests = _addresses(link.number, words, endpoint.mac)
    requests.append(links.set_up(link.number))
    if endpoint.default:
        gateways = filter(None, (endpoint.gateway, endpoint.gateway6))
        requests += [links.default_route(link.number, ip_address(word)) for word in gateways]
    inside.ask(*requests)


@contextmanager
def _room(network: NetworkRecord, name: str) -> Iterator[None]:
    """On a bridge for one more: the kernel numbers its ports with ten bits, of which 0 is none."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EXFULL:
            raise
        raise HostError(
            f"cannot connect {name}: all {PORTS:,} ports of network {network.name} are taken",
            host="a bridge of the kernel's has no more",
            hint="another network has as many: cove network create NAME",
        ) from error


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The kernel's errors in cove's form."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HostError(f"{what}: {reason}", host=error.filename or "") from error
