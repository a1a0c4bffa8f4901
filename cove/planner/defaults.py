"""What cove does when nothing else is asked for, as data; each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cove.plan.flags import Rlimit

PIDS: Final = 2048
PIDS_WHY: Final = "a fork bomb ends here, and not on the host"

SHM: Final = 64 << 20
SHM_WHY: Final = "as much shared memory as Docker gives; --shm-size for more"

STORAGE: Final = 10 << 30
STORAGE_WHY: Final = "untrusted code must not fill the host's disk; --storage-opt size= for more"

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATH_WHY: Final = "where every distribution keeps its programs"

STOP_SIGNAL: Final = "SIGTERM"
STOP_TIMEOUT: Final = 10
"""Seconds from the stop signal to SIGKILL."""
UMASK: Final = 0o022
UMASK_WHY: Final = "new files are writable by their owner only"


@dataclass(frozen=True, slots=True)
class Sysctl:
    name: str
    value: str
    why: str


NETWORK_SYSCTLS: Final = (
    Sysctl(
        "net.ipv4.ip_unprivileged_port_start",
        "0",
        "a server listens on port 80 of its own network without a capability",
    ),
    Sysctl(
        "net.ipv4.ping_group_range",
        "0 65535",
        "ping works for every group of the machine without raw sockets",
    ),
)
"""Only in a network namespace of the machine's own: the host's are nobody's to change."""


@dataclass(frozen=True, slots=True)
class Limit:
    """-1 is unlimited. Both are lowered to what the host's own hard limit allows."""

    resource: Rlimit
    soft: int
    hard: int
    why: str


RLIMITS: Final = (
    Limit(
        Rlimit.RLIMIT_NOFILE,
        1024,
        524288,
        "select(2) breaks above 1024; a program that can do with more raises it itself",
    ),
    Limit(
        Rlimit.RLIMIT_CORE,
        0,
        -1,
        "no core dumps in the writable layer unless the program asks",
    ),
)
"""The rest is inherited from the daemon, which nothing inside can raise."""

SYSCTL_PREFIXES: Final = (
    ("net.", "network"),
    ("kernel.shm", "ipc"),
    ("kernel.msg", "ipc"),
    ("kernel.sem", "ipc"),
    ("fs.mqueue.", "ipc"),
)
"""What ``--sysctl`` may set, and the namespace it belongs to; all others are the host's."""
