"""A network's price: at the start of a machine beside peers, and in bytes a second between two
machines beside a pair of links made by hand. In a network namespace of its own.

    apt-get install iperf3 cpio
    python -m benchmarks.networks --rounds 10 [--kernel /var/lib/cove/kernels/fast]

With a guest kernel also to and from a virtual machine, beside plain QEMU (``network_vm``).

For docker's own network start its daemon as ``benchmarks/peers.py`` says, without the words
``--bridge=none --iptables=false``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measure import interleave, run_command, table
from benchmarks.network_vm import PlainGuest
from benchmarks.peers import Peer, base_env, make_root, runtime_peers

AGAIN = "COVE_BENCH_NETWORK"
NETWORK, IMAGE = "bench", "bb"
SECONDS = "1"
HAND, BRIDGED = ("192.0.2.1", "192.0.2.2"), ("192.0.3.1", "192.0.3.2")
PLAIN = {True: "192.0.3.3", False: "192.0.3.4"}
"""Guests of plain QEMU, with and without offloads."""


def iperf_tar(root: Path, target: Path) -> None:
    """The busybox root with iperf3 and what it links against."""
    needed = subprocess.run(["ldd", _iperf()], capture_output=True, text=True, check=True)
    for name in (_iperf(), *(word for word in needed.stdout.split() if word.startswith("/"))):
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, place)
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", target, "."], check=True)


def _iperf() -> str:
    return shutil.which("iperf3") or sys.exit("this benchmark needs iperf3")


# ---- starts ----


def starts(cove: str, env: dict[str, str], place: Path, root: Path, rounds: int) -> None:
    run = [cove, "run", "--rm"]
    rows: dict[str, Callable[[], tuple[float, int]]] = {
        "cove": lambda: run_command([*run, "--network", NETWORK, IMAGE, "true"], env),
        "cove, by default": lambda: run_command([*run, IMAGE, "true"], env),
        "cove, no network": lambda: run_command([*run, "--network", "none", IMAGE, "true"], env),
    }
    for peer in runtime_peers(place, root):
        if peer.name == "crun":
            rows["crun, no network"] = lambda peer=peer: peer.time(peer.run)  # type: ignore[misc]
    if (docker := docker_peer(place)) is not None:
        rows["docker, bridge"] = lambda: docker.time(docker.run)
    print(table("run --rm true, on a network", interleave(rows, rounds)))


def docker_peer(place: Path) -> Peer | None:
    socket = os.environ.get("BENCH_DOCKER")
    if not socket:
        return None
    env = base_env() | {"DOCKER_HOST": f"unix://{socket}"}
    subprocess.run(["docker", "import", place / "bb.tar", IMAGE], env=env, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return Peer("docker", env, run=["docker", "run", "--rm", IMAGE, "true"])


# ---- bytes ----


class Pair:
    """Two network namespaces and the links between them, by hand: a pair, or two and a bridge
    without any rule, which is what a network costs whoever makes it.
    """

    def __init__(self, *, bridge: str = "") -> None:
        self.addresses = BRIDGED if bridge else HAND
        self.holders = [subprocess.Popen(["unshare", "-n", "sleep", "infinity"]) for _ in range(2)]
        own = os.readlink("/proc/self/ns/net")
        pids = [holder.pid for holder in self.holders]
        while any(os.readlink(f"/proc/{pid}/ns/net") == own for pid in pids):
            time.sleep(0.01)
        if bridge:
            _ip("link", "add", bridge, "type", "bridge")
            _ip("link", "set", bridge, "up")
            for number in range(2):
                port = f"{bridge}p{number}"
                _ip("link", "add", port, "type", "veth", "peer", "name", f"hand{number}")
                _ip("link", "set", port, "master", bridge, "up")
        else:
            _ip("link", "add", "hand0", "type", "veth", "peer", "name", "hand1")
        for number, pid in enumerate(pids):
            _ip("link", "set", f"hand{number}", "netns", str(pid))
            where = ("dev", f"hand{number}")
            _ip("addr", "add", f"{self.addresses[number]}/24", *where, inside=pid)
            _ip("link", "set", f"hand{number}", "up", inside=pid)
        self.server = subprocess.Popen(
            [*self._in(1), _iperf(), "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _in(self, number: int) -> list[str]:
        return ["nsenter", "-t", str(self.holders[number].pid), "-n"]

    def measure(self) -> float:
        return self.ask(self.addresses[1])

    def ask(self, address: str, *words: str) -> float:
        return _gigabits([*self._in(0), _iperf(), "-c", address, *words], None)

    def close(self) -> None:
        for process in (self.server, *self.holders):
            process.kill()
            process.wait()


def _ip(*words: str, inside: int = 0) -> None:
    enter = ["nsenter", "-t", str(inside), "-n"] if inside else []
    subprocess.run([*enter, "ip", *words], check=True)


def _gigabits(client: list[str], env: dict[str, str] | None) -> float:
    """What the server had of one client's second."""
    for _ in range(100):
        done = subprocess.run([*client, "-t", SECONDS, "-J"], env=env, capture_output=True)
        said = json.loads(done.stdout or b"{}")
        if done.returncode == 0 and "error" not in said:
            return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9
        time.sleep(0.1)  # the server is not there yet
    raise RuntimeError(f"iperf3: {done.stdout!r} {done.stderr!r}")


