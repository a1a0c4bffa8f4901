"""python -m benchmarks.python_api: runs a second from one Python process, beside docker-py's.

Each run makes a machine from the busybox image, runs `true` in it without a network, and removes
it. Both are asked in turns, so that a neighbour's load hits both. docker-py takes part where it is
installed and BENCH_DOCKER names a dockerd's socket.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cove
import cove.aio
from benchmarks import peers

AT_ONCE = 8
Run = Callable[[], object]


def in_turn(run: Run) -> Callable[[int], None]:
    def work(count: int) -> None:
        for _ in range(count):
            run()

    return work


def by_threads(run: Run) -> Callable[[int], None]:
    def work(count: int) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda _: run(), range(count)))

    return work


def by_tasks(root: str) -> Callable[[int], None]:
    client = cove.aio.connect(root)

    async def main(count: int) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with turn:
                await client.run("bb", ["true"], network="none", check=True)

        await asyncio.gather(*(one() for _ in range(count)))

    return lambda count: asyncio.run(main(count))


def docker_run(archive: Path) -> Run | None:
    socket = os.environ.get("BENCH_DOCKER")
    try:
        import docker
    except ImportError:
        return None
    if not socket:
        return None
    client = docker.DockerClient(base_url=f"unix://{socket}", max_pool_size=2 * AT_ONCE)
    client.api.import_image(str(archive), repository="bb", tag="latest")
    return lambda: client.containers.run("bb", ["true"], network_mode="none", remove=True)


def measure(contestants: dict[str, tuple[Callable[[int], None], int]], rounds: int) -> None:
    """In each round everybody has a turn of his own size."""
    took = dict.fromkeys(contestants, 0.0)
    for work, _ in contestants.values():
        work(AT_ONCE)
    for _ in range(rounds):
        for name, (work, count) in contestants.items():
            begun = time.perf_counter()
            work(count)
            took[name] += time.perf_counter() - begun
    for name, (_, count) in contestants.items():
        runs = rounds * count
        rate, each = runs / took[name], took[name] * 1e3 / runs
        print(f"  {name:34} {runs:6} runs {rate:8.1f} a second {each:9.2f} ms each")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.python_api", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--docker-runs", type=int, default=50)
    options = parser.parse_args()
    rounds = 10
    with tempfile.TemporaryDirectory(prefix="cove-bench-") as directory:
        place = Path(directory)
        peers.make_root(place)
        archive = place / "bb.tar"
        client = cove.connect(f"{directory}/cove")
        client.images.import_tar(archive, "bb")
        ours, few = options.runs // rounds, max(1, options.docker_runs // rounds)

        def run() -> None:
            client.run("bb", ["true"], network="none", check=True)

        contestants = {
            "cove.run": (in_turn(run), ours),
            f"cove.run, {AT_ONCE} threads": (by_threads(run), ours),
            f"cove.aio.run, {AT_ONCE} at once": (by_tasks(f"{directory}/cove"), ours),
        }
        theirs = docker_run(archive)
        if theirs is None:
            print(f"not here: docker-py with a dockerd (BENCH_DOCKER).\n{peers.HOW}")
        else:
            contestants |= {
                "docker-py": (in_turn(theirs), few),
                f"docker-py, {AT_ONCE} threads": (by_threads(theirs), few * 2),
            }
        try:
            measure(contestants, rounds)
        finally:
            command = [sys.executable, "-m", "cove.cli.start", "daemon", "stop"]
            environment = {**os.environ, "COVE_ROOT": f"{directory}/cove"}
            subprocess.run(command, env=environment, capture_output=True, check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
