"""python -m benchmarks.ships: push, copy, save and load of one image, cove beside the peers.

The image, stores and registries are those of ``benchmarks.pulls``; what is pushed goes into a
second registry, which is emptied after each turn. Needs root, docker-registry, podman and skopeo;
docker takes part where ``BENCH_DOCKER`` is the socket of one in this network namespace
(``dockerd --bridge=none --iptables=false --ip-forward=false --data-root STORE/docker ...``).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import pulls
from benchmarks.measure import Series, run_command, table
from benchmarks.peers import base_env
from benchmarks.pulls import Pull, quiet

PORT = 5078
WORKS = ("push", "copy", "save", "load")


class Contest:
    """Everybody has the image already, pulled from the first registry."""

    def __init__(self, store: Path, place: Path, reference: str, other: str, cove: str) -> None:
        self.store, self.place, self.reference, self.cove = store, place, reference, cove
        self.target = f"{other}/{reference.partition('/')[2]}"
        self.env = base_env() | {"COVE_ROOT": str(store / "cove")}
        podman = ["podman", "--root", str(store / "podman"), "--runroot", str(place / "p")]
        self.podman = podman
        self.layout = f"oci:{store}/layout:1"
        self.archive = str(store / "saved.tar")
        self.tools = {"cove": [cove], "podman": podman}
        if socket := os.environ.get("BENCH_DOCKER"):
            self.tools["docker"] = ["docker", "--host", f"unix://{socket}"]

    def prepare(self) -> None:
        for name, tool in self.tools.items():
            insecure = ["--tls-verify=false"] if name == "podman" else []
            self._must(*tool, "pull", "-q", *insecure, self.reference)
            self._must(*tool, "tag", self.reference, self.target)
        self._must("skopeo", "copy", "-q", "--src-tls-verify=false",
                   f"docker://{self.reference}", self.layout)  # fmt: skip

    def _must(self, *argv: str) -> None:
        """A contestant without the image would fail in no time, and be the fastest."""
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr.strip()}")

    def empty(self) -> None:
        shutil.rmtree(self.place / "other/registry", ignore_errors=True)

    def rows(self, work: str) -> dict[str, Pull]:
        return {"push": self.push, "copy": self.copy, "save": self.save, "load": self.load}[work]()

    def _timed(self, argv: list[str], undo: object = None) -> Pull:
        return (
            lambda: run_command(argv, self.env),
            undo if callable(undo) else self.empty,
        )

    def push(self) -> dict[str, Pull]:
        found = {
            name: self._timed(
                [*tool, "push", "-q", *(["--tls-verify=false"] * (name == "podman")), self.target]
            )
            for name, tool in self.tools.items()
        }
        found["skopeo, from an OCI layout"] = self._timed(
            ["skopeo", "copy", "-q", "--dest-tls-verify=false", self.layout,
             f"docker://{self.target}"]
        )  # fmt: skip
        return found

    def copy(self) -> dict[str, Pull]:
        return {
            "cove": self._timed([self.cove, "image", "copy", "-q", self.reference, self.target]),
            "skopeo": self._timed(
                ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false",
                 f"docker://{self.reference}", f"docker://{self.target}"]
            ),
        }  # fmt: skip

    def save(self) -> dict[str, Pull]:
        def undo() -> None:
            Path(self.archive).unlink(missing_ok=True)

        words = ["save", "-o", self.archive, self.reference]
        found = {name: self._timed([*tool, *words], undo) for name, tool in self.tools.items()}
        found["skopeo, from an OCI layout"] = self._timed(
            ["skopeo", "copy", "-q", self.layout, f"docker-archive:{self.archive}:x:1"], undo
        )
        return found

    def load(self) -> dict[str, Pull]:
        self._must(self.cove, "save", "-o", self.archive, self.reference)

        def without(tool: list[str]) -> object:
            return lambda: quiet(*tool, "rmi", "-f", self.reference, self.target, env=self.env)

        words = ["load", "-i", self.archive]
        return {
            name: self._timed([*tool, *words], without(tool)) for name, tool in self.tools.items()
        }


def measure(rows: dict[str, Pull], rounds: int) -> list[Series]:
    found = {name: Series(name) for name in rows}
    for number in range(-1, rounds):
        for name in random.sample(list(rows), len(rows)):
            act, undo = rows[name]
            undo()
            quiet("sync")
            took, code = act()
            found[name].failed += code != 0
            if number >= 0:
                found[name].times.append(took)
            print(f"    {name}: {took / 1e3:.2f} s{' (failed)' if code else ''}", file=sys.stderr)
            undo()
    return list(found.values())


def main() -> int:
    options = parse()
    place = Path(tempfile.mkdtemp(prefix="cs-", dir=options.state))
    cove = str(Path(sys.executable).parent / "cove")
    try:
        with ExitStack() as stack:
            store = Path(options.store or stack.enter_context(pulls.journalled(place)))
            address = stack.enter_context(pulls.registry(place, []))
            (place / "other").mkdir()
            pulls.PORT = PORT
            other = stack.enter_context(pulls.registry(place / "other", []))
            reference = pulls.IMAGES[options.image](place, address)
            contest = Contest(store, place, reference, other, cove)
            contest.prepare()
            for work in options.work.split(","):
                rows = measure(contest.rows(work), options.rounds)
                print(table(f"{work} {options.image}", rows), flush=True)
            quiet(cove, "daemon", "stop", env=contest.env)
            quiet(*contest.podman, "system", "reset", "-f")
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=False)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ships", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--image", default="big", choices=sorted(pulls.IMAGES))
    parser.add_argument("--work", default=",".join(WORKS), help="some of them, with commas")
    parser.add_argument("--state", help="directory for all state (default: the temporary one)")
    parser.add_argument("--store", help="directory on a journalled file system for all stores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
