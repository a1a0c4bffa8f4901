"""What a machine wrote, with marks before its lines."""

from __future__ import annotations

from dataclasses import dataclass, field

from cove.engine import calls
from cove.shown.units import stamp_ns


@dataclass
class Marked:
    """Output with something before each line: its time, and the details, of which there are none,
    as the blank that Docker writes then. ``fresh``: streams whose next byte begins a line.
    """

    times: bool
    details: bool
    fresh: set[int] = field(default_factory=lambda: {1, 2})

    def lines(self, entry: calls.LogEntry) -> bytes:
        mark = stamp_ns(entry.time_ns).encode() + b" " if self.times else b""
        mark += b" " * self.details
        data = entry.data
        if not mark or not data:
            return data
        first = mark if entry.stream in self.fresh else b""
        whole = data.endswith(b"\n")
        (self.fresh.add if whole else self.fresh.discard)(entry.stream)
        # Only at line feeds: splitlines() would also cut where a program returns the carriage.
        return first + data[: len(data) - whole].replace(b"\n", b"\n" + mark) + b"\n" * whole
