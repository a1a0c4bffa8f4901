"""What machines may begin, as a program for nf_tables. Pure.

A table of its own in the host's network, which other rules are made anew beside: what was refused
is remembered in it. The bridge leads every packet of such a machine, and every one to it, through
the host (``firewall``), where conversations are known. So only who begins one is asked here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cove.spec.policy import Allow, Policy

PRIORITY = -150
"""Behind conntrack (-200): what a machine answers to others it has not begun."""

REMEMBERED = 1024
"""Destinations of one machine in each of its sets."""
HOURS = 24
"""That a destination is remembered after the last attempt."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """A machine with a policy, by its key, and where it is."""

    key: int
    policy: Policy
    senders: tuple[tuple[str, str], ...]
    """Bridge and address of each place, of both families."""
    resolvers: tuple[str, ...]


def table_of(tag: str) -> str:
    return f"{tag}p"


def chain_of(key: int) -> str:
    return f"m{key}"


SETS = {
    "ports": "ipv4_addr . inet_proto . inet_service",
    "ports6": "ipv6_addr . inet_proto . inet_service",
    "other": "ipv4_addr . inet_proto",
    "other6": "ipv6_addr . inet_proto",
}
"""Of each machine: what was refused, with ports and of what has none."""


def set_of(key: int, name: str) -> str:
    return f"r{key}{name}"


def counter_of(key: int) -> str:
    return f"c{key}"


def delete(table: str) -> str:
    return f"add table inet {table}\ndelete table inet {table}\n"


def whole(table: str, prefix: str, ruled: Iterable[Ruled], gone: Iterable[int] = ()) -> str:
    """Every rule anew, in place of those that are there; what was refused is kept. ``gone``: keys
    of machines that are not among them any more.
    """
    ours, rules = f'"{prefix}b*"', f"add rule inet {table}"
    base = (
        f"add table inet {table}\n"
        f"add map inet {table} senders {{ type ifname . ipv4_addr : verdict; }}\n"
        f"add map inet {table} senders6 {{ type ifname . ipv6_addr : verdict; }}\n"
        f"flush map inet {table} senders\nflush map inet {table} senders6\n"
        f"add chain inet {table} outgoing "
        f"{{ type filter hook prerouting priority {PRIORITY}; policy accept; }}\n"
        f"flush chain inet {table} outgoing\n"
        f"{rules} outgoing iifname != {ours} accept\n"
        f"{rules} outgoing ct state established accept\n"
        f"{rules} outgoing ct state related meta l4proto {{ icmp, ipv6-icmp }} accept\n"
        f"{rules} outgoing iifname . ip saddr vmap @senders\n"
        f"{rules} outgoing iifname . ip6 saddr vmap @senders6\n"
        # Who is led through the host is not to be told of the shorter way.
        f"add chain inet {table} answers {{ type filter hook output priority 0; policy accept; }}\n"
        f"flush chain inet {table} answers\n"
        f"{rules} answers oifname {ours} icmp type redirect drop\n"
        f"{rules} answers oifname {ours} icmpv6 type nd-redirect drop\n"
    )
    ended = "".join(_removed(table, key) for key in gone)
    return base + ended + "".join(one(table, each) for each in ruled)


def one(table: str, ruled: Ruled) -> str:
    """The rules of a machine, in place of those that are there."""
    chain, rule = chain_of(ruled.key), f"add rule inet {table} {chain_of(ruled.key)}"
    made = "".join(
        f"add set inet {table} {set_of(ruled.key, name)} {{ type {kind}; flags dynamic,timeout; "
        f"size {REMEMBERED}; timeout {HOURS}h; }}\n"
        for name, kind in SETS.items()
    )
    made += f"add counter inet {table} {counter_of(ruled.key)}\n"
    made += f"add chain inet {table} {chain}\nflush chain inet {table} {chain}\n"
    # Neighbours are asked for and told in one form only, which the bridge has looked at.
    words = ["icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }"]
    words += [word for allow in ruled.policy.allow for word in _allowed(allow)]
    if ruled.policy.dns:
        words += [f"ip daddr {own} {p} dport 53" for own in ruled.resolvers for p in ("tcp", "udp")]
    made += "".join(f"{rule} {word} accept\n" for word in words)
    # What a kernel says by itself to groups of its link is nobody's attempt.
    made += f"{rule} ip protocol igmp drop\n{rule} icmpv6 type {{ 131, 132, 143 }} drop\n"
    made += f"{rule} counter name {counter_of(ruled.key)}\n"
    for name in SETS:
        six, ported = name.endswith("6"), name.startswith("ports")
        key = f"{'ip6' if six else 'ip'} daddr . meta l4proto{' . th dport' if ported else ''}"
        made += (
            f"{rule} meta nfproto {'ipv6' if six else 'ipv4'} "
            f"meta l4proto {'' if ported else '!= '}{{ tcp, udp }} "
            f"update @{set_of(ruled.key, name)} {{ {key} counter }}\n"
        )
    made += f"{rule} meta l4proto tcp reject with tcp reset\n"
    made += f"{rule} reject with icmpx admin-prohibited\n{rule} drop\n"
    for link, address in ruled.senders:
        senders = "senders6" if ":" in address else "senders"
        made += f'add element inet {table} {senders} {{ "{link}" . {address} : goto {chain} }}\n'
    return made


def _allowed(allow: Allow) -> list[str]:
    six = ":" in allow.network
    where = f"{'ip6' if six else 'ip'} daddr {allow.network}"
    if allow.protocol == "icmp":
        return [f"{where} meta l4proto {'ipv6-icmp' if six else 'icmp'}"]
    if not allow.first:
        return [f"{where} meta l4proto {allow.protocol}" if allow.protocol else where]
    ports = f"{allow.first}-{allow.last}" if allow.last > allow.first else f"{allow.first}"
    protocols = (allow.protocol,) if allow.protocol else ("tcp", "udp")
    return [f"{where} {protocol} dport {ports}" for protocol in protocols]


def _removed(table: str, key: int) -> str:
    """Of a machine that is gone; nothing leads to its chain any more."""
    chain = chain_of(key)
    sets = "".join(f"delete set inet {table} {set_of(key, name)}\n" for name in SETS)
    return (
        f"flush chain inet {table} {chain}\ndelete chain inet {table} {chain}\n{sets}"
        f"delete counter inet {table} {counter_of(key)}\n"
    )
