"""The golden command lines of QEMU: a folder each, with ``guest.json`` and one ``<facts>.qemu`` for
each host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cove.planner.virtual.qemu import Guest, Option, plan_qemu, render
from tests.golden.cases import HERE, load_facts


@dataclass(frozen=True)
class GuestCase:
    name: str
    host: str

    @property
    def golden(self) -> Path:
        return HERE / self.name / f"{self.host}.qemu"

    def guest(self) -> Guest:
        data: dict[str, Any] = json.loads((HERE / self.name / "guest.json").read_text())
        return msgspec.convert(data["guest"], Guest)

    def options(self) -> tuple[Option, ...]:
        return plan_qemu(self.guest(), load_facts(self.host))

    def text(self) -> str:
        return render(self.guest(), self.options())


def guest_cases() -> Iterator[GuestCase]:
    for path in sorted(HERE.glob("*/guest.json")):
        for host in json.loads(path.read_text())["facts"]:
            yield GuestCase(path.parent.name, host)
