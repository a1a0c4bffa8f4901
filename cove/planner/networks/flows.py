"""How many flows one machine may have with what is beyond its bridge, as a program for nf_tables.
Pure.

Every flow that the host sees has an entry in its conntrack, of which there are so many for all of
the host: who opens enough of them would cut off everybody, the host itself too. The count is in a
table of its own, because other rules are made anew again and again, and with them it would begin at
nothing.
"""

from __future__ import annotations

from cove.planner.networks.firewall import PRIORITY

MOST = 8192
"""Flows of one address. A kernel has 262,144 for all, if nobody said otherwise. It walks the list
of them for a new one: with 16,384 that takes four times as long."""

HOOKS = ("input", "forward")


def table_of(tag: str) -> str:
    return f"{tag}f"


def delete(table: str) -> str:
    return f"add table inet {table}\ndelete table inet {table}\n"


SETS = (("flows", "ipv4_addr", "ip"), ("flows6", "ipv6_addr", "ip6"))


def sets(table: str) -> str:
    """Of what is there nothing is changed; where the table is not, it is an error."""
    return "".join(
        f"add set inet {table} {name} {{ type {kind}; flags dynamic; size 65535; }}\n"
        for name, kind, _ in SETS
    )


def whole(table: str, prefix: str) -> str:
    """The rules anew, the counts kept. They come behind the rules that refuse: what those drop has
    no entry. What belongs to a flow that is counted already is let go by its state alone.
    """
    made = f"add table inet {table}\n" + sets(table)
    for hook in HOOKS:
        made += (
            f"add chain inet {table} {hook} "
            f"{{ type filter hook {hook} priority {PRIORITY + 1}; policy accept; }}\n"
            f"flush chain inet {table} {hook}\n"
        )
        for name, _, key in SETS:
            made += (
                f'add rule inet {table} {hook} ct state new iifname "{prefix}b*" '
                f"add @{name} {{ {key} saddr ct count over {MOST} }} drop\n"
            )
    return made
