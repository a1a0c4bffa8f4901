"""What keeps networks apart, as a program for nf_tables. Pure.

Two tables of cove's own, which nothing of the host's is in. Whatever comes from an interface with
cove's prefix is dropped unless a rule says otherwise: a link that is there before its rules, or
after them, reaches nobody. Verdicts of other tables stand: what the host's firewall drops, stays
dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PRIORITY = -10
"""Before the host's own filters (0): their verdicts come on top."""

QUESTIONS = "5000/second burst 1000 packets"
"""Of one machine to its name server."""


@dataclass(frozen=True, slots=True)
class Bridge:
    link: str
    subnet: str
    gateway: str
    internal: bool
    resolver: str = ""
    """The address of its name server, behind a port of its own."""


@dataclass(frozen=True, slots=True)
class Port:
    """The host's end of one machine's link, and the only sender that may be behind it."""

    link: str
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class Door:
    """A published port of the host."""

    ip: str
    port: int
    protocol: str


def everywhere(ip: str) -> bool:
    """Whether who listens there does so on every address of the host."""
    return ip == "0.0.0.0"


def doors(table: str, published: Iterable[Door], *, add: bool) -> str:
    """Ports of the host that machines may speak to, more of them or less."""
    verb = "add" if add else "delete"
    return "".join(
        f"{verb} element inet {table} anywhere {{ {d.protocol} . {d.port} }}\n"
        if everywhere(d.ip)
        else f"{verb} element inet {table} published {{ {d.ip} . {d.protocol} . {d.port} }}\n"
        for d in published
        if ":" not in d.ip
    )


def elements(table: str, port: Port, *, add: bool) -> str:
    """One port more, or one less."""
    verb = "add" if add else "delete"
    return (
        f'{verb} element bridge {table} senders {{ "{port.link}" . {port.mac} }}\n'
        f'{verb} element bridge {table} addresses {{ "{port.link}" . {port.address} }}\n'
    )


def delete(table: str) -> str:
    """Both tables, whether they are there or not."""
    return "".join(
        f"add table {family} {table}\ndelete table {family} {table}\n"
        for family in ("inet", "bridge")
    )


def whole(
    table: str,
    prefix: str,
    bridges: Iterable[Bridge],
    ports: Iterable[Port],
    published: Iterable[Door] = (),
    *,
    router: bool,
) -> str:
    """Everything anew. ``router``: the host forwards packets for cove, and for nobody else."""
    bridges, ports = tuple(bridges), tuple(ports)
    return (
        delete(table)
        + _bridge_table(table, prefix, bridges, ports)
        + _inet_table(table, prefix, bridges, tuple(published), router=router)
    )


def _set(name: str, kind: str, members: Iterable[str], flags: str = "") -> str:
    listed = ", ".join(members)
    more = f"  flags {flags}\n" if flags else ""
    inside = f"  elements = {{ {listed} }}\n" if listed else ""
    return f" set {name} {{\n  type {kind}\n{more}{inside} }}\n"


def _bridge_table(
    table: str, prefix: str, bridges: tuple[Bridge, ...], ports: tuple[Port, ...]
) -> str:
    """Frames as they leave a machine: from its own MAC and address, or not at all; to the name
    server no more than it could answer, so that nobody's questions are lost for another's.
    """
    senders = _set("senders", "ifname . ether_addr", (f'"{p.link}" . {p.mac}' for p in ports))
    owned = _set("addresses", "ifname . ipv4_addr", (f'"{p.link}" . {p.address}' for p in ports))
    asked = _set("resolvers", "ipv4_addr", (b.resolver for b in bridges if b.resolver))
    return f"""table bridge {table} {{
{senders}{owned}{asked} set busy {{
  type ifname
  flags dynamic
  size 65535
  timeout 10s
 }}
 chain guard {{
  type filter hook prerouting priority -300; policy accept;
  iifname != "{prefix}e*" accept
  iifname . ether saddr != @senders drop
  ether type arp iifname . arp saddr ether != @senders drop
  ether type arp iifname . arp saddr ip != @addresses drop
  ether type arp accept
  ether type ip iifname . ip saddr != @addresses drop
  ip daddr @resolvers add @busy {{ iifname limit rate over {QUESTIONS} }} drop
  ether type ip accept
  drop
 }}
}}
"""


def _sets(bridges: tuple[Bridge, ...], published: tuple[Door, ...]) -> str:
    return (
        _set(
            "gateways",
            "ifname . ipv4_addr",
            (f'"{b.link}" . {b.gateway}' for b in bridges if not b.internal),
        )
        + _set("same", "ifname . ifname", (f'"{b.link}" . "{b.link}"' for b in bridges))
        + _set("internal", "ifname", (f'"{b.link}"' for b in bridges if b.internal))
        + _set("routed", "ipv4_addr", (b.subnet for b in bridges if not b.internal), "interval")
        + _set(
            "anywhere",
            "inet_proto . inet_service",
            (f"{d.protocol} . {d.port}" for d in published if everywhere(d.ip)),
        )
        + _set(
            "published",
            "ipv4_addr . inet_proto . inet_service",
            (
                f"{d.ip} . {d.protocol} . {d.port}"
                for d in published
                if not everywhere(d.ip) and ":" not in d.ip
            ),
        )
    )


def _inet_table(
    table: str,
    prefix: str,
    bridges: tuple[Bridge, ...],
    published: tuple[Door, ...],
    *,
    router: bool,
) -> str:
    mine = f'"{prefix}b*"'
    rest = "  drop\n" if router else ""
    return f"""table inet {table} {{
{_sets(bridges, published)} chain early {{
  type filter hook prerouting priority -300; policy accept;
  iifname != {mine} accept
  ip daddr 127.0.0.0/8 drop
  ip saddr 127.0.0.0/8 drop
  ip6 daddr ::1 drop
 }}
 chain input {{
  type filter hook input priority {PRIORITY}; policy accept;
  iifname != {mine} accept
  ct state established,related accept
  icmp type echo-request iifname . ip daddr @gateways accept
  iifname @internal drop
  meta nfproto ipv4 meta l4proto . th dport @anywhere accept
  ip daddr . meta l4proto . th dport @published accept
  drop
 }}
 chain forward {{
  type filter hook forward priority {PRIORITY}; policy accept;
  iifname . oifname @same accept
  iifname {mine} jump leaving
  oifname {mine} jump entering
{rest} }}
 chain leaving {{
  oifname {mine} drop
  iifname @internal drop
  ip daddr {{ 127.0.0.0/8, 169.254.0.0/16 }} drop
  meta nfproto ipv6 drop
  accept
 }}
 chain entering {{
  oifname @internal drop
  ct state established,related accept
  drop
 }}
 chain out {{
  type nat hook postrouting priority 100; policy accept;
  ip saddr @routed oifname != {mine} masquerade
 }}
}}
"""
