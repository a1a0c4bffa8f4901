"""A line of the table: what was measured, beside its budget."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass
class Row:
    name: str
    budget: float
    unit: str = "ms"
    values: list[float] = field(default_factory=list)

    def line(self) -> str:
        if not self.values:
            return f"  {self.name:66} not measured"
        median = statistics.median(self.values)
        mark = "" if not self.budget else "within" if median <= self.budget else "OVER"
        budget = f"{self.budget:7.0f}" if self.budget else "      -"
        return (
            f"  {self.name:66} {min(self.values):8.1f} {median:8.1f} {max(self.values):8.1f} "
            f"{budget} {self.unit:3} {mark}".rstrip()
        )