def bytes_between(cove: str, env: dict[str, str], rounds: int) -> None:
    def ask(*words: str) -> str:
        done = subprocess.run([cove, *words], env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    ask("run", "-d", "--name", "server", "--network", NETWORK, "iperf", _iperf(), "-s")
    ask("run", "-d", "--name", "client", "--network", NETWORK, "iperf", "sleep", "100000")
    form = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
    address = ask("inspect", "-f", form, "server")
    pair, bridged = Pair(), Pair(bridge="bridge")
    contestants = {
        "cove": lambda: _gigabits([cove, "exec", "client", _iperf(), "-c", address], env),
        "by hand": pair.measure,
        "by hand, over a bridge": bridged.measure,
    }
    try:
        found = _in_turn(contestants, rounds)
    finally:
        pair.close()
        bridged.close()
        ask("rm", "-f", "server", "client")
    _tell("one stream between two machines", found, budget="by hand")


def bytes_of_guest(cove: str, env: dict[str, str], rounds: int, kernel: Path, place: Path) -> None:
    """Each way: a container or a network namespace asks, a guest serves."""
    shutil.copytree(kernel, place / "state/kernels" / kernel.name)

    def ask(*words: str) -> str:
        done = subprocess.run([cove, *words], env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    ask("run", "-d", "--vm", "--name", "guest", "--network", NETWORK, "iperf", _iperf(), "-s")
    ask("run", "-d", "--name", "client", "--network", NETWORK, "iperf", "sleep", "100000")
    form = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
    address = ask("inspect", "-f", form, "guest")
    bridged = Pair(bridge="bench")
    plain = [
        PlainGuest(place, place / "iperf", kernel, bridge="bench", address=own, iperf=_iperf(),
                   offloads=offloads)
        for offloads, own in PLAIN.items()
    ]  # fmt: skip
    ours = [cove, "exec", "client", _iperf(), "-c", address]
    try:
        for title, words in (("to", ()), ("from", ("-R",))):
            found = _in_turn(
                {
                    "cove": partial(_gigabits, [*ours, *words], env),
                    "plain QEMU": partial(bridged.ask, PLAIN[True], *words),
                    "plain QEMU, no offloads": partial(bridged.ask, PLAIN[False], *words),
                },
                rounds,
            )
            _tell(f"one stream {title} a virtual machine", found)
    finally:
        for each in plain:
            each.close()
        bridged.close()
        ask("rm", "-f", "guest", "client")


def _in_turn(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name in random.sample(list(contestants), len(contestants)):
            found[name].append(contestants[name]())
    return found


def _tell(title: str, found: dict[str, list[float]], *, budget: str = "") -> None:
    print(f"iperf3, {title}, Gbit/s (min, median, max)")
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"  {name:24} {min(values):9.2f} {middle:9.2f} {max(values):9.2f}")
    for name in list(found)[1:]:
        ratios = [ours / theirs for ours, theirs in zip(found["cove"], found[name], strict=True)]
        wished = " (budget 0.95)" if name == budget else ""
        print(f"  cove is {statistics.median(ratios):.3f}x of {name}{wished}")


def main() -> None:
    if not os.environ.get(AGAIN):
        words = [sys.executable, "-m", "benchmarks.networks", *sys.argv[1:]]
        os.execvpe("unshare", ["unshare", "--net", *words], os.environ | {AGAIN: "1"})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kernel", type=Path, help="a guest kernel's directory")
    asked = parser.parse_args()
    rounds = asked.rounds
    _ip("link", "set", "lo", "up")
    cove = str(Path(sys.executable).with_name("cove"))
    with tempfile.TemporaryDirectory(prefix="cove-bench-", dir="/tmp") as scratch:
        place = Path(scratch)
        env = base_env() | {"COVE_ROOT": str(place / "state")}
        root = make_root(place)
        iperf_tar(shutil.copytree(root, place / "iperf", symlinks=True), place / "iperf.tar")
        for verb in (
            ("image", "import", str(place / "bb.tar"), IMAGE),
            ("image", "import", str(place / "iperf.tar"), "iperf"),
            ("network", "create", NETWORK),
        ):
            subprocess.run([cove, *verb], env=env, check=True, capture_output=True)
        try:
            starts(cove, env, place, root, rounds)
            bytes_between(cove, env, rounds)
            if asked.kernel:
                bytes_of_guest(cove, env, rounds, asked.kernel, place)
        finally:
            pid = int((place / "state/run/daemon.pid").read_text())
            fd = os.pidfd_open(pid)
            subprocess.run([cove, "daemon", "stop"], env=env, check=True)
            select.select([fd], [], [])


if __name__ == "__main__":
    main()
