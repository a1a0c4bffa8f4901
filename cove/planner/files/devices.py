"""A machine's own /dev: a tmpfs with the six nodes every program expects, and what --device adds.

Nodes are made by the launcher on the host (a user namespace may not make any) in a file system
that the host's user namespace owns, because the kernel opens no node of any other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cove.errors import Unsupported, UsageError
from cove.plan.flags import MountAttr
from cove.plan.ops import KEEP, Fsmount, Mkdirat, Mknodat, Op, Symlinkat
from cove.planner.why import default

DEV = "dev"
"""The register of the machine's /dev."""

TTY_GROUP: Final = 5
"""Group ``tty`` in every distribution."""

_S_IFCHR, _S_IFBLK = 0o020000, 0o060000
_ATTRIBUTES = MountAttr.MOUNT_ATTR_NOSUID | MountAttr.MOUNT_ATTR_NOEXEC
CHARACTER = _S_IFCHR | 0o666

NODES: Final = (
    ("null", 1, 3, "programs throw output away"),
    ("zero", 1, 5, "programs map zeroed memory"),
    ("full", 1, 7, "tests of a full disk"),
    ("random", 1, 8, "the kernel's random numbers"),
    ("urandom", 1, 9, "the kernel's random numbers"),
)
TTY: Final = ("tty", 5, 0, "a process's own terminal")
"""Alone in belonging to a group: ``tty``."""
DIRECTORIES: Final = (
    ("pts", "terminals are mounted here"),
    ("shm", "shared memory is mounted here"),
    ("mqueue", "message queues are mounted here"),
)
LINKS: Final = (
    ("pts/ptmx", "ptmx", "new terminals come from the machine's own devpts"),
    ("/proc/self/fd", "fd", "/dev/fd/N of shells"),
    ("/proc/self/fd/0", "stdin", "scripts open standard input by name"),
    ("/proc/self/fd/1", "stdout", "servers log to standard output by name"),
    ("/proc/self/fd/2", "stderr", "servers log to standard error by name"),
    ("/proc/kcore", "core", "as in Docker; what it points to is masked"),
)


def own_dev(base: int) -> tuple[Op, ...]:
    """The tmpfs and what is always in it; made with the file system ids of the machine's root."""
    options = ("source=tmpfs", "mode=0755", "size=65536k", f"uid={base}", f"gid={base}")
    name, major, minor, reason = TTY
    return (
        Fsmount(
            DEV,
            "tmpfs",
            _ATTRIBUTES,
            options,
            why=default("/dev of its own, nothing of the host's"),
        ),
        Mknodat(DEV, name, CHARACTER, major, minor, base, base + TTY_GROUP, why=default(reason)),
        *_contents(),
    )


@lru_cache(maxsize=2)
def console(*, tty: bool) -> tuple[Op, ...]:
    if not tty:
        return ()
    why = "-t: the machine's terminal is its console"
    return (Symlinkat("pts/0", DEV, "console", KEEP, KEEP, why=why),)


@lru_cache(maxsize=1)
def _contents() -> tuple[Op, ...]:
    """What needs no id: the same for every machine."""
    return (
        *(
            Mknodat(DEV, name, CHARACTER, major, minor, KEEP, KEEP, why=default(reason))
            for name, major, minor, reason in NODES
        ),
        *(Mkdirat(DEV, name, 0o755, KEEP, KEEP, why=default(why)) for name, why in DIRECTORIES),
        *(
            Symlinkat(target, DEV, name, KEEP, KEEP, why=default(why))
            for target, name, why in LINKS
        ),
    )


def asked_devices(devices: tuple[tuple[str, str, int, int, int], ...], why: str) -> tuple[Op, ...]:
    """Nodes of the host's devices, from --device or --privileged."""
    return _asked(devices, why) if devices else ()


@lru_cache(maxsize=64)
def _asked(devices: tuple[tuple[str, str, int, int, int], ...], why: str) -> tuple[Op, ...]:
    ops: list[Op] = []
    taken = {"ptmx", "console", TTY[0], *(node[0] for node in NODES)}
    for path, kind, major, minor, mode in devices:
        if kind not in ("c", "b"):
            raise UsageError(f"cannot give {path}: it is no device", origin=why)
        if not path.startswith("/dev/") or ".." in path.split("/"):
            raise Unsupported(
                f"cannot give a device as {path}: devices are made below /dev only",
                origin=f"{why} {path}",
                hint=f"name a path below /dev: --device SOURCE:/dev/{path.rsplit('/', 1)[-1]}",
            )
        node = (_S_IFCHR if kind == "c" else _S_IFBLK) | (mode & 0o777)
        name = path.removeprefix("/dev/")
        if name not in taken:
            ops.append(Mknodat(DEV, name, node, major, minor, KEEP, KEEP, why=f"{why} {path}"))
    return tuple(ops)
