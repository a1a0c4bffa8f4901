"""What is measured: each function is one row of budgets in the design."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Series, interleave
from benchmarks.peers import Peer, base_env

SLEEP = ["sleep", "100000"]
CHATTER = "while :; do echo line; sleep 0.01; done"


class Cove:
    """A cove with a state directory of its own, and its daemon."""

    def __init__(self, place: Path, command: str) -> None:
        self.root, self.command, self.place = place / "cove", command, place
        self.env = base_env() | {"COVE_ROOT": str(self.root), "COVE_DEFAULT_NETWORK": "none"}
        self.peer = Peer(
            "cove",
            self.env,
            run=[command, "run", "--rm", "--network", "none", "bb", "true"],
            start=[command, "run", "-d", "--network", "none", "--name", "{}", "bb", *SLEEP],
            execute=[command, "exec", "{}", "true"],
            remove=[command, "rm", "-f", "{}"],
            list=[command, "ps"],
        )

    def do(self, *words: str) -> str:
        done = subprocess.run(
            [self.command, *words], env=self.env, check=True, capture_output=True, text=True
        )
        return done.stdout

    def open(self) -> None:
        self.do("image", "import", str(self.place / "bb.tar"), "bb")

    def stop(self) -> None:
        """End the daemon only: machines would go on."""
        subprocess.run([self.command, "daemon", "stop"], env=self.env, capture_output=True)

    def close(self) -> None:
        if left := self.do("ps", "-aq").split():
            self.do("rm", "-f", *left)
        self.stop()


def run(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
    """run --rm IMAGE true, no network: command to exit"""
    return interleave({p.name: lambda p=p: p.time(p.run) for p in peers if p.run}, rounds)


def execute(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
    """exec M true in a running machine"""
    able = [p for p in peers if p.execute]
    for peer in able:
        peer.time(peer.start, "bench-exec")
    try:
        return interleave(
            {p.name: lambda p=p: p.time(p.execute, "bench-exec") for p in able},
            rounds,
        )
    finally:
        for peer in able:
            peer.time(peer.remove, "bench-exec")


def detached(count: int) -> Callable[[Cove, list[Peer], int], list[Series]]:
    def work(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
        rows = []
        for peer in [p for p in peers if p.start]:
            row = Series(peer.name)
            begin = time.perf_counter()
            for number in range(count):
                took, code = peer.time(peer.start, f"bench-{number}")
                row.times.append(took)
                row.failed += code != 0
            each = (time.perf_counter() - begin) * 1e3 / count
            print(f"  {peer.name}: {count} starts, {each:.1f} ms each")
            for number in range(count):
                peer.time(peer.remove, f"bench-{number}")
            rows.append(row)
        return rows

    work.__doc__ = f"{count} detached starts in a row"
    return work


def busy(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
    """run --rm IMAGE true while a load and ten logs -f keep cove's daemon busy"""
    cove.do("run", "-d", "--name", "talk", "bb", "sh", "-c", CHATTER)
    follow = [cove.command, "logs", "-f", "talk"]
    followers = [
        subprocess.Popen(follow, env=cove.env, stdout=subprocess.DEVNULL) for _ in range(10)
    ]
    big = cove.place / "big.tar"
    make_big(cove.place / "big", big)
    script = f'while :; do "$0" image import "{big}" big; "$0" image rm -f big; done'
    loading = subprocess.Popen(
        ["sh", "-c", script, cove.command],
        env=cove.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    able = [p for p in peers if p.name in {"cove", "crun", "docker"}]
    try:
        return run(cove, able, rounds)
    finally:
        os.killpg(loading.pid, signal.SIGKILL)
        for child in (*followers, loading):
            child.kill()
            child.wait()
        cove.do("rm", "-f", "talk")


def make_big(tree: Path, archive: Path) -> None:
    for number in range(2000):
        path = tree / str(number % 40) / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(8192))
    subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)


def listing(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
    """ps with 50 machines running"""
    able = [p for p in peers if p.list and p.name not in {"crun with cgroups", "runc", "ctr"}]
    for peer in able:
        for number in range(50):
            peer.time(peer.start, f"bench-{number}")
    try:
        return interleave({p.name: lambda p=p: p.time(p.list) for p in able}, rounds)
    finally:
        for peer in able:
            for number in range(50):
                peer.time(peer.remove, f"bench-{number}")


def first(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
    """the very first command with no daemon running: run --rm IMAGE echo"""
    row = Series("cove")
    for _ in range(min(rounds, 10)):
        cove.stop()
        took, code = cove.peer.time(cove.peer.run)
        row.times.append(took)
        row.failed += code != 0
    return [row]


def memory(cove: Cove, peers: list[Peer], rounds: int) -> list[Series]:
    """KiB (not ms): PSS of one machine's monitor, and RSS of the idle daemon"""
    names = [f"bench-{number}" for number in range(20)]
    for name in names:
        cove.peer.time(cove.peer.start, name)
    monitors, daemon = Series("monitor PSS"), Series("daemon RSS")
    for pid in cove.do("inspect", "-f", "{{.State.Pid}}", *names).split():
        parent = int(_kib(f"/proc/{pid}/status", "PPid:"))
        monitors.times.append(_kib(f"/proc/{parent}/smaps_rollup", "Pss:"))
    pid = (cove.root / "run/daemon.pid").read_text().strip()
    daemon.times.append(_kib(f"/proc/{pid}/status", "VmRSS:"))
    for name in names:
        cove.peer.time(cove.peer.remove, name)
    return [monitors, daemon]


def _kib(path: str, key: str) -> float:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return float(line.split()[1])
    return float("nan")


Work = Callable[[Cove, list[Peer], int], list[Series]]
WORKS: dict[str, Work] = {
    "run": run,
    "exec": execute,
    "detached-50": detached(50),
    "detached-200": detached(200),
    "ps": listing,
    "first": first,
    "memory": memory,
    "busy": busy,
}
