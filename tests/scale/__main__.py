"""The daemon at size: a thousand machines, two hundred clients at once, twenty thousand calls.

    python -m tests.scale [calls | machines | clients]... [--count N] [--cycles N]

Prints how long things take and what the daemon holds of memory and descriptors, before and after;
fails where something is left. All of it runs in a network namespace of its own. Minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tests.driver import ROOT, Cove, busybox_tar, new_cove, wait_until
from tests.leaks import leaks

WORK = {"Image": "bb", "Cmd": ["sleep", "1000000"], "HostConfig": {"NetworkMode": "none"}}
WIRED = WORK | {"HostConfig": {"NetworkMode": "wire"}}
CLIENTS = 200
GROWTH = 1.1
"""Of memory, from the first quarter of many equal calls to the last: beyond it something stays."""
SLACK = 6144
"""KiB by which memory may differ for reasons of the allocator's."""


class Client(http.client.HTTPConnection):
    """One connection that is kept."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=600)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body)
        self.request(method, path, data, {"Content-Type": "application/json"})
        answer = self.getresponse()
        said = answer.read()
        if answer.status >= 400:
            raise AssertionError(f"{method} {path}: {answer.status} {said!r}")
        return said

    def make(self, body: Any, *, start: bool = False, name: str = "") -> str:
        made = self.ask("POST", f"/containers/create?name={name}", body)
        found: str = json.loads(made)["Id"]
        if start:
            self.ask("POST", f"/containers/{found}/start")
        return found

    def remove(self, name: str) -> None:
        self.ask("DELETE", f"/containers/{name}?force=1")

    def execute(self, name: str) -> bytes:
        """``true``, through a connection that becomes a stream."""
        wanted = {"Cmd": ["true"], "AttachStdout": True}
        made = json.loads(self.ask("POST", f"/containers/{name}/exec", wanted))["Id"]
        stream = Client(self._path)
        try:
            return stream.ask("POST", f"/exec/{made}/start", {})
        finally:
            stream.close()


class Watched:
    """A daemon, from outside."""

    def __init__(self, cove: Cove) -> None:
        self.cove = cove
        self.path = cove("system", "docker-socket").out.strip().removeprefix("unix://")
        self.pid = cove.daemon_pid()

    def rss(self) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0])

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def shown(self) -> str:
        return f"{self.rss() / 1024:6.1f} MiB, {self.fds():5} fds, {self.threads():4} threads"


@contextlib.contextmanager
def served() -> Iterator[Watched]:
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        cove = new_cove(network="none")
        cove("image", "import", str(busybox_tar(Path(scratch) / "bb.tar")), "bb")
        try:
            with leaks(cove.root):
                yield Watched(cove)
                cove("network", "prune", "-f")
            log = (cove.root / "run/daemon.log").read_text()
            assert not log, f"the daemon complains:\n{log[-4000:]}"
        finally:
            cove.close()


# ---- the same, over and over ----


def calls(seen: Watched, count: int, cycles: int, kind: str) -> list[str]:
    """What grows with the number of calls."""
    client = Client(seen.path)
    one = client.make(WORK, start=True, name="steady")
    talker = WORK | {"Cmd": ["sh", "-c", "seq 1000"]}
    said = client.make(talker, start=True)
    client.ask("POST", f"/containers/{said}/wait")
    kinds: dict[str, Callable[[], object]] = {
        "inspect": lambda: client.ask("GET", f"/containers/{one}/json"),
        "list": lambda: client.ask("GET", "/containers/json?all=1"),
        "logs": lambda: client.ask("GET", f"/containers/{said}/logs?stdout=1"),
        "create and remove": lambda: client.remove(client.make(WORK)),
        "exec": lambda: client.execute(one),
        "create, start, remove": lambda: client.remove(client.make(WORK, start=True)),
    }
    wrong = []
    print(f"{count} of each           per call   memory at 1/4 .. 4/4, KiB             fds")
    for name, call in kinds.items():
        if kind and name != kind:
            continue
        begun, marks = time.monotonic(), []
        for _ in range(4):
            for _ in range(count // 4):
                call()
            marks.append(seen.rss())
        each = (time.monotonic() - begun) / (count // 4 * 4) * 1000
        print(f"  {name:22} {each:6.2f} ms   {' '.join(map(str, marks)):36} {seen.fds()}")
        if marks[-1] > marks[0] * GROWTH and marks[-1] - marks[0] > SLACK:
            wrong.append(f"{name}: memory grows from {marks[0]} to {marks[-1]} KiB")
    client.remove(one)
    client.remove(said)
    return wrong


# ---- a thousand machines ----


def machines(seen: Watched, count: int, cycles: int, kind: str) -> list[str]:
    """Made, looked at and removed, several times; the second time is what the third is held to."""
    after = []
    for cycle in range(1, cycles + 1):
        print(f"cycle {cycle}: before        {seen.shown()}")
        client = Client(seen.path)
        client.ask("POST", "/networks/create", {"Name": "wire"}) if cycle == 1 else None
        spans, made = [], []
        for number in range(count):
            begun = time.monotonic()
            # A bridge has 1,024 ports.
            made.append(client.make(WIRED if number < count // 2 else WORK, start=True))
            spans.append(time.monotonic() - begun)
        print(f"  {count} running         {seen.shown()}")
        for first in range(0, count, max(count // 4, 1)):
            part = spans[first : first + max(count // 4, 1)]
            print(f"    start {first:5}..     median {statistics.median(part) * 1000:6.1f} ms, "
                  f"longest {max(part) * 1000:6.1f} ms")  # fmt: skip
        for what, path in (
            ("list", "/containers/json"),
            ("inspect", f"/containers/{made[0]}/json"),
            ("network inspect", "/networks/wire"),
        ):
            timed = [_timed(partial(client.ask, "GET", path)) for _ in range(9)]
            print(f"    {what:16} median {statistics.median(timed) * 1000:6.1f} ms")
        begun = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: Client(seen.path).remove(name), made))
        print(f"    removed in       {time.monotonic() - begun:6.1f} s")
        client.close()
        wait_until(lambda: _steady(seen.fds), "descriptors are given back")
        after.append((seen.rss(), seen.fds()))
        print(f"  removed           {seen.shown()}")
    wrong = []
    if cycles > 2:
        (rss, fds), (last, now) = after[1], after[-1]
        if last > rss * GROWTH and last - rss > SLACK:
            wrong.append(f"memory grows from cycle to cycle: {rss}, then {last} KiB")
        if now > fds + 8:
            wrong.append(f"descriptors grow from cycle to cycle: {fds}, then {now}")
    return wrong


def _timed(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def _steady(count: Callable[[], int]) -> bool:
    """Slots are made anew, and take some: until nothing changes for a second."""
    before = count()
    select.select([], [], [], 1)
    return before == count()


# ---- two hundred clients ----


def clients(seen: Watched, count: int, cycles: int, kind: str) -> list[str]:
    """All at once, each with machines of its own: made, listened to, waited for, removed."""
    print(f"before                 {seen.shown()}")
    rounds = max(count // CLIENTS, 1)
    spans: list[float] = []
    gate = threading.Barrier(CLIENTS)

    def one(number: int) -> None:
        client = Client(seen.path)
        gate.wait(120)
        for _ in range(rounds):
            begun = time.monotonic()
            made = client.make(WORK | {"Cmd": ["echo", str(number)]}, start=True)
            client.ask("POST", f"/containers/{made}/wait")
            said = client.ask("GET", f"/containers/{made}/logs?stdout=1")
            assert said[8:].split() == [str(number).encode()], said
            client.remove(made)
            spans.append(time.monotonic() - begun)
        client.close()

    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(CLIENTS)))
    took = time.monotonic() - begun
    spans.sort()
    print(
        f"{CLIENTS} clients, {len(spans)} machines: {len(spans) / took:.1f} a second; median "
        f"{statistics.median(spans) * 1000:.0f} ms, 99 of 100 within "
        f"{spans[len(spans) * 99 // 100] * 1000:.0f} ms, longest {spans[-1] * 1000:.0f} ms"
    )
    print(f"after                  {seen.shown()}")
    return []


PARTS = {"calls": calls, "machines": machines, "clients": clients}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--kind", default="", help="of the calls, this alone")
    asked = parser.parse_args()
    if os.environ.get("COVE_SCALE") != "inside":
        inside = os.environ | {"COVE_SCALE": "inside"}
        again = ["unshare", "--net", sys.executable, "-m", "tests.scale", *sys.argv[1:]]
        return subprocess.run(again, env=inside, cwd=ROOT, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    wrong = []
    for name in asked.parts or PARTS:
        print(f"--- {name}")
        with served() as seen:
            wrong += PARTS[name](seen, asked.count or (20_000 if name == "calls" else 1000),
                                 asked.cycles, asked.kind)  # fmt: skip
    print("\n".join(wrong) or "nothing grows, nothing is left")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
