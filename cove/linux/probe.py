"""The facts of this host, probed once: what the planner is given as an argument.

Nothing here changes the host, and a fact that cannot be read is the cautious answer, never an
exception. ``HOW`` says of each fact how it is found.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cove.linux.disk import file_system
from cove.plan.facts import Facts

HOW = {
    "kernel": "uname -r",
    "arch": "uname -m",
    "root": "effective uid 0, CAP_SYS_ADMIN, and an id map of all ids in /proc/self/uid_map",
    "cgroup": "file systems of type cgroup and cgroup2 in /proc/self/mountinfo",
    "controllers": "mount options of cgroup v1, cgroup.controllers of cgroup2",
    "unified": "the mount point of cgroup2",
    "idmapped_mounts": "file system of the state directory and the kernel that taught it idmaps",
    "userns_max": "/proc/sys/user/max_user_namespaces",
    "last_cap": "/proc/sys/kernel/cap_last_cap",
    "hard_limits": "getrlimit(2) of the daemon",
    "cpus": "sched_getaffinity(2) of the daemon",
    "memory": "/proc/meminfo",
    "swap": "memory.memsw.limit_in_bytes (v1), memory.swap.max (v2)",
    "seccomp": "/proc/sys/kernel/seccomp/actions_avail",
    "audit": "binding the netlink multicast group, and errno in actions_logged",
    "lsm": "/sys/kernel/security/lsm",
    "devices": "character and block devices below /dev",
    "binfmt": "Linux 6.7, with binfmt_misc in it or among its modules",
    "tsc_khz": "cove-init tsc: the counter against CLOCK_MONOTONIC_RAW",
    "qemu": "qemu-system-* -version",
    "kvm": "a boot of a guest kernel under KVM, remembered",
}

IDMAP_SINCE = {
    "ext4": (5, 12),
    "xfs": (5, 12),
    "btrfs": (5, 15),
    "f2fs": (5, 18),
    "tmpfs": (6, 3),
    "bcachefs": (6, 7),
    "ceph": (6, 7),
    "zfs": (6, 0),
}
"""File systems a state directory may be on, and the kernel since which they can be idmapped."""

OWN_BINFMT = (6, 7)
"""Before, there is one binfmt_misc, the host's, and what is registered there holds everywhere."""

RLIMITS = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
RLIMIT_LOCKS = 10
"""Python's library has no name for it."""

CAP_SYS_ADMIN = 21
AUDIT_READLOG = 1


class DeviceNode(NamedTuple):
    """A device below /dev, as ``--privileged`` gives all of them."""

    path: str
    type: str
    """``c`` or ``b``."""
    major: int
    minor: int
    mode: int


def probe_facts(root: str | Path) -> Facts:
    """The facts of this host for the state directory ``root``."""
    kernel = _kernel()
    hierarchies = _hierarchies()
    cgroup, controllers, unified = _cgroups(hierarchies)
    capabilities = _capabilities()
    state = _existing(os.fspath(root))
    return Facts(
        kernel=kernel,
        arch=os.uname().machine,
        root=os.geteuid() == 0 and _has(capabilities, CAP_SYS_ADMIN) and _maps_all_ids(),
        cgroup=cgroup,
        controllers=controllers,
        unified=unified,
        idmapped_mounts=IDMAP_SINCE.get(file_system(state), (1 << 30, 0)) <= kernel,
        userns_max=_number("/proc/sys/user/max_user_namespaces"),
        last_cap=_number("/proc/sys/kernel/cap_last_cap", 40),
        hard_limits=_hard_limits(),
        cpus=len(os.sched_getaffinity(0)),
        memory=_memory(),
        swap=_counts_swap(cgroup, controllers, unified),
        seccomp="errno" in _text("/proc/sys/kernel/seccomp/actions_avail").split(),
        audit=_audit(),
        lsm=tuple(filter(None, _text("/sys/kernel/security/lsm").strip().split(","))),
        binfmt=_own_binfmt(kernel),
        devices=tuple((node.path, node.major, node.minor) for node in host_devices()),
    )


def host_devices() -> tuple[DeviceNode, ...]:
    """The devices below /dev, without terminals and what every machine has of its own."""
    return tuple(sorted(_devices("/dev", depth=0)))


