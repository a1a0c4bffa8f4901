"""The few decisions that a whole plan hangs on, taken once from spec and facts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cove.planner.capabilities as capabilities
from cove.errors import HostError, Unsupported
from cove.plan.facts import Facts
from cove.plan.flags import Capability, CloneFlags
from cove.spec.machine import MachineSpec, Security
from cove.spec.network import machine_of

OLDEST_KERNEL = (6, 1)

_EARLY = CloneFlags.CLONE_NEWNS | CloneFlags.CLONE_NEWPID | CloneFlags.CLONE_NEWUTS
_LATE = CloneFlags.CLONE_NEWIPC | CloneFlags.CLONE_NEWCGROUP


@dataclass(frozen=True, slots=True, eq=False)
class Walls:
    """What separates a machine from the host. One object for equal specs, so it is a quick key."""

    userns: bool
    """Root inside is nobody outside."""
    own_network: bool
    """Not the host's."""
    joined: bool
    """Another machine's: its network namespace, and its user namespace with it."""
    capabilities: tuple[str, ...]
    mask: Capability
    capabilities_why: str
    no_new_privileges: bool
    masked: bool
    """Paths of /proc and /sys are masked or read-only."""
    filtered: bool
    """A seccomp filter is installed."""
    privileged: bool
    host_why: str
    """Why there is no user namespace, where there is none."""

    namespaces: CloneFlags
    """Of the clone itself."""
    late_namespaces: CloneFlags
    """Unshared by the child after its ids are mapped, so that its root owns them."""


def walls_of(spec: MachineSpec, facts: Facts) -> Walls:
    """The walls this spec asks for; refuses by name what this host cannot build."""
    _refuse(spec, facts)
    return _walls(spec.security, spec.network, facts.last_cap, facts.root, facts.guest)


@lru_cache(maxsize=256)
def _walls(security: Security, network: str, last_cap: int, root: bool, guest: bool) -> Walls:
    privileged, joined = security.privileged, bool(machine_of(network))
    names = capabilities.granted(
        security.cap_add, security.cap_drop, privileged=privileged, last_cap=last_cap
    )
    userns = security.userns == "machine" and not privileged and not guest
    if not userns and not root:
        raise Unsupported(
            "cannot run without a user namespace: the daemon is not root",
            origin="--privileged" if privileged else "--userns=host",
        )
    return Walls(
        userns=userns,
        own_network=network != "host",
        joined=joined,
        capabilities=names,
        mask=capabilities.mask_of(names),
        capabilities_why=capabilities.reason(
            security.cap_add, security.cap_drop, privileged=privileged
        ),
        no_new_privileges=security.no_new_privileges and not privileged,
        masked=security.masked and not privileged,
        filtered=_filtered(security),
        privileged=privileged,
        host_why=_host_why(privileged=privileged, guest=guest),
        namespaces=_EARLY | CloneFlags.CLONE_NEWUSER if userns and not joined else _EARLY,
        late_namespaces=_LATE if joined or network == "host" else _LATE | CloneFlags.CLONE_NEWNET,
    )


def _host_why(*, privileged: bool, guest: bool) -> str:
    if privileged:
        return "--privileged"
    return "--isolation vm" if guest else "--userns=host"


def _filtered(security: Security) -> bool:
    """A profile of the user's own holds even with ``--privileged``, as in Docker."""
    return security.seccomp not in (
        ("unconfined", "default") if security.privileged else ("unconfined",)
    )


def _refuse(spec: MachineSpec, facts: Facts) -> None:
    if facts.kernel < OLDEST_KERNEL:
        have = ".".join(str(part) for part in facts.kernel)
        raise HostError(
            "cannot run a container: this kernel is too old",
            host=f"Linux {have}; cove needs 6.1 or newer",
        )
    userns = spec.security.userns == "machine" and not spec.security.privileged and not facts.guest
    if not facts.idmapped_mounts and facts.root and userns:
        raise HostError(
            "cannot run a container: the state directory's file system takes no idmapped mount",
            host="mount_setattr(2) with MOUNT_ATTR_IDMAP is refused there",
            hint="keep the state directory on ext4, xfs or btrfs: --root DIR",
        )
    if not facts.userns_max and userns:
        raise HostError(
            "cannot run a container: user namespaces are switched off",
            host="user.max_user_namespaces is 0",
            hint="sysctl user.max_user_namespaces=65536",
        )
    if not facts.seccomp and _filtered(spec.security):
        raise HostError(
            "cannot run a container: this kernel has no seccomp filter",
            host="CONFIG_SECCOMP_FILTER is off",
            hint="--security-opt seccomp=unconfined runs without one",
        )
    if spec.isolation != "container" and not facts.guest:
        raise Unsupported(
            f"cannot run with --isolation {spec.isolation}: only container is there yet"
        )
