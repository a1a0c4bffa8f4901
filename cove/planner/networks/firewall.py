"""What keeps networks apart, as a program for nf_tables. Pure.

Two tables of cove's own, which nothing of the host's is in. Whatever comes from an interface with
cove's prefix is dropped unless a rule says otherwise: a link that is there before its rules, or
after them, reaches nobody. Verdicts of other tables stand: what the host's firewall drops, stays
dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cove.oci.endpoint import METADATA4, METADATA6

PRIORITY = -10
"""Before the host's own filters (0): their verdicts come on top."""

QUESTIONS = "5000/second burst 1000 packets"
"""Of one machine to its name server."""
LONGEST = 1000
"""Bytes of one: a packet may be as large as 64 KiB, which fills the server's socket by a few."""

NOWHERE = ", ".join(("127.0.0.0/8", "169.254.0.0/16", *METADATA4))
_BY_NAT64 = tuple(f"64:ff9b::{int(IPv4Address(a)) >> 16:x}:{int(IPv4Address(a)) & 0xFFFF:x}"
                  for a in METADATA4)  # fmt: skip
NOWHERE6 = ", ".join(
    ("::1", "::ffff:0:0/96", "fe80::/10", "64:ff9b::7f00:0/104", "64:ff9b::a9fe:0/112",
     *_BY_NAT64, *METADATA6)
)  # fmt: skip
"""Loopback and link-local addresses, those of clouds' metadata, and the same by NAT64."""
NOBODY, NOBODY6 = "0.0.0.0/8, 224.0.0.0/3", "::, ff00::/8"
"""No sender's."""


@dataclass(frozen=True, slots=True)
class Bridge:
    link: str
    subnet: str
    gateway: str
    internal: bool
    resolver: str = ""
    """The address of its name server, behind a port of its own."""
    subnet6: str = ""
    gateway6: str = ""


@dataclass(frozen=True, slots=True)
class Port:
    """The host's end of one machine's link, and the only sender that may be behind it."""

    link: str
    address: str
    mac: str
    addresses6: tuple[str, ...] = ()
    """Its own, and the one of its link alone; none: no IPv6 leaves it."""
    way: str = ""
    """The MAC address of its bridge, where the machine has a network policy: all that it sends and
    gets goes through the host (``outgoing``)."""
    homes: tuple[str, ...] = ()
    """Of a router: the subnets of its network. It may send what is from elsewhere."""


@dataclass(frozen=True, slots=True)
class Door:
    """A published port of the host."""

    ip: str
    port: int
    protocol: str


def everywhere(ip: str) -> bool:
    """Whether who listens there does so on every address of the host, of its family."""
    return ip in ("0.0.0.0", "::")


def doors(table: str, published: Iterable[Door], *, add: bool) -> str:
    """Ports of the host that machines may speak to, more of them or less."""
    verb = "add" if add else "delete"
    return "".join(
        f"{verb} element inet {table} {_set_of(door)} {{ {_element_of(door)} }}\n"
        for door in published
    )


def _set_of(door: Door) -> str:
    return ("anywhere" if everywhere(door.ip) else "published") + ("6" if ":" in door.ip else "")


def _element_of(door: Door) -> str:
    where = "" if everywhere(door.ip) else f"{door.ip} . "
    return f"{where}{door.protocol} . {door.port}"


def elements(table: str, port: Port, *, add: bool) -> str:
    """One port more, or one less."""
    verb = "add" if add else "delete"
    return "".join(
        f"{verb} element bridge {table} {name} {{ {', '.join(members)} }}\n"
        for name, members in _members(port).items()
        if members
    )


def ways(table: str, port: Port, *, add: bool) -> str:
    """The same of how a machine with a policy is led through the host."""
    if not port.way:
        return ""
    verb = "add" if add else "delete"
    return (
        f'{verb} element bridge {table} out {{ "{port.link}" : {port.way} }}\n'
        f"{verb} element bridge {table} back {{ {port.mac} : {port.way} }}\n"
    )


def _members(port: Port) -> dict[str, tuple[str, ...]]:
    """By set, what lets its machine speak. Payloads that nf_tables has no name for are numbers."""
    link, six = f'"{port.link}"', port.addresses6
    return {
        "owners": (f"{link} . {port.mac} . {port.address}",),
        "senders": (f"{link} . {port.mac}",),
        "addresses": (f"{link} . {port.address}",),
        "addresses6": tuple(f"{link} . {address}" for address in six),
        "targets6": tuple(f"{link} . {int(IPv6Address(address)):#034x}" for address in six),
        "links6": (f"{link} . 0x{port.mac.replace(':', '')}",) if six else (),
        "routers": (link,) if port.homes else (),
        "homes": tuple(f"{link} . {home}" for home in port.homes if ":" not in home),
        "homes6": tuple(f"{link} . {home}" for home in port.homes if ":" in home),
    }


