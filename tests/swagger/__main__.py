"""schemathesis over Docker's public swagger: whatever is asked, cove has an answer that is not its
own fault, and nothing is left behind.

    curl -O https://raw.githubusercontent.com/moby/moby/master/api/swagger.yaml
    make test-swagger SWAGGER=swagger.yaml      # python -m tests.swagger FILE PYTHON [N [SEED]]

PYTHON is one that has schemathesis, in an environment of its own: its plugin would change how the
suite runs. N: examples of each operation. All of it runs in a network namespace of its own, out of
which nothing leads: no name that is made up is ever asked for elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.driver import ROOT, Cove, busybox_tar, clean_env, new_cove
from tests.leaks import leaks
from tests.wire import ask

VERSION = "v1.51"
EXAMPLES, SEED = 60, 1
PATIENCE = 1.0
"""Seconds of silence after which the client of something endless goes."""
CUT = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


class Bridge:
    """A loopback port before the daemon's socket: schemathesis speaks TCP only."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Bridge:
        self._thread.start()
        self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(60)

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        async with await asyncio.start_server(self._carry, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._done.wait()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._path)
        inward = self._loop.create_task(_pass(reader, back))
        outward = self._loop.create_task(_pass(there, writer, PATIENCE))
        try:
            await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
            if inward.done() and not outward.done():
                await outward
        finally:
            inward.cancel()
            back.close()
            writer.close()


async def _pass(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float | None = None
) -> None:
    """Whoever has nothing more to say for so long is left; what he began is ended for him."""
    said = b""
    with contextlib.suppress(OSError):
        while True:
            try:
                data = await asyncio.wait_for(reader.read(1 << 16), patience)
            except TimeoutError:
                writer.write(b"0\r\n\r\n" if said else CUT)
                return
            if not data:
                return
            said = data
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def furnished(place: Path) -> Iterator[tuple[Cove, dict[str, str]]]:
    """A daemon with something of everything, and the names that nobody can guess."""
    cove = new_cove(network="none")
    cove("image", "import", str(busybox_tar(place / "bb.tar")), "bb")
    cove("tag", "bb", "spare")
    cove("images")  # makes the layer of the image that is built in: it stays
    with leaks(cove.root):
        cove("network", "create", "wire")
        cove("volume", "create", "store")
        cove("create", "--name", "idle", "bb", "true")
        socket = cove("system", "docker-socket").out.strip().removeprefix("unix://")
        # Not by run, which takes a slot: what takes its place would be left behind.
        for name, words in (("busy", ["sleep", "1000000"]), ("over", ["echo", "done"])):
            wanted = {"Image": "bb", "Cmd": words}
            assert ask(socket, "POST", f"/containers/create?name={name}", wanted).status == 201
            assert ask(socket, "POST", f"/containers/{name}/start").status == 204
        execs = []
        for _ in range(8):
            wanted = {"Cmd": ["sleep", "0"], "AttachStdout": True}
            made = ask(socket, "POST", "/containers/busy/exec", wanted)
            execs.append(json.loads(made.body)["Id"])
        yield cove, {"SOCKET": socket, "SWAGGER_EXECS": ",".join(execs)}
        if left := cove("ps", "-aq").out.split():
            cove("rm", "-f", "-v", *left, code=None)
        cove("network", "prune", "-f")
        for name in cove("volume", "ls", "-q").out.split():
            cove("volume", "rm", "-f", name)
        if images := set(cove("images", "-aq", "--no-trunc").out.split()) - {"host"}:
            cove("rmi", "-f", *images)
        cove("builder", "prune", "-f")
    cove.close()


def run(schema: Path, python: str, examples: int, seed: int) -> int:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as scratch,
        furnished(Path(scratch)) as (cove, env),
    ):
        pid = cove.daemon_pid()
        with Bridge(env["SOCKET"]) as bridge:
            argv = [
                str(Path(python).parent / "schemathesis"), "run", str(schema),
                "--url", f"http://127.0.0.1:{bridge.port}/{VERSION}",
                "--checks", "no_fault_of_ours", "--max-examples", str(examples),
                "--seed", str(seed), "--continue-on-failure", "--warnings", "off",
                "--request-timeout", "60", "-H", "Connection: close",
                "--phases", "examples,coverage,fuzzing",
                "--suppress-health-check", "all", "--no-color", "--generation-database", "none",
            ]  # fmt: skip
            hooks = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(Path(__file__).parent)}
            code = subprocess.run(
                argv, env=clean_env() | env | hooks, cwd=scratch, check=False
            ).returncode
        assert ask(env["SOCKET"], "GET", "/_ping").body == b"OK"
        assert cove.daemon_pid() == pid, "the daemon did not live through it"
        log = (cove.root / "run/daemon.log").read_text()
        print(f"the daemon's complaints:\n{log}" if log else "the daemon had no complaints")
        return code or int(bool(log))


def main() -> int:
    if len(sys.argv) < 3 or not Path(sys.argv[1]).is_file():
        print(__doc__, file=sys.stderr)
        return 2
    schema, python, *numbers = sys.argv[1:]
    if os.environ.get("COVE_SWAGGER") != "inside":
        inside = os.environ | {"COVE_SWAGGER": "inside"}
        again = ["unshare", "--net", sys.executable, "-m", "tests.swagger"]
        words = [str(Path(schema).resolve()), str(Path(python).absolute()), *numbers]
        return subprocess.run([*again, *words], env=inside, cwd=ROOT, check=False).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    examples, seed = [*map(int, numbers), *(EXAMPLES, SEED)[len(numbers) :]]
    return run(Path(schema), python, examples, seed)


if __name__ == "__main__":
    raise SystemExit(main())
