"""What this host can do: probed once by ``cove.linux.probe``, an argument of the planner."""

from __future__ import annotations

import msgspec


class Facts(msgspec.Struct, frozen=True):
    """A host. Recorded ones live in ``tests/facts``."""

    kernel: tuple[int, int]
    arch: str
    """As ``uname -m``."""
    root: bool
    """The daemon is uid 0 with CAP_SYS_ADMIN in the initial user namespace."""
    cgroup: str
    """``v1``, ``hybrid`` or ``v2``."""
    controllers: dict[str, str]
    """Controller name to the path of its hierarchy (v1, hybrid); for v2 all name the one mount."""
    unified: str
    """Path of the cgroup2 mount point; empty on pure v1."""
    idmapped_mounts: bool
    userns_max: int
    """user.max_user_namespaces."""
    last_cap: int
    hard_limits: dict[str, int]
    """rlimit name to the daemon's own hard limit; -1: unlimited."""
    cpus: int
    memory: int
    """Bytes."""
    swap: bool
    """Swap is limited by cgroups."""
    seccomp: bool
    audit: bool
    """Refused system calls can be read from the audit multicast group."""
    lsm: tuple[str, ...] = ()
    devices: tuple[tuple[str, int, int], ...] = ()
    binfmt: bool = False
    """A user namespace may have handlers of its own for programs of other CPUs."""
    tsc_khz: int = 0
    """Of the time stamp counter, as an emulated x86 guest reads it; 0: unknown. This and what
    follows is asked for with the first virtual machine: ``cove.linux.virtual``."""
    qemu: dict[str, tuple[int, ...]] = {}
    """Versions of QEMU by the CPU of its guests, as far as somebody has asked: those that are
    installed."""
    kvm: bool = False
    """A guest of this host's own CPU was booted under KVM here, and came to its end."""
    guest: bool = False
    """Of a guest of cove's own: its kernel is the wall, so a machine in it has no ids of its own.
    """
