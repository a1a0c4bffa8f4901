"""What every family of verbs has: the ``Home``, and the machine that somebody names."""

from __future__ import annotations

from cove.engine.home import Home
from cove.engine.machines import stopping
from cove.store.records import MachineRecord


class Verbs:
    """A family of verbs; ``engine.Engine`` is all of them."""

    home: Home

    def _find(self, text: str) -> MachineRecord:
        """The machine called ``text``: its record once whatever has ended is put away."""
        record = self.home.store.find_machine(text)
        if record.key in self.home.lives:
            stopping.settle(self.home, (record.key,))
            # An ephemeral machine may be gone by now: what was found is what is told of it.
            if self.home.store.has_machine(record.key):
                record = self.home.record(record.key)
        return record
