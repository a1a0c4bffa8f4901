"""What a test may leave of a daemon that goes on: the machines it has on record, and as many more
as it keeps ready. A fixture for tests that share a daemon, of which no two moments are alike.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cove.engine.slots import READY
from tests.driver import Cove
from tests.leaks import look

PATIENCE = 180.0


def too_much(cove: Cove) -> list[str]:
    """What there is beyond the records and the machines that are kept ready."""
    machines = len(cove("ps", "-aq").out.split())
    most = machines + READY
    seen = look(cove.root)
    found = [f"mount {text}" for text in seen.mounts]
    found += [f"tmp/{name}" for name in os.listdir(cove.root / "tmp")]
    numbers = {
        "machines": len(os.listdir(cove.root / "machines")),
        "roots": len(list((cove.root / "roots").glob("u*"))),
        "sockets": len([p for p in (cove.root / "run").glob("*.sock") if p.stem.isdigit()]),
    }
    found += [f"{count} {kind}, of {most}" for kind, count in numbers.items() if count > most]
    deepest: dict[str, int] = {}
    for name in seen.cgroups:
        if name.rpartition("/")[2].isdigit():
            top = name.rpartition("/")[0]
            deepest[top] = deepest.get(top, 0) + 1
    found += [f"{n} groups in {top}, of {most}" for top, n in deepest.items() if n > most + 1]
    processes = sorted(seen.processes)
    if len(processes) > 3 + 2 * (most + 1):
        found.append(f"{len(processes)} processes for {most} machines: {processes}")
    return found


@pytest.fixture
def settled(cove: Cove) -> Iterator[None]:
    """No machine, file, mount, group or process more than before, but those kept ready."""
    before = cove("ps", "-aq").out.split()
    fds = len(os.listdir("/proc/self/fd"))
    links = set(socket.if_nameindex())
    yield
    late = time.monotonic() + PATIENCE
    while True:
        extra = sorted(set(cove("ps", "-aq").out.split()) - set(before))
        found = [f"machine {name}" for name in extra] + too_much(cove)
        found += [f"link {name}" for _, name in set(socket.if_nameindex()) - links]
        if not found or time.monotonic() > late:
            break
        select.select([], [], [], 0.02)
    if extra:  # the tests after this one are not to be told of it again
        cove("rm", "-f", *extra, code=None)
    assert not found, "left behind:\n  " + "\n  ".join(found)
    assert len(os.listdir("/proc/self/fd")) <= fds


def fds_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