def delete(table: str) -> str:
    """Both tables, whether they are there or not."""
    return "".join(
        f"add table {family} {table}\ndelete table {family} {table}\n"
        for family in ("inet", "bridge")
    )


def alone(table: str, closed: Iterable[str], *, router: bool, router6: bool) -> str:
    """Without a network: nothing, or as long as the host still forwards because cove switched that
    on, what is forwarded for nobody of ours.
    """
    if not (router or router6):
        return delete(table)
    return f"""{delete(table)}table inet {table} {{
 chain forward {{
  type filter hook forward priority {PRIORITY}; policy accept;
{OF_OTHERS[router, router6]} }}
{_others(tuple(closed))}}}
"""


def whole(
    table: str,
    prefix: str,
    bridges: Iterable[Bridge],
    ports: Iterable[Port],
    published: Iterable[Door] = (),
    *,
    router: bool,
    router6: bool = False,
    closed: Iterable[str] = (),
) -> str:
    """Everything anew. ``router``: the host forwards packets because cove switched that on, and did
    not for the bridges that were there then (``closed``).
    """
    bridges, ports = tuple(bridges), tuple(ports)
    others = _others(tuple(closed))
    return (  # fmt: skip
        delete(table)
        + _bridge_table(table, prefix, bridges, ports)
        + _inet_table(
            table,
            prefix,
            bridges,
            tuple(dict.fromkeys(published)),
            others,
            OF_OTHERS[router, router6],
        )
    )


def _set(name: str, kind: str, members: Iterable[str], flags: str = "") -> str:
    listed = ", ".join(members)
    more = f"  flags {flags}\n" if flags else ""
    inside = f"  elements = {{ {listed} }}\n" if listed else ""
    word = "typeof" if "@" in kind else "type"
    return f" set {name} {{\n  {word} {kind}\n{more}{inside} }}\n"


TARGET, OPTION, OPTION_MAC = "@th,64,128", "@th,192,16", "@th,208,48"
"""Of a neighbour solicitation or advertisement (RFC 4861): whose address is asked for or told, kind
and length of the first option, and the MAC address in it."""

PORT_SETS = {
    "owners": "ifname . ether_addr . ipv4_addr",
    "senders": "ifname . ether_addr",
    "addresses": "ifname . ipv4_addr",
    "addresses6": "ifname . ipv6_addr",
    "targets6": f"iifname . {TARGET}",
    "links6": f"iifname . {OPTION_MAC}",
    "routers": "ifname",
    "homes": "ifname . ipv4_addr",
    "homes6": "ifname . ipv6_addr",
}


SIX = f""" chain forwarded {{
  iifname != @routers drop
  iifname . ip saddr @homes drop
  ip saddr {{ {NOBODY}, {NOWHERE} }} drop
 }}
 chain forwarded6 {{
  iifname != @routers drop
  iifname . ip6 saddr @homes6 drop
  ip6 saddr {{ {NOBODY6}, {NOWHERE6} }} drop
  icmpv6 type 130-153 drop
 }}
 chain six {{
  iifname . ip6 saddr != @addresses6 jump forwarded6
  icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} goto neighbours
  icmpv6 type {{ nd-router-solicit, nd-router-advert, nd-redirect }} drop
  icmpv6 type {{ mld-listener-query, router-renumbering }} drop
  udp sport 547 drop
  udp dport 546 drop
  frag frag-off 0 goto first
  meta l4proto 0-255 accept
  drop
 }}
 chain first {{
  @th,0,64 0-0xffffffffffffffff accept
  drop
 }}
 chain neighbours {{
  ip6 nexthdr != ipv6-icmp drop
  icmpv6 type nd-neighbor-advert iifname . {TARGET} != @targets6 drop
  ip6 length 24 accept
  ip6 length != 32 drop
  icmpv6 type nd-neighbor-solicit {OPTION} != 0x0101 drop
  icmpv6 type nd-neighbor-advert {OPTION} != 0x0201 drop
  iifname . {OPTION_MAC} @links6 accept
  drop
 }}
"""
"""Of the bridge's table: what is done with IPv6."""


