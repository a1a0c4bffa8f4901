"""How much a copy may bring into a machine that does not run: nobody ends a writer there, so the
copy itself ends when the machine's storage limit is reached.
"""

from __future__ import annotations

from cove.engine.home import Home, effective
from cove.errors import HostError
from cove.linux.disk import tree_usage
from cove.spec.values import format_size
from cove.store.records import MachineRecord

PART = 8
"""A byte of an archive may become so many on the disk: a header alone makes a directory."""
LEAST = 1 << 20
"""Bytes between two measurements."""


class Room:
    def __init__(self, home: Home, record: MachineRecord) -> None:
        self._path, self._name = home.store.layout.upper(record.upper), record.name
        self._limit = effective(record.spec.limits).storage
        self._next = 0
        self.most = self._limit + LEAST

    def full(self) -> HostError:
        return HostError(
            f"cannot copy to {self._name}: it has more than its storage limit of "
            f"{format_size(self._limit)} then",
            hint="what came before that has been copied; the limit is set by --storage-opt",
            exit_code=1,
        )

    def check(self, done: int) -> None:
        """After ``done`` bytes of the archive; raises when the machine has more than it may."""
        if done < self._next:
            return
        left = self._limit - tree_usage(self._path)
        if left < 0:
            raise self.full()
        self._next = done + max(left // PART, LEAST)

    def check_all(self) -> None:
        """After the last byte."""
        self._next = 0
        self.check(0)
