"""Policies for what machines begin, in the kernel: made of records; what was refused read back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from cove.errors import HostError
from cove.linux.network.nftables import Nftables
from cove.planner.networks import outgoing
from cove.planner.networks.outgoing import Ruled
from cove.store.records import Refused

MOST = 512
"""Destinations that are told of a machine."""


class Outgoing:
    """Of one state directory."""

    def __init__(self, tag: str) -> None:
        self._prefix, self._table = tag, outgoing.table_of(tag)
        self._nftables = Nftables()
        self._made = True
        """There may be a table."""

    def close(self) -> None:
        self._nftables.close()

    def make(self, ruled: Sequence[Ruled]) -> None:
        """These machines' rules and nobody else's; what was refused to them is kept."""
        if not ruled:
            if self._made:
                self._run(outgoing.delete(self._table))
            self._made = False
            return
        self._made = True
        gone = self._keys() - {each.key for each in ruled}
        self._run(outgoing.whole(self._table, self._prefix, ruled, gone))

    def add(self, ruled: Ruled) -> bool:
        """One machine more. False: others' rules are not there either, and are to be made anew."""
        self._made = True
        return not self._nftables.run(outgoing.one(self._table, ruled))

    def refused(self, key: int) -> tuple[tuple[Refused, ...], int]:
        """What a machine was refused, the last first, and how many packets."""
        found: list[Refused] = []
        for name in outgoing.SETS:
            found += self._members(outgoing.set_of(key, name))
        found.sort(key=lambda each: (-each.last, each.address, each.port))
        return tuple(found[:MOST]), self._count(key)

    def _members(self, name: str) -> Iterator[Refused]:
        now, whole = time.time(), outgoing.HOURS * 3600
        for item in self._list(f"list set inet {self._table} {name}"):
            for element in item.get("set", {}).get("elem", ()):
                fields = element["elem"]
                address, protocol, *port = fields["val"]["concat"]
                counted = fields.get("counter", {})
                yield Refused(
                    address, str(protocol), int(port[0]) if port else 0,
                    counted.get("packets", 0), now - whole + fields.get("expires", whole),
                )  # fmt: skip

    def _count(self, key: int) -> int:
        found = self._list(f"list counter inet {self._table} {outgoing.counter_of(key)}")
        return sum(item.get("counter", {}).get("packets", 0) for item in found)

    def _keys(self) -> set[int]:
        """Of the machines that have rules."""
        chains = (item.get("chain", {}) for item in self._list("list chains inet"))
        mine = (chain["name"] for chain in chains if chain.get("table") == self._table)
        found = (re.fullmatch(r"m([0-9]+)", name) for name in mine)
        return {int(match[1]) for match in found if match}

    def _list(self, program: str) -> list[dict[str, Any]]:
        """Empty, where somebody took it away."""
        text = self._nftables.read(program)
        found: list[dict[str, Any]] = json.loads(text)["nftables"] if text else []
        return found

    def _run(self, program: str) -> None:
        said = self._nftables.run(program)
        if said:
            raise HostError(
                "cannot keep a network policy: the kernel took no rules for it",
                host=said[:300],
                hint="nf_tables must have conntrack, sets with timeouts and reject",
            )
