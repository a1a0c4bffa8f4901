"""python -m benchmarks.api: Docker's Engine API, asked by docker-py, of cove and of dockerd.

Both are asked in turns by the same client, so that a neighbour's load hits both. dockerd takes part
where BENCH_DOCKER names its socket; `python -m benchmarks` says how one is begun beside the host's
own. Machines are containers of busybox without a network, as nothing else is there for both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import environ
from pathlib import Path
from typing import Any

import docker

from benchmarks import peers, works

MANY = 500
STARTS = 1000
LOG = 100_000_000
LINE = b"x" * 99 + b"\n"
TALK = f"busybox yes {LINE[:-1].decode()} | busybox head -c {LOG}"
ALONE: dict[str, Any] = {"network_mode": "none", "log_config": {"type": "json-file"}}

Work = Callable[["Side"], float]
"""Milliseconds, of one round."""


class Side:
    """A daemon, and what was made for it ahead."""

    def __init__(self, name: str, socket: str, place: Path) -> None:
        self.name, self.address = name, f"unix://{socket}"
        self.client = docker.DockerClient(base_url=self.address, timeout=600)
        with open(place / "bb.tar", "rb") as tar:
            self.client.api.import_image_from_data(tar.read(), repository="bb", tag="latest")
        self.one = self.client.containers.run("bb", ["sleep", "100000"], detach=True, **ALONE)
        self.said = self.client.containers.run("bb", ["sh", "-c", TALK], detach=True, **ALONE)
        self.said.wait()

    def close(self) -> None:
        for left in self.client.containers.list(all=True):
            left.remove(force=True)
        self.client.close()


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def life(side: Side) -> float:
    """create, start, wait, remove"""

    def whole() -> None:
        made = side.client.containers.create("bb", ["true"], **ALONE)
        made.start()
        made.wait()
        made.remove()

    return timed(whole)


def execute(side: Side) -> float:
    """exec of true, attached"""
    return timed(lambda: side.one.exec_run(["true"]))


def inspect(side: Side) -> float:
    """inspect"""
    return timed(lambda: side.client.api.inspect_container(side.one.id))


def listed(side: Side) -> float:
    """list of 500"""
    found: list[object] = []
    spent = timed(lambda: found.extend(side.client.api.containers(all=True)))
    assert len(found) >= MANY, len(found)
    return spent


def logs(side: Side) -> float:
    """logs of 100 MB"""

    def whole() -> None:
        size = sum(map(len, side.said.logs(stream=True, follow=False)))
        assert size == LOG, size

    return timed(whole)


def attach(side: Side) -> float:
    """attach, 100 MB out"""
    made = side.client.containers.create("bb", ["sh", "-c", TALK], **ALONE)
    try:
        stream = made.attach(stream=True, stdout=True, stderr=True)
        made.start()
        spent = timed(lambda: sum(map(len, stream)))
        made.wait()
        return spent
    finally:
        made.remove(force=True)


def made_many(side: Side, count: int) -> list[str]:
    alone = side.client.api.create_host_config(**ALONE)
    return [
        side.client.api.create_container("bb", ["true"], host_config=alone)["Id"]
        for _ in range(count)
    ]


def events(side: Side) -> float:
    """events of 1,000 starts, 8 at once"""
    seen = side.client.events(decode=True, filters={"event": ["start"]})
    made = made_many(side, STARTS)

    def starts(part: list[str]) -> None:
        mine = docker.APIClient(base_url=side.address, timeout=600)
        for one in part:
            mine.start(one)
        mine.close()

    def whole() -> None:
        threads = [threading.Thread(target=starts, args=(made[n::8],)) for n in range(8)]
        for thread in threads:
            thread.start()
        left = set(made)
        while left:
            left.discard(next(seen)["id"])
        for thread in threads:
            thread.join()

    spent = timed(whole)
    seen.close()
    for one in made:
        side.client.api.remove_container(one, force=True)
    return spent


@contextmanager
def many(side: Side) -> Iterator[None]:
    made = made_many(side, MANY)
    yield
    for one in made:
        side.client.api.remove_container(one)


WORKS: dict[str, tuple[Work, int]] = {
    "life": (life, 60),
    "exec": (execute, 60),
    "inspect": (inspect, 300),
    "list": (listed, 20),
    "logs": (logs, 5),
    "attach": (attach, 5),
    "events": (events, 1),
}


def measure(sides: list[Side], name: str) -> str:
    work, rounds = WORKS[name]
    spent: dict[str, list[float]] = {side.name: [] for side in sides}
    with ExitStack() as stack:
        if work is listed:
            for side in sides:
                stack.enter_context(many(side))
        for _ in range(rounds):
            for side in sides:
                spent[side.name].append(work(side))
    middle = {side: statistics.median(times) for side, times in spent.items()}
    row = f"{(work.__doc__ or name):32}" + "".join(f"{middle[s.name]:12.2f}" for s in sides)
    if len(sides) > 1:
        row += f"{middle[sides[1].name] / middle[sides[0].name]:14.2f}"
    return row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api")
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--cove", default=str(Path(sys.executable).parent / "cove"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cove-bench-", dir="/tmp") as scratch:
        place = Path(scratch)
        peers.make_root(place)
        cove = works.Cove(place, asked.cove)
        sides: list[Side] = []
        try:
            here = cove.do("system", "docker-socket").strip().removeprefix("unix://")
            sides.append(Side("cove", here, place))
            if there := environ.get("BENCH_DOCKER"):
                sides.append(Side("dockerd", there, place))
            else:
                print(f"dockerd is not asked. To have it:\n{peers.HOW}")
            print(f"{'median, ms':32}" + "".join(f"{side.name:>12}" for side in sides), end="")
            print(f"{'dockerd/cove':>14}" if len(sides) > 1 else "")
            for name in asked.works or WORKS:
                print(measure(sides, name), flush=True)
        finally:
            for side in sides:
                side.close()
            cove.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
