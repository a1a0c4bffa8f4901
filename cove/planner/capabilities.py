"""Every capability of Linux: whether a machine has it by default, and why or why not.

The default set is Docker's fourteen less MKNOD and AUDIT_WRITE. Inside a machine's user namespace a
capability reaches only what that namespace owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cove.errors import UsageError
from cove.plan.flags import Capability


@dataclass(frozen=True, slots=True)
class Entry:
    granted: bool
    reason: str


def _yes(reason: str) -> Entry:
    return Entry(True, reason)


def _no(reason: str) -> Entry:
    return Entry(False, reason)


CAPABILITIES: Final[dict[str, Entry]] = {
    "CHOWN": _yes("package managers and entrypoints give files to their service's user"),
    "DAC_OVERRIDE": _yes("root inside reads and writes every file of its own image"),
    "DAC_READ_SEARCH": _no("open_by_handle_at(2) with it reads past any directory"),
    "FOWNER": _yes("package managers change modes and times of files they do not own"),
    "FSETID": _yes("setgid bits survive an edit by root"),
    "KILL": _yes("an init stops services that run as other users"),
    "SETGID": _yes("services drop root for a group of their own"),
    "SETUID": _yes("services drop root for a user of their own"),
    "SETPCAP": _yes("services drop capabilities from their bounding set"),
    "LINUX_IMMUTABLE": _no("an immutable file cannot be removed with the machine"),
    "NET_BIND_SERVICE": _yes("servers listen on ports below 1024"),
    "NET_BROADCAST": _no("the kernel does not use it"),
    "NET_ADMIN": _no("it opens netfilter, tc and tunnel code of the kernel to untrusted callers"),
    "NET_RAW": _yes("ping; a machine's network is its own, and spoofing is stopped outside it"),
    "IPC_LOCK": _no("locked memory beyond the limit starves neighbours"),
    "IPC_OWNER": _no("root inside owns its System V objects anyway"),
    "SYS_MODULE": _no("a kernel module is the host's kernel"),
    "SYS_RAWIO": _no("ports and raw memory are the host's hardware"),
    "SYS_CHROOT": _yes("package managers and sshd change their root"),
    "SYS_PTRACE": _no("a process may trace its own children without it"),
    "SYS_PACCT": _no("process accounting is the host's"),
    "SYS_ADMIN": _no("mounts and a hundred other doors into the kernel"),
    "SYS_BOOT": _no("reboot and kexec are the host's"),
    "SYS_NICE": _no("real-time priority starves the host"),
    "SYS_RESOURCE": _no("it lifts the limits that are set here"),
    "SYS_TIME": _no("the clock is the host's"),
    "SYS_TTY_CONFIG": _no("vhangup(2) reaches terminals of others"),
    "MKNOD": _no("device nodes cannot be made in a user namespace; /dev has what is needed"),
    "LEASE": _no("a lease lets a process delay another's open"),
    "AUDIT_WRITE": _no("the audit log is the host's; nothing inside may write into it"),
    "AUDIT_CONTROL": _no("the audit rules are the host's"),
    "SETFCAP": _yes("package managers install programs with file capabilities"),
    "MAC_OVERRIDE": _no("the host's mandatory access control stands above a machine"),
    "MAC_ADMIN": _no("the host's mandatory access control stands above a machine"),
    "SYSLOG": _no("the kernel log shows the host's addresses and secrets"),
    "WAKE_ALARM": _no("waking the host from sleep is the host's business"),
    "BLOCK_SUSPEND": _no("keeping the host awake is the host's business"),
    "AUDIT_READ": _no("the audit log is the host's"),
    "PERFMON": _no("performance counters see other machines"),
    "BPF": _no("BPF programs run in the host's kernel"),
    "CHECKPOINT_RESTORE": _no("choosing process ids and reading others' maps helps attacks"),
}
"""By name without ``CAP_``, in the kernel's order: the index is the capability's number."""

NAMES: Final = tuple(CAPABILITIES)

DEFAULT: Final = tuple(name for name, entry in CAPABILITIES.items() if entry.granted)


def mask_of(names: Sequence[str]) -> Capability:
    """The kernel's mask of these capabilities."""
    return Capability(sum(1 << NAMES.index(name) for name in set(names)))


@lru_cache(maxsize=256)
def granted(
    add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool, last_cap: int
) -> tuple[str, ...]:
    """Names a machine has, in the kernel's order. ``ALL`` first, then single names, as in Docker.

    A capability this kernel does not know is left out of ``ALL`` and refused by name.
    """
    known = NAMES[: last_cap + 1]
    for option, wanted in (("--cap-add", add), ("--cap-drop", drop)):
        for name in wanted:
            if name != "ALL" and name not in known:
                raise UsageError(
                    f'cannot set capabilities: there is no capability "{name}" here',
                    origin=f"{option} {name}",
                    host=f"the kernel knows {len(known)} capabilities, up to {known[-1]}",
                )
    if privileged or "ALL" in add:
        return tuple(name for name in known if name not in drop)
    start = () if "ALL" in drop else DEFAULT
    return tuple(n for n in known if n in add or (n in start and n not in drop))


@lru_cache(maxsize=256)
def reason(add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool) -> str:
    """The ``why`` of the ops that set capabilities."""
    if privileged:
        return "--privileged: every capability"
    asked = [f"--cap-add {name}" for name in add] + [f"--cap-drop {name}" for name in drop]
    if asked:
        return " ".join(asked)
    return "default: Docker's capabilities less MKNOD and AUDIT_WRITE"
