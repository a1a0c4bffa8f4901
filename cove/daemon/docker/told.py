"""What was answered last of machines: most are inspected over and over while nothing changes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from cove.daemon.docker import shapes
from cove.daemon.docker.ask import to_json
from cove.daemon.docker.routes import Version
from cove.engine.calls import Inspected

KEPT = 256
"""Answers of a few KiB each; the one that was asked for least lately goes."""


@dataclass(slots=True)
class Told:
    _of: dict[str, tuple[Inspected, tuple[list[str], Version], bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def inspected(self, seen: Inspected, execs: list[str], version: Version) -> bytes:
        """The document; made only where what it tells of is not what it was."""
        machine, beside = seen.record.id, (execs, version)
        with self._lock:
            held = self._of.pop(machine, None)
        if held is None or held[0] != seen or held[1] != beside:
            document = shapes.inspected_to_docker(seen, version)
            document["ExecIDs"] = execs or None
            held = (seen, beside, to_json(document))
        with self._lock:
            self._of[machine] = held
            while len(self._of) > KEPT:
                del self._of[next(iter(self._of))]
        return held[2]