def _bridge_table(
    table: str, prefix: str, bridges: tuple[Bridge, ...], ports: tuple[Port, ...]
) -> str:
    """Frames as they leave a machine: from its own MAC and address, or not at all; to the name
    server no more than it could answer, so that nobody's questions are lost for another's. Of IPv6
    it tells of itself alone, and is nobody's router and gives nobody addresses. A neighbour's
    question or answer has one form, so that there is nothing behind what was looked at. The first
    fragment of a packet has all that was asked for, or others would put together what nobody saw.
    Who forwards may send what is from elsewhere: not from its neighbours, nor about its link.
    What is most often sent comes first, by one look-up that holds what the others hold apart: a
    packet of IPv4 from its own MAC and address to anybody but the name server. (What carries a
    VLAN's tag is none by ``ether type``, though ``meta protocol`` would say so.)
    """
    held = [_members(port) for port in ports]
    owned = "".join(
        _set(
            name,
            kind,
            (each for members in held for each in members[name]),
            "interval" if name.startswith("homes") else "",
        )
        for name, kind in PORT_SETS.items()
    )
    led = _ways(tuple(port for port in ports if port.way))
    asked = _set("resolvers", "ipv4_addr", (b.resolver for b in bridges if b.resolver))
    return f"""table bridge {table} {{
{owned}{asked} set busy {{
  type ifname
  flags dynamic
  size 65535
  timeout 10s
 }}
 chain guard {{
  type filter hook prerouting priority -300; policy accept;
  iifname != "{prefix}e*" accept
  ether type ip iifname . ether saddr . ip saddr @owners ip daddr != @resolvers accept
  iifname . ether saddr != @senders drop
  ether type arp iifname . arp saddr ether != @senders drop
  ether type arp iifname . arp saddr ip != @addresses drop
  ether type arp accept
  ether type ip6 goto six
  ether type ip iifname . ip saddr != @addresses jump forwarded
  ip daddr @resolvers meta l4proto udp meta length > {LONGEST} drop
  ip daddr @resolvers add @busy {{ iifname limit rate over {QUESTIONS} }} drop
  ether type ip accept
  drop
 }}
{SIX}{led}}}
"""


def _ways(ports: tuple[Port, ...]) -> str:
    """Bridges do not know conversations; the host does (a bridge's own conntrack is not in every
    kernel). So it gets these packets as if they were for it, and routes them.
    """
    if not ports:
        return ""
    out = ", ".join(f'"{port.link}" : {port.way}' for port in ports)
    back = ", ".join(f"{mac} : {way}" for mac, way in {p.mac: p.way for p in ports}.items())
    return f""" map out {{
  type ifname : ether_addr
  elements = {{ {out} }}
 }}
 map back {{
  type ether_addr : ether_addr
  elements = {{ {back} }}
 }}
 chain lead {{
  type filter hook prerouting priority -290; policy accept;
  icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
  ether type != {{ ip, ip6 }} accept
  ether daddr set iifname map @out meta pkttype set host accept
  ether daddr set ether daddr map @back meta pkttype set host
 }}
"""


def _sets(bridges: tuple[Bridge, ...], published: tuple[Door, ...]) -> str:
    led = [b for b in bridges if not b.internal]
    ports = {"anywhere": "", "anywhere6": "", "published": "ipv4_addr . ",
             "published6": "ipv6_addr . "}  # fmt: skip
    return (
        _set("gateways", "ifname . ipv4_addr", (f'"{b.link}" . {b.gateway}' for b in led))
        + _set(
            "gateways6", "ifname . ipv6_addr", (f'"{b.link}" . {b.gateway6}' for b in led
                                                if b.gateway6),
        )
        + _set("homes", "ifname . ipv4_addr", (f'"{b.link}" . {b.subnet}' for b in bridges),
               "interval")
        + _set("homes6", "ifname . ipv6_addr", (f'"{b.link}" . {b.subnet6}' for b in bridges
                                                if b.subnet6), "interval")
        + _set("same", "ifname . ifname", (f'"{b.link}" . "{b.link}"' for b in bridges))
        + _set("internal", "ifname", (f'"{b.link}"' for b in bridges if b.internal))
        + _set("routed", "ipv4_addr", (b.subnet for b in led), "interval")
        + _set("routed6", "ipv6_addr", (b.subnet6 for b in led if b.subnet6), "interval")
        + "".join(
            _set(
                name,
                f"{kind}inet_proto . inet_service",
                (_element_of(door) for door in published if _set_of(door) == name),
            )
            for name, kind in ports.items()
        )
    )  # fmt: skip