OWN = {"pts", "shm", "mqueue", "fd", "console", "ptmx", "tty", "null", "zero", "full", "random",
       "urandom"}  # fmt: skip


def _devices(directory: str, *, depth: int) -> Iterator[DeviceNode]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if depth == 0 and entry.name in OWN:
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    if depth < 4:
                        yield from _devices(entry.path, depth=depth + 1)
                    continue
                found = entry.stat(follow_symlinks=False)
                kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(found.st_mode))
                if kind:
                    device = found.st_rdev
                    mode = stat.S_IMODE(found.st_mode)
                    yield DeviceNode(entry.path, kind, os.major(device), os.minor(device), mode)


def _kernel() -> tuple[int, int]:
    numbers = []
    for part in os.uname().release.split(".")[:2]:
        digits = "".join(c for c in part[: len(part)] if c.isdigit())
        numbers.append(int(digits or 0))
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0)


def _hierarchies() -> list[tuple[str, str, frozenset[str]]]:
    """Mount point, type and super options of each control group file system."""
    found = []
    for line in _text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        words = right.split()
        if len(words) >= 3 and words[0] in ("cgroup", "cgroup2"):
            point = _unescape(left.split()[4])
            found.append((point, words[0], frozenset(words[2].split(","))))
    return found


def _unescape(path: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


def _cgroups(
    hierarchies: list[tuple[str, str, frozenset[str]]],
) -> tuple[str, dict[str, str], str]:
    known = {line.split()[0] for line in _text("/proc/cgroups").splitlines()[1:] if line.split()}
    controllers: dict[str, str] = {}
    unified = ""
    for point, kind, options in hierarchies:
        if kind == "cgroup2":
            unified = unified or point
        else:
            for name in options & known:
                controllers.setdefault(name, point)
    if controllers:
        return ("hybrid" if unified else "v1"), dict(sorted(controllers.items())), unified
    names = _text(f"{unified}/cgroup.controllers").split() if unified else []
    return "v2" if unified else "v1", dict.fromkeys(sorted(names), unified), unified


def _capabilities() -> int:
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _has(capabilities: int, number: int) -> bool:
    return bool(capabilities >> number & 1)


def _maps_all_ids() -> bool:
    return _text("/proc/self/uid_map").split() == ["0", "0", "4294967295"]


def _hard_limits() -> dict[str, int]:
    limits = {}
    for name in RLIMITS:
        number = getattr(resource, f"RLIMIT_{name.upper()}", RLIMIT_LOCKS)
        with contextlib.suppress(OSError, ValueError):
            limits[name] = resource.getrlimit(number)[1]
    return limits


def _memory() -> int:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _counts_swap(cgroup: str, controllers: dict[str, str], unified: str) -> bool:
    if "memory" not in controllers:
        return False
    if cgroup != "v2":
        return os.path.exists(f"{controllers['memory']}/memory.memsw.limit_in_bytes")
    # The root group has no limits of its own: any other one shows whether there is such a file.
    with contextlib.suppress(OSError), os.scandir(unified) as entries:
        for entry in entries:
            if entry.is_dir() and os.path.exists(f"{entry.path}/memory.max"):
                return os.path.exists(f"{entry.path}/memory.swap.max")
    return "swapaccount=0" not in _text("/proc/cmdline").split()


def _audit() -> bool:
    if "errno" not in _text("/proc/sys/kernel/seccomp/actions_logged").split():
        return False
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9) as sock:
            sock.bind((0, AUDIT_READLOG))
    except OSError:
        return False
    return True


def _own_binfmt(kernel: tuple[int, int]) -> bool:
    """Whether a user namespace has handlers of its own. Not tried: the first mount loads the
    module, which is a change of the host.
    """
    if kernel < OWN_BINFMT:
        return False
    listed = {line.split()[-1] for line in _text("/proc/filesystems").splitlines() if line.split()}
    if "binfmt_misc" in listed:
        return True
    modules = f"/lib/modules/{os.uname().release}/kernel/fs"
    with contextlib.suppress(OSError):
        return any(name.startswith("binfmt_misc.ko") for name in os.listdir(modules))
    return False


def _existing(path: str) -> str:
    """The nearest directory that is there: the state directory may yet have to be made."""
    path = os.path.abspath(path)
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _number(path: str, missing: int = 0) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else missing


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
