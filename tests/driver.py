"""A cove under test: a state directory of its own, its daemon, and the real front."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPAWNED: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()
"""Commands that went on, and are still somebody's."""


class Done(subprocess.CompletedProcess[str]):
    """A finished command; ``out`` and ``err`` are its text."""

    @property
    def out(self) -> str:
        return self.stdout

    @property
    def err(self) -> str:
        return self.stderr


def wait_until(
    true: Callable[[], object], what: str = "what was to come", *, seconds: float = 120
) -> None:
    """For what nobody gives an event for: looks again until it is so."""
    late = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < late, f"waited in vain: {what}"
        select.select([], [], [], 0.005)


def wait_end(fd: int) -> None:
    """Of the process of a pidfd, which is closed."""
    ended = select.select([fd], [], [], 120)[0]
    os.close(fd)
    assert ended, "a process does not end"


def kill_process(pid: int) -> None:
    """kill -9, and wait until the kernel has let go of it."""
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    wait_end(fd)


def end_spawned() -> None:
    """Of a test that failed: what it left running must not be what the next one is blamed for."""
    for process in list(SPAWNED):
        if process.returncode is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    SPAWNED.clear()


def front_path() -> Path:
    """The command users type: beside this interpreter, as the wheel ships it."""
    found = Path(sys.executable).parent / "cove"
    if not found.exists():
        raise RuntimeError(f"{found} is missing: install the project first (make test)")
    return found


def clean_env() -> dict[str, str]:
    """For clients of cove on this machine's loopback: no variable of cove's or Docker's, and no
    proxy of the host's, is on the way.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COVE_", "DOCKER_")) and not name.lower().endswith("_proxy")
    }


class Cove:
    """``cove("run", "--rm", …)`` runs the front and gives what it printed. A command that makes a
    machine makes one of its ``isolation``, unless it asks for one itself.
    """

    def __init__(self, root: Path, isolation: str = "container", *, network: str = "none") -> None:
        """``network``: of machines that name none; bridges would be the host's."""
        self.root, self.isolation = root, isolation
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("COVE_", "DOCKER_"))}
        # Clones that wait would look like something that a test left behind.
        self.env = keep | {"COVE_ROOT": str(root), "COVE_VM_POOL": "0"}
        self.env["COVE_DEFAULT_NETWORK"] = network

    def __call__(
        self,
        *words: str,
        stdin: str | bytes = b"",
        code: int | None = 0,
        env: dict[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = 180,
    ) -> Done:
        """Run a command to its end. ``code``: the exit code it must have (None: any)."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        ran = subprocess.run(
            [str(front_path()), *self.of_kind(*words)],
            env=self.env | (env or {}),
            cwd=cwd,
            input=data,
            capture_output=True,
            timeout=timeout,
        )
        done = Done(
            ran.args,
            ran.returncode,
            ran.stdout.decode("utf-8", "replace"),
            ran.stderr.decode("utf-8", "replace"),
        )
        if code is not None and done.returncode != code:
            raise AssertionError(
                f"cove {' '.join(words)}: exit code {done.returncode}, not {code}\n"
                f"--- stdout\n{done.out[-2000:]}\n--- stderr\n{done.err[-4000:]}\n"
                f"{self.post_mortem()}"
            )
        return done

    def spawn(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """A command that goes on; the caller ends it."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        words = self.of_kind(*words)
        process = subprocess.Popen([str(front_path()), *words], env=self.env, **options)
        SPAWNED.add(process)
        return process

    def of_kind(self, *words: str) -> tuple[str, ...]:
        """The words of a command that asks for this isolation, if it is about one."""
        if self.isolation == "container" or {"--isolation", "--vm"} & set(words):
            return words
        verb = 1 if words[:1] in (("container",), ("machine",)) else 0
        if words[verb : verb + 1] not in (("run",), ("create",), ("plan",)):
            return words
        return *words[: verb + 1], "--isolation", self.isolation, *words[verb + 1 :]

    def inspect(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("inspect", name).out)[0]
        return found

    def daemon_pid(self) -> int:
        return int((self.root / "run/daemon.pid").read_text())

    def kill_daemon(self) -> None:
        kill_process(self.daemon_pid())

    def stop_daemon(self) -> None:
        """Its own end, which takes a moment more than the command."""
        fd = os.pidfd_open(self.daemon_pid())
        self("daemon", "stop")
        wait_end(fd)

    def post_mortem(self) -> str:
        """The end of the daemon's log and every plan that failed."""
        parts = []
        with contextlib.suppress(OSError):
            parts.append("--- daemon.log\n" + (self.root / "run/daemon.log").read_text()[-3000:])
        for plan in self.root.glob("machines/*/plan.txt"):
            with contextlib.suppress(OSError):
                parts.append(f"--- {plan}\n{plan.read_text()[-4000:]}")
        return "\n".join(parts)

    def close(self) -> None:
        """End every machine and the daemon, and remove the state."""
        listed = self("ps", "-aq", code=None).out.split()
        if listed:
            self("rm", "-f", *listed, code=None)
        self("network", "prune", "-f", code=None)  # bridge and rules are the host's
        with contextlib.suppress(OSError, ValueError):
            fd = os.pidfd_open(self.daemon_pid())
            self("daemon", "stop", code=None)
            wait_end(fd)
        shutil.rmtree(self.root)


def new_cove(isolation: str = "container", *, network: str = "none") -> Cove:
    """In a short path: socket addresses hold 107 characters."""
    return Cove(Path(tempfile.mkdtemp(prefix="cove-t-", dir="/tmp")), isolation, network=network)


def busybox_tar(
    target: Path,
    *,
    extra: dict[str, Path] | None = None,
    busybox: Path | None = None,
    runs: tuple[str, ...] = (),
) -> Path:
    """A root file system of busybox, its applets, and ``extra`` programs, as a tar. ``runs``: what
    runs a ``busybox`` of another CPU here.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        root = Path(scratch)
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var/tmp"):
            (root / name).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        program = str(busybox or shutil.which("busybox") or "/bin/busybox")
        shutil.copy(program, root / "bin/busybox")
        applets = subprocess.run(
            [*runs, program, "--list"], capture_output=True, text=True, check=True
        )
        for applet in applets.stdout.split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        (root / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000:Ada:/home/ada:/bin/sh\n"
        )
        (root / "etc/group").write_text("root:x:0:\nada:x:1000:\nwheel:x:10:ada\n")
        (root / "home/ada").mkdir(parents=True)
        os.chown(root / "home/ada", 1000, 1000)
        for name, source in (extra or {}).items():
            place = root / name.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
            place.chmod(0o755)
        subprocess.run(
            ["tar", "-C", str(root), "--numeric-owner", "-cf", str(target), "."], check=True
        )
    return target