KINDS = ("bridge", "veth")
"""Links that networks of machines are made of."""

OF_OTHERS = {
    (True, True): "  jump others\n",
    (True, False): "  meta nfproto ipv4 jump others\n",
    (False, True): "  meta nfproto ipv6 jump others\n",
    (False, False): "",
}
"""What is forwarded for nobody of ours: where cove made the host a router, it is one for cove."""


NAMED = re.compile(r'[^"*\\\x00-\x20\x7f\ufffd]+')
"""Names of links as a rule can have them, between quotation marks."""


def _others(closed: tuple[str, ...]) -> str:
    """Between the host's own links, hardware and tunnels, nothing is forwarded. Bridges and pairs
    that came after cove had switched forwarding on are of somebody else who has networks (Docker,
    libvirt, cove with another state directory): whoever makes such finds forwarding on already, and
    cannot tell that he wants it. What of them may be reached is for his rules to say. What a bridge
    hands from port to port comes by here too, where br_netfilter is: the host forwards none of it.
    A link that was there and that no rule can name would pass for one that came: then none does.
    """
    named = [link for link in closed if NAMED.fullmatch(link)]
    kinds = ", ".join(f'"{kind}"' for kind in KINDS)
    came = f"""  meta iifkind {{ {kinds} }} iifname != @closed accept
  meta oifkind {{ {kinds} }} oifname != @closed accept
"""
    return f"""{_set("bridged", "ifname . ifname", (f'"{b}" . "{b}"' for b in named))}{
        _set("closed", "ifname", (f'"{b}"' for b in named))
    } chain others {{
  iifname . oifname @bridged accept
{came if len(named) == len(closed) else ""}  drop
 }}
"""


def _passing(mine: str) -> str:
    """What leaves by the host, and what comes in. What a machine forwards is between its networks:
    by the host goes what is from its own. Who is asked learns how much the way there takes at once
    (less than 1500 bytes where a tunnel is in it): what would tell him later many firewalls drop.
    """
    return f""" chain sender {{
  ip6 saddr fe80::/10 return
  meta nfproto ipv4 iifname . ip saddr != @homes drop
  meta nfproto ipv6 iifname . ip6 saddr != @homes6 drop
 }}
 chain leaving {{
  jump sender
  oifname {mine} drop
  iifname @internal drop
  ip daddr {{ {NOWHERE} }} drop
  ip6 daddr {{ {NOWHERE6} }} drop
  tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  accept
 }}
 chain entering {{
  oifname @internal drop
  ct state established,related accept
  drop
 }}
"""


def _inet_table(
    table: str,
    prefix: str,
    bridges: tuple[Bridge, ...],
    published: tuple[Door, ...],
    others: str,
    rest: str,
) -> str:
    mine = f'"{prefix}b*"'
    return f"""table inet {table} {{
{_sets(bridges, published)} chain early {{
  type filter hook prerouting priority -300; policy accept;
  iifname != {mine} accept
  ip daddr 127.0.0.0/8 drop
  ip saddr 127.0.0.0/8 drop
  ip6 daddr {{ ::1, ::ffff:0:0/96 }} drop
  ip6 saddr {{ ::1, ::ffff:0:0/96 }} drop
 }}
 chain input {{
  type filter hook input priority {PRIORITY}; policy accept;
  iifname != {mine} accept
  icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
  jump sender
  ct state established,related accept
  icmp type echo-request iifname . ip daddr @gateways accept
  icmpv6 type echo-request iifname . ip6 daddr @gateways6 accept
  iifname @internal drop
  meta nfproto ipv4 meta l4proto . th dport @anywhere accept
  meta nfproto ipv6 meta l4proto . th dport @anywhere6 accept
  ip daddr . meta l4proto . th dport @published accept
  ip6 daddr . meta l4proto . th dport @published6 accept
  drop
 }}
 chain forward {{
  type filter hook forward priority {PRIORITY}; policy accept;
  iifname . oifname @same accept
  iifname {mine} jump leaving
  oifname {mine} jump entering
{rest} }}
{others}{_passing(mine)} chain out {{
  type nat hook postrouting priority 100; policy accept;
  ip saddr @routed oifname != {mine} masquerade
  ip6 saddr @routed6 oifname != {mine} masquerade
 }}
}}
"""
