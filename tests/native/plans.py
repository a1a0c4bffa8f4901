"""Hand-written plans for tests of the executor: a small encoder of its own, so that a mistake in
cove.plan cannot hide one in init/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NEWNS, NEWUTS, NEWIPC = 0x20000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET, NEWCGROUP = 0x10000000, 0x20000000, 0x40000000, 0x2000000
RDONLY, NOSUID, NODEV, NOEXEC, IDMAP = 1, 2, 4, 8, 0x100000
MS_REC, MS_PRIVATE, MS_SLAVE = 0x4000, 1 << 18, 1 << 19
TREE_CLONE, AT_RECURSIVE = 1, 0x8000
NO_XDEV, NO_SYMLINKS = 1, 4
PDEATHSIG, NO_NEW_PRIVS = 1, 38
SIGKILL = 9
BASE = 1879048192

Op = tuple[object, ...]
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX = shutil.which("busybox") or "/bin/busybox"


def encode(ops: list[Op]) -> bytes:
    """``cove-plan 1\\0``, then ``name\\0argc\\0arg\\0...``."""
    words = ["cove-plan 1"]
    for name, *arguments in ops:
        words += [str(name), str(len(arguments)), *map(str, arguments)]
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def execve(*argv: str, env: tuple[str, ...] = (PATH,)) -> Op:
    return ("execve", len(argv), *argv, *env)


def sh(script: str) -> Op:
    """The host's static busybox as a shell."""
    return execve(BUSYBOX, "sh", "-c", script)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def report(self) -> tuple[str, int, str, int, str]:
        """Side, index, op, errno, detail of the op that failed."""
        assert self.code == 125, (self.code, self.out, self.err)
        side, index, name, error, detail = self.err.rstrip("\n").split(" ", 4)
        return side, int(index), name, int(error), detail


class Launcher:
    """Runs plans with ``cove-init run-plan``, with pipes for stdio."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.binary, self.directory = binary, directory

    def write(self, host: list[Op] | bytes, machine: list[Op] | bytes) -> list[str]:
        paths = []
        for name, part in (("host", host), ("machine", machine)):
            path = self.directory / f"{name}.plan"
            path.write_bytes(part if isinstance(part, bytes) else encode(part) if part else b"")
            paths.append(str(path))
        return paths

    def command(self, host: list[Op], machine: list[Op], fds: dict[str, int]) -> list[str]:
        registers = [f"{name}={fd}" for name, fd in fds.items()]
        return [str(self.binary), "run-plan", *self.write(host, machine), *registers]

    def run(
        self,
        host: list[Op],
        machine: list[Op],
        *,
        fds: dict[str, int] | None = None,
        stdin: str = "",
    ) -> Done:
        done = subprocess.run(
            self.command(host, machine, fds or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=tuple(fd for fd in (fds or {}).values() if fd >= 0),
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def container(self, machine: list[Op], *, flags: int = 0) -> Done:
        """Machine ops in a throw-away user and mount namespace, as its root."""
        return self.run(
            [("clone3", NEWUSER | NEWNS | flags, "-"), ID_MAP, ("send",)],
            [("prctl", PDEATHSIG, SIGKILL), ("recv",), ("setids", 0, 0), PRIVATE, *machine],
        )


ID_MAP: Op = ("id_map", f"0 {BASE} 65536", f"0 {BASE} 65536")
PRIVATE: Op = ("mount_setattr", "-", "/", AT_RECURSIVE, 0, 0, MS_PRIVATE, "-")
